#include <bitrain/dist/gradient_buckets.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <bitrain/base/error.h>
#include <bitrain/dist/thread_ranks.h>

#include "support/gradcheck.h"

namespace bitrain::dist {
namespace {

using bitrain::testing::random_tensor;
using ::testing::HasSubstr;

constexpr std::int64_t kWidth = 6;

/// Layers of weights of different sizes, with one that is never used and one that only some rows use.
struct Net {
  explicit Net(at::ScalarType dtype) {
    for (const std::int64_t size : {7, 5, 6, 3}) {
      add("layer " + std::to_string(size), {size, kWidth}, dtype);
      add("back " + std::to_string(size), {kWidth, size}, dtype);
    }
    add("unused", {4}, dtype);
    add("sometimes", {kWidth}, dtype);
  }

  void add(const std::string& name, const std::vector<std::int64_t>& shape, at::ScalarType dtype) {
    names.push_back(name);
    parameters.push_back(random_tensor(shape, parameters.size() + 1, at::kFloat).to(dtype).requires_grad_());
  }

  /// A sum over rows.
  [[nodiscard]] at::Tensor loss(const at::Tensor& rows, bool sometimes) const {
    at::Tensor x = rows.to(parameters.front().scalar_type());
    for (std::size_t i = 0; i + 2 < parameters.size(); i += 2)
      x = x + at::linear(at::tanh(at::linear(x, parameters[i])), parameters[i + 1]);
    if (sometimes) x = x * parameters.back();
    return x.to(at::kFloat).pow(2).sum();
  }

  std::vector<std::string> names;
  std::vector<at::Tensor> parameters;
};

/// Eight rows; the last two use the parameter "sometimes".
at::Tensor rows_of(std::int64_t begin, std::int64_t end) {
  return random_tensor({8, kWidth}, 99, at::kFloat).narrow(0, begin, end - begin);
}

std::vector<at::Tensor> alone(at::ScalarType dtype) {
  const Net net(dtype);
  (net.loss(rows_of(0, 6), false) + net.loss(rows_of(6, 8), true)).backward();
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& parameter : net.parameters) gradients.push_back(parameter.grad());
  return gradients;
}

/// What rank `rank` of `ranks` does of a step: two micro-batches, the second perhaps empty.
void run_step(const Net& net, GradientBuckets& buckets, std::int64_t rank, std::int64_t ranks) {
  const std::int64_t begin = 8 * rank / ranks;
  const std::int64_t end = 8 * (rank + 1) / ranks;
  const std::int64_t middle = std::min(begin + 2, end);
  buckets.begin();
  for (const auto& [from, to, last] : {std::tuple{begin, middle, false}, std::tuple{middle, end, true}}) {
    buckets.before_backward(last);
    // As many backward passes as it has rows of either kind: a parameter is used once in each.
    if (from < to) {
      const std::int64_t cut = std::clamp<std::int64_t>(6, from, to);
      at::Tensor sum;
      if (from < cut) sum = net.loss(rows_of(from, cut), false);
      if (cut < to)
        sum = sum.defined() ? sum + net.loss(rows_of(cut, to), true) : net.loss(rows_of(cut, to), true);
      sum.backward();
    }
    buckets.after_backward();
  }
}

struct Case {
  bool shard;
  bool shard_gradients;
  at::ScalarType dtype = at::kDouble;
  bool reduce_narrow = false;
};

class BucketModes : public ::testing::TestWithParam<Case> {};

TEST_P(BucketModes, HoldTheGradientsOfOneRank) {
  const Case& how = GetParam();
  const std::vector<at::Tensor> expected = alone(how.dtype);
  const double tolerance = how.dtype == at::kDouble ? 1e-12 : 0.02;
  for (const std::int64_t ranks : {2, 3, 4}) {
    SCOPED_TRACE(ranks);
    run_ranks(ranks, [&](Communicator& world) {
      const Net net(how.dtype);
      BucketOptions options;
      options.bucket_bytes = 300;  // Several, some of one parameter.
      options.shard = how.shard;
      options.shard_gradients = how.shard_gradients;
      options.reduce_narrow = how.reduce_narrow;
      const std::shared_ptr<Communicator> group(&world, [](Communicator*) {});
      GradientBuckets buckets(net.parameters, net.names, group, options);
      for (int step = 0; step < 3; ++step) {
        run_step(net, buckets, world.rank(), ranks);
        const std::vector<bool> seen = buckets.finish();
        EXPECT_TRUE(seen.front());
        EXPECT_FALSE(seen[seen.size() - 2]) << "never used";
        EXPECT_EQ(seen.back(), world.rank() == ranks - 1) << "used by the last rows alone";
        const auto check = [&](const at::Tensor& got, const at::Tensor& wanted, const std::string& name) {
          const at::Tensor difference = (got.to(at::kDouble) - wanted.to(at::kDouble)).abs();
          EXPECT_LE(difference.max().item<double>(), tolerance * (1 + wanted.abs().max().item<double>()))
              << name;
        };
        if (!how.shard) {
          for (std::size_t i = 0; i < net.parameters.size(); ++i)
            check(buckets.gradient(i),
                  expected[i].defined() ? expected[i] : at::zeros_like(net.parameters[i]), net.names[i]);
          continue;
        }
        for (std::size_t s = 0; s < buckets.slices().size(); ++s) {
          const Slice& slice = buckets.slices()[s];
          const at::Tensor whole = expected[slice.parameter].defined()
                                       ? expected[slice.parameter].view(-1)
                                       : at::zeros({net.parameters[slice.parameter].numel()});
          check(buckets.gradient(s), whole.narrow(0, slice.begin, slice.end - slice.begin),
                net.names[slice.parameter]);
        }
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, BucketModes,
                         ::testing::Values(Case{false, false}, Case{true, false}, Case{true, true},
                                           Case{false, false, at::kBFloat16}, Case{true, true, at::kBFloat16},
                                           Case{false, false, at::kBFloat16, true},
                                           Case{true, false, at::kBFloat16, true}));

TEST(Buckets, SlicesCoverEveryElementOnce) {
  for (const std::int64_t ranks : {2, 3, 5}) {
    const Net net(at::kFloat);
    std::vector<at::Tensor> owners;
    for (const at::Tensor& parameter : net.parameters) owners.push_back(at::zeros({parameter.numel()}));
    std::mutex mutex;
    run_ranks(ranks, [&](Communicator& world) {
      const Net own(at::kFloat);
      BucketOptions options;
      options.bucket_bytes = 200;
      options.shard = true;
      GradientBuckets buckets(own.parameters, own.names, {&world, [](Communicator*) {}}, options);
      for (std::size_t i = 0; i < own.parameters.size(); ++i)
        EXPECT_TRUE(at::equal(own.parameters[i], net.parameters[i])) << "taking over changes nothing";
      {
        const std::lock_guard lock(mutex);
        for (const Slice& slice : buckets.slices())
          owners[slice.parameter].narrow(0, slice.begin, slice.end - slice.begin).add_(1);
      }
      // Each rank writes its number into what it owns.
      for (const Slice& slice : buckets.slices()) {
        const at::NoGradGuard no_grad;
        own.parameters[slice.parameter]
            .view(-1)
            .narrow(0, slice.begin, slice.end - slice.begin)
            .fill_(static_cast<double>(world.rank() + 1));
      }
      buckets.gather_parameters();
      for (const at::Tensor& parameter : own.parameters)
        EXPECT_GT(parameter.min().item<double>(), 0.5) << "somebody wrote every element";
    });
    for (const at::Tensor& owner : owners) EXPECT_TRUE(at::equal(owner, at::ones_like(owner)));
  }
}

TEST(Buckets, MoveAsManyBytesAsComputed) {
  constexpr std::int64_t kRanks = 4;
  const auto traffic = [&](bool shard, bool shard_gradients, at::ScalarType dtype, bool narrow) {
    std::map<std::string, Traffic> result;
    run_ranks(kRanks, [&](Communicator& world) {
      const Net net(dtype);
      BucketOptions options;
      options.shard = shard;
      options.shard_gradients = shard_gradients;
      options.reduce_narrow = narrow;
      GradientBuckets buckets(net.parameters, net.names, {&world, [](Communicator*) {}}, options);
      run_step(net, buckets, world.rank(), kRanks);
      (void)buckets.finish();
      if (shard) buckets.gather_parameters();
      if (world.rank() == 0) result = world.traffic();
    });
    return result;
  };
  // 64 bytes are 16 numbers in float32 and 32 in bfloat16.
  const auto numel_in = [](at::ScalarType dtype) {
    std::vector<at::Tensor> parameters = Net(dtype).parameters;
    std::reverse(parameters.begin(), parameters.end());
    return lay_out(parameters, kRanks).numel;
  };
  const std::int64_t numel = numel_in(at::kFloat);
  const std::int64_t narrow = numel_in(at::kBFloat16);
  EXPECT_GE(numel, 260);
  EXPECT_LT(numel, 260 + 10 * 16);
  const auto none = traffic(false, false, at::kFloat, false);
  EXPECT_EQ(none.at("all_reduce").bytes, 4 * numel);
  EXPECT_EQ(none.at("all_reduce").calls, 1) << "micro-batches before the last send nothing";
  EXPECT_EQ(none.count("all_gather"), 0U);
  EXPECT_EQ(traffic(false, false, at::kBFloat16, false).at("all_reduce").bytes, 4 * narrow);
  EXPECT_EQ(traffic(false, false, at::kBFloat16, true).at("all_reduce").bytes, 2 * narrow);
  const auto optimizer = traffic(true, false, at::kFloat, false);
  EXPECT_EQ(optimizer.at("reduce_scatter").bytes, 4 * numel);
  EXPECT_EQ(optimizer.at("all_gather").bytes, 4 * numel);
  EXPECT_EQ(optimizer.count("all_reduce"), 0U);
  const auto gradients = traffic(true, true, at::kFloat, false);
  EXPECT_EQ(gradients.at("reduce_scatter").bytes, 2 * 4 * numel) << "once a micro-batch";
}

TEST(Buckets, LeaveBigGradientsWhereTheyAre) {
  std::map<std::uint64_t, at::Tensor> drawn;  // Once: that takes longer than all the rest.
  for (const std::uint64_t seed : {1, 2, 3, 10, 11})
    drawn[seed] = random_tensor({2048, 1024}, seed, at::kFloat);
  for (const bool shard : {false, true}) {
    SCOPED_TRACE(shard);
    run_ranks(2, [&](Communicator& world) {
      const auto big = [&](std::uint64_t seed) { return drawn.at(seed).clone(); };
      std::vector<at::Tensor> parameters;
      for (const std::uint64_t seed : {1, 2, 3}) parameters.push_back(big(seed).requires_grad_());
      BucketOptions options;
      options.shard = shard;
      GradientBuckets buckets(parameters, {"a", "b", "c"}, {&world, [](Communicator*) {}}, options);
      const at::Tensor x = big(10 + static_cast<std::uint64_t>(world.rank()));
      const auto backward = [&] {
        // The gradient of a is made for it; those of b and c are one tensor.
        const at::Tensor sum = parameters[0] * x + parameters[0].pow(2);
        (sum + (parameters[1].view(-1) + parameters[2].view(-1)).view({2048, 1024}) * x).sum().backward();
      };
      const void* made = nullptr;
      parameters[0].register_hook([&](const at::Tensor& gradient) {
        if (made == nullptr) made = gradient.const_data_ptr();
      });
      for (int step = 0; step < 2; ++step) {
        made = nullptr;
        buckets.begin();
        for (const bool last : {false, true}) {
          buckets.before_backward(last);
          backward();
        }
        (void)buckets.finish();
        const at::Tensor sum = big(10) + big(11);
        const std::vector<at::Tensor> expected = {2 * sum + 8 * parameters[0].detach(), 2 * sum, 2 * sum};
        for (std::size_t i = 0; i < 3; ++i) {
          at::Tensor wanted = expected[i];
          if (shard) {
            const Slice& slice = buckets.slices()[i];
            wanted = expected[slice.parameter].view(-1).narrow(0, slice.begin, slice.end - slice.begin);
          }
          EXPECT_LT((buckets.gradient(i) - wanted).abs().max().item<double>(), 1e-5) << i;
        }
        EXPECT_TRUE(shard || buckets.gradient(0).const_data_ptr() == made) << "not copied";
      }
    });
  }
}

TEST(Buckets, HoldLessGradientsWhenShared) {
  const auto held = [](bool shard, bool shard_gradients) {
    std::int64_t bytes = 0;
    run_ranks(4, [&](Communicator& world) {
      const Net net(at::kFloat);
      BucketOptions options;
      options.bucket_bytes = 200;
      options.shard = shard;
      options.shard_gradients = shard_gradients;
      GradientBuckets buckets(net.parameters, net.names, {&world, [](Communicator*) {}}, options);
      run_step(net, buckets, world.rank(), 4);
      (void)buckets.finish();
      if (world.rank() == 0) bytes = buckets.gradient_bytes();
    });
    return bytes;
  };
  EXPECT_LE(4 * held(true, true), held(false, false) + 64);
  EXPECT_GT(held(true, false), held(false, false));
}

TEST(Buckets, AGradientAfterItsBucketLeftIsAnError) {
  try {
    run_ranks(2, [](Communicator& world) {
      const Net net(at::kFloat);
      GradientBuckets buckets(net.parameters, net.names, {&world, [](Communicator*) {}}, {});
      buckets.begin();
      buckets.before_backward(true);
      net.loss(rows_of(0, 8), true).backward();
      (void)buckets.finish();
      net.loss(rows_of(0, 8), true).backward();
    });
    FAIL();
  } catch (const StateError& error) {
    EXPECT_THAT(error.what(), HasSubstr("came after its bucket had left"));
  }
}

TEST(Buckets, GiveTheGradientsBack) {
  const Net net(at::kFloat);
  run_ranks(2, [](Communicator& world) {
    const Net own(at::kFloat);
    {
      GradientBuckets buckets(own.parameters, own.names, {&world, [](Communicator*) {}}, {});
    }
    own.loss(rows_of(0, 8), true).backward();
    EXPECT_TRUE(own.parameters.front().grad().defined());
  });
}

}  // namespace
}  // namespace bitrain::dist
