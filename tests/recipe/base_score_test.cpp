#include <bitrain/recipe/base_score.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <fstream>
#include <mutex>
#include <thread>

#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/log.h>
#include <bitrain/dist/thread_ranks.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/run.h>

#include "support/temporary_directory.h"
#include "support/tiny_recipe.h"

/// The model that a run starts from is scored before a stage changes it, once.
namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kPretrained =
    R"(  tok: {recipe: tokenizer, tokenizer: {vocab_size: 320, exact_vocab_size: false}}
  first:
    recipe: pretrain
    model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}
    data: {loader: {sequence_length: 64, rows_per_step: 2}}
    train: {max_steps: 2}
)";
constexpr const char* kAdapt = R"(  adapt:
    recipe: cpt
    from: base
    quantize: {enabled: false}
    lora: {r: 2, target_modules: [q_proj]}
    data: {loader: {sequence_length: 64, rows_per_step: 4}}
    train: {max_steps: 3, eval_every: 1, save_every: 1, schedule: {type: constant}}
)";

class BaseScore : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<test::TemporaryDirectory>();
    test::write_pairs(path("pairs.tsv"));
    write("base.yaml", kPretrained);
    (void)run(load_recipe(path("base.yaml"), {"dir=" + path("made").string()}));
    fs::copy(path("made/first"), path("base"), fs::copy_options::recursive);
    write("adapt.yaml", kAdapt);
  }
  static void TearDownTestSuite() { folder_.reset(); }

  void SetUp() override {
    before_ = set_log_sink([this](LogLevel level, const std::string& text) {
      const std::lock_guard lock(mutex_);
      log_.push_back((level == LogLevel::kWarn ? "warning: " : "") + text);
    });
  }
  void TearDown() override { set_log_sink(before_); }

  static fs::path path(const std::string& name) { return folder_->path() / name; }
  static void write(const std::string& name, const std::string& stages) {
    std::ofstream(path(name)) << test::tiny_recipe("float32") << stages;
  }
  [[nodiscard]] static fs::path dir() {
    return path(::testing::UnitTest::GetInstance()->current_test_info()->name());
  }
  static Recipe recipe(const std::string& file, std::vector<std::string> overrides = {},
                       const std::string& base = "base") {
    overrides.insert(overrides.begin(), "dir=" + dir().string());
    if (!base.empty()) overrides.push_back("base=" + path(base).string());
    return load_recipe(path(file), overrides);
  }
  static io::Json stages_of(const std::string& file, const std::vector<std::string>& overrides = {},
                            const std::string& base = "base") {
    return run(recipe(file, overrides, base)).summary["stages"];
  }
  [[nodiscard]] std::ptrdiff_t lines_with(const std::string& words) {
    const std::lock_guard lock(mutex_);
    return std::count_if(log_.begin(), log_.end(),
                         [&](const std::string& line) { return line.find(words) != std::string::npos; });
  }
  /// Runs adapt.yaml until its first checkpoint, then sends SIGINT.
  static void interrupt_adapt() {
    const fs::path work = dir() / "adapt.work";
    std::atomic<bool> over = false;
    std::thread watcher([&] {
      while (!fs::exists(work / "checkpoint-1" / "manifest.json") && !over)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      if (!over) ::kill(::getpid(), SIGINT);
    });
    const RunResult result =
        run(recipe("adapt.yaml", {"stages.adapt.train.max_steps=100000", "stages.adapt.train.eval_every=0",
                                  "stages.adapt.train.keep_last=100000"}));
    over = true;
    watcher.join();
    ASSERT_EQ(result.signal, SIGINT);
    ASSERT_TRUE(fs::exists(work / "before.json"));
  }
  /// Ends it one step after the newest checkpoint.
  static io::Json finish_adapt(const std::string& base = "base") {
    std::int64_t newest = 0;
    for (const auto& entry : fs::directory_iterator(dir() / "adapt.work"))
      if (const std::string name = entry.path().filename().string(); name.rfind("checkpoint-", 0) == 0)
        newest = std::max<std::int64_t>(newest, std::stoll(name.substr(11)));
    return stages_of("adapt.yaml", {"stages.adapt.train.max_steps=" + std::to_string(newest + 1)},
                     base)["adapt"];
  }

  static std::unique_ptr<test::TemporaryDirectory> folder_;
  std::mutex mutex_;
  std::vector<std::string> log_;
  LogSink before_;
};
std::unique_ptr<test::TemporaryDirectory> BaseScore::folder_;

TEST_F(BaseScore, AStageAloneIsComparedWithWhatItStartsFrom) {
  const io::Json adapt = stages_of("adapt.yaml", {"stages.adapt.train.eval_at_start=true"})["adapt"];
  EXPECT_EQ(adapt["base"]["model"], "base");
  EXPECT_EQ(adapt["base"]["weights"], "float32");
  ASSERT_EQ(adapt["evaluations"].size(), 4U);
  write("score.yaml", "  score: {recipe: evaluate, from: base}\n");
  const io::Json scored = run(load_recipe(path("score.yaml"), {"base=" + path("base").string(),
                                                               "dir=" + path("scored").string()}))
                              .summary["stages"]["score"]["languages"];
  for (const char* language : {"en", "es"}) {
    const double bits = adapt["base"]["languages"][language]["bits_per_byte"].get<double>();
    EXPECT_NEAR(bits, scored[language]["bits_per_byte"].get<double>(), 1e-6);
    EXPECT_EQ(adapt["evaluations"][0]["languages"][language]["bits_per_byte"], bits);
    EXPECT_NE(adapt["evaluations"][3]["languages"][language]["bits_per_byte"], bits);
  }
  EXPECT_EQ(lines_with("adapt: base before training: en "), 1);
  EXPECT_THAT(io::read_file(dir() / "report.html"), HasSubstr("<td>base</td>"));
  // Again: the stage is finished, and the report still has the base.
  EXPECT_EQ(stages_of("adapt.yaml", {"stages.adapt.train.eval_at_start=true"})["adapt"], adapt);
  EXPECT_EQ(lines_with("adapt: base before training"), 1);
}

TEST_F(BaseScore, OnlyTheFirstStageThatChangesItScoresIt) {
  const auto scoring = [&](const std::string& stages, const std::string& base) {
    write("which.yaml", stages);
    const Recipe read = recipe("which.yaml", {}, base);
    const Stage* stage = stage_that_scores_the_base(read);
    return stage == nullptr ? std::string("none") : stage->name;
  };
  const std::string extend = "  extend: {recipe: extend_vocab, from: base, vocab: {pieces: 10}}\n";
  const std::string score = "  score: {recipe: evaluate, from: base}\n";
  EXPECT_EQ(scoring(kAdapt, "base"), "adapt");
  EXPECT_EQ(scoring(extend + kAdapt, "base"), "extend");
  EXPECT_EQ(scoring(score + kAdapt, "base"), "none");
  EXPECT_EQ(scoring(kAdapt + score, "base"), "adapt");
  // Scored on other terms: windows of another length.
  EXPECT_EQ(scoring("  score: {recipe: evaluate, from: base, perplexity: {sequence_length: 64}}\n" +
                        std::string(kAdapt),
                    "base"),
            "adapt");
  EXPECT_EQ(scoring(score, "base"), "none");
  // From random weights: what pretraining ends with is scored by itself, unless that is turned off.
  std::string from_first = kAdapt;
  from_first.replace(from_first.find("from: base"), 10, "from: first");
  EXPECT_EQ(scoring(kPretrained + from_first, ""), "none");
  std::string unscored = kPretrained;
  unscored.replace(unscored.find("max_steps: 2"), 12, "max_steps: 2, eval_at_end: false");
  EXPECT_EQ(scoring(unscored + from_first, ""), "adapt");
  const io::Json stages = stages_of("which.yaml", {}, "");
  EXPECT_EQ(stages["adapt"]["base"]["model"], "first");
  EXPECT_EQ(lines_with("first: begins with random weights, so there is no base to score"), 1);
}

TEST_F(BaseScore, AnExtensionIsComparedWithTheModelBeforeIt) {
  write("extend.yaml",
        "  extend: {recipe: extend_vocab, from: base, vocab: {pieces: 10}, compare_initialisers: false}\n");
  const io::Json extend = stages_of("extend.yaml")["extend"];
  EXPECT_GT(extend["base"]["languages"]["es"]["bits_per_byte"].get<double>(), 0);
  const io::Json& fertility = extend["fertility"];
  for (const char* language : {"en", "es"})
    for (const char* side : {"before", "after"})
      EXPECT_TRUE(fertility[language][side]["byte_pieces"].is_number()) << language << side;
  // The tokenizer was learned on English: "ú" is two bytes to it, and a piece afterwards.
  EXPECT_GT(fertility["es"]["before"]["byte_pieces"].get<double>(), 0);
  EXPECT_EQ(fertility["es"]["after"]["byte_pieces"].get<double>(), 0);
  EXPECT_EQ(lines_with("of the pieces are bytes"), 2);
}

TEST_F(BaseScore, ARunThatGoesOnKeepsTheScore) {
  interrupt_adapt();
  const fs::path file = dir() / "adapt.work" / "before.json";
  io::Json kept = io::read_json(file);
  kept["base"]["es"]["bits_per_byte"] = 1.25;  // Not what scoring it would give.
  io::write_json(file, kept);
  EXPECT_EQ(finish_adapt()["base"]["languages"]["es"]["bits_per_byte"], 1.25);
}

TEST_F(BaseScore, FiguresThatCannotBeReadAreTakenAgain) {
  const Recipe read = recipe("adapt.yaml");
  const StageContext context{read, read.stages.front(), path("unused"), path("figures")};
  fs::create_directories(context.work);
  const fs::path file = context.work / "before.json";
  int made = 0;
  const auto figures = [&](const std::string& name) {
    return figures_before(context, name, [&] { return io::Json{{"es", ++made}}; });
  };
  EXPECT_EQ(figures("base")["es"], 1);
  EXPECT_EQ(figures("base")["es"], 1);
  EXPECT_EQ(figures("responses")["es"], 2);
  EXPECT_EQ(figures("base")["es"], 1);
  for (const char* damaged : {"{\"base\": ", "[3]", "\xff", ""}) {
    std::ofstream(file) << damaged;
    const int before = made;
    EXPECT_EQ(figures("base")["es"], before + 1) << damaged;
    EXPECT_EQ(figures("base")["es"], before + 1) << damaged;
  }
  EXPECT_EQ(lines_with("before.json: cannot be read; its figures are taken again"), 4);
}

TEST_F(BaseScore, AnotherBaseIsScoredAnew) {
  interrupt_adapt();
  const fs::path work = dir() / "adapt.work";
  io::Json kept = io::read_json(work / "before.json");
  kept["base"]["es"]["bits_per_byte"] = 1.25;
  io::write_json(work / "before.json", kept);
  for (const auto& entry : fs::directory_iterator(work))  // Killed before the first checkpoint.
    if (entry.path().filename().string().rfind("checkpoint-", 0) == 0) fs::remove_all(entry.path());
  fs::copy(path("base"), path("other"), fs::copy_options::recursive);
  {
    const at::NoGradGuard no_grad;
    const hub::OpenedModel opened = hub::open_model(path("other"));
    opened.model->output_head().weight.mul_(1.5);
    hub::save_model(path("changed"), *opened.model, opened.tokenizer.get());
  }
  const io::Json stages = stages_of("adapt.yaml", {}, "changed");
  EXPECT_NE(stages["adapt"]["base"]["languages"]["es"]["bits_per_byte"], 1.25);
}

TEST_F(BaseScore, RanksScoreItTogether) {
  const io::Json one = stages_of("adapt.yaml")["adapt"]["base"];
  for (const char* shard : {"none", "parameters"}) {
    io::Json two;
    dist::run_ranks(2, [&](dist::Communicator& world) {
      const RunResult result = run(recipe("adapt.yaml", {"dir=" + path(std::string("two-") + shard).string(),
                                                         std::string("parallel.shard=") + shard}),
                                   {&world, [](dist::Communicator*) {}});
      if (world.rank() == 0) two = result.summary["stages"]["adapt"]["base"];
    });
    for (const char* language : {"en", "es"})
      EXPECT_NEAR(two["languages"][language]["bits_per_byte"].get<double>(),
                  one["languages"][language]["bits_per_byte"].get<double>(), 1e-6)
          << shard;
  }
}

TEST_F(BaseScore, AModelThatIsWorseThanNoneIsWarnedOfOnce) {
  {
    const at::NoGradGuard no_grad;
    const hub::OpenedModel opened = hub::open_model(path("base"));
    opened.model->output_head().weight.mul_(1000.0);  // As sure as it is wrong.
    hub::save_model(path("wrong"), *opened.model, opened.tokenizer.get());
  }
  (void)stages_of("adapt.yaml", {}, "wrong");  // Three evaluations come after.
  EXPECT_EQ(lines_with("worse than no model"), 2);
  EXPECT_THAT(log_, Contains(AllOf(HasSubstr("warning: stage adapt, before training"), HasSubstr("'es'"),
                                   HasSubstr("the tokenizer belongs to the weights"))));
  log_.clear();
  (void)run(recipe("adapt.yaml", {"dir=" + path("right").string()}));
  EXPECT_THAT(log_, Not(Contains(HasSubstr("worse than no model"))));
}

}  // namespace
}  // namespace bitrain::recipe
