#pragma once

#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <bitrain/dist/thread_ranks.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/run.h>

namespace bitrain::recipe {

/// Runs a recipe on one rank and on three, as threads, that hold all weights or their shares of them, and
/// compares what its stages that train have learnt.
inline void expect_same_on_three_ranks(const std::filesystem::path& recipe,
                                       const std::vector<std::string>& overrides,
                                       const std::filesystem::path& folder,
                                       const std::vector<std::string>& stages) {
  const auto in = [&](const std::string& name, const char* shard) {
    std::vector<std::string> all = overrides;
    all.push_back("dir=" + (folder / name).string());
    all.push_back(std::string("parallel.shard=") + shard);
    return load_recipe(recipe, all);
  };
  const io::Json one = run(in("one", "none")).summary["stages"];
  std::map<std::string, io::Json> on_three;
  for (const char* shard : {"none", "parameters"})
    dist::run_ranks(3, [&](dist::Communicator& world) {
      const RunResult result =
          run(in(std::string("three-") + shard, shard), {&world, [](dist::Communicator*) {}});
      if (world.rank() == 0) on_three[shard] = result.summary["stages"];
    });
  for (auto& [shard, three] : on_three)
    for (const std::string& stage : stages) {
      SCOPED_TRACE(stage + ", shared: " + shard);
      EXPECT_EQ(three[stage]["ranks"], 3);
      const auto expected = one[stage]["curve"]["loss"].get<std::vector<double>>();
      const auto losses = three[stage]["curve"]["loss"].get<std::vector<double>>();
      ASSERT_EQ(losses.size(), expected.size());
      for (std::size_t i = 0; i < losses.size(); ++i)
        EXPECT_NEAR(losses[i], expected[i], 1e-4 * (1 + std::abs(expected[i]))) << i;
      EXPECT_EQ(three[stage]["tokens"], one[stage]["tokens"]);
      EXPECT_EQ(three[stage]["supervised_tokens"], one[stage]["supervised_tokens"]);
      EXPECT_EQ(three[stage]["shares"], one[stage]["shares"]);
    }
}

}  // namespace bitrain::recipe
