#include <bitrain/losses/grouped_info_nce.h>

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/zeros_like.h>

#include <bitrain/base/error.h>
#include <bitrain/dist/gather_rows.h>
#include <bitrain/dist/thread_ranks.h>

#include "support/gradcheck.h"

namespace bitrain::losses {
namespace {

using bitrain::testing::random_tensor;
using dist::Communicator;
using dist::run_ranks;

constexpr std::int64_t kRanks = 4;
constexpr std::int64_t kRows = 3;  ///< Pairs of a rank.
constexpr std::int64_t kDim = 5;

/// The features of all ranks' pairs, and hard negatives, one a pair.
struct Features {
  at::Tensor queries = random_tensor({kRanks * kRows, kDim}, 1, at::kDouble).requires_grad_();
  at::Tensor positives = random_tensor({kRanks * kRows, kDim}, 2, at::kDouble).requires_grad_();
  at::Tensor negatives = random_tensor({kRanks * kRows, kDim}, 3, at::kDouble).requires_grad_();

  /// Leaves of their own with the rows of one rank.
  [[nodiscard]] Features of(std::int64_t rank) const {
    const auto part = [&](const at::Tensor& all) {
      return all.detach().narrow(0, rank * kRows, kRows).clone().requires_grad_();
    };
    return {part(queries), part(positives), part(negatives)};
  }
};

void expect_near(const at::Tensor& a, const at::Tensor& b, double tolerance = 1e-10) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_LT((a - b).abs().max().item<double>(), tolerance);
}

/// Adds what each rank has to one place; ranks come one after the other.
class Total {
 public:
  void add(double value, Communicator& rank) {
    for (std::int64_t r = 0; r < rank.size(); ++r) {
      if (r == rank.rank()) value_ += value;
      rank.barrier();
    }
  }
  [[nodiscard]] double value() const { return value_; }

 private:
  double value_ = 0;
};

TEST(GroupedInfoNce, OfAllRanksIsTheLossOfOneProcess) {
  for (const bool symmetric : {false, true}) {
    for (const bool hard : {false, true}) {
      const Features whole;
      Communicator alone;
      const ContrastiveLoss expected = grouped_info_nce(
          whole.queries, whole.positives, hard ? whole.negatives : at::Tensor(), symmetric, {}, alone);
      expected.sum.backward();
      Total total;
      run_ranks(kRanks, [&](Communicator& rank) {
        const Features own = whole.of(rank.rank());
        const ContrastiveLoss loss = grouped_info_nce(
            own.queries, own.positives, hard ? own.negatives : at::Tensor(), symmetric, {}, rank);
        EXPECT_EQ(loss.count, kRows);
        total.add(loss.sum.item<double>(), rank);
        loss.sum.backward();
        const auto part = [&](const at::Tensor& all) {
          return all.grad().narrow(0, rank.rank() * kRows, kRows);
        };
        expect_near(own.queries.grad(), part(whole.queries));
        expect_near(own.positives.grad(), part(whole.positives));
        if (hard) expect_near(own.negatives.grad(), part(whole.negatives));
      });
      EXPECT_NEAR(total.value(), expected.sum.item<double>(), 1e-9);
    }
  }
}

TEST(GroupedInfoNce, OfOneRankIsEachRanksOwn) {
  const Features whole;
  run_ranks(kRanks, [&](Communicator& rank) {
    const Features own = whole.of(rank.rank());
    const Features same = whole.of(rank.rank());
    const auto group = rank.split(1);
    const ContrastiveLoss loss = grouped_info_nce(own.queries, own.positives, {}, false, {}, *group);
    const ContrastiveLoss expected = info_nce(same.queries, same.positives);
    loss.sum.backward();
    expected.sum.backward();
    EXPECT_EQ(loss.sum.item<double>(), expected.sum.item<double>());
    expect_near(own.queries.grad(), same.queries.grad(), 1e-15);
  });
}

TEST(GroupedInfoNce, OfPairsOfRanksIsTheLossOfEachPair) {
  const Features whole;
  run_ranks(kRanks, [&](Communicator& rank) {
    const auto group = rank.split(2);
    const std::int64_t first = rank.rank() / 2 * 2;
    const at::Tensor queries =
        whole.queries.detach().narrow(0, first * kRows, 2 * kRows).clone().requires_grad_();
    const at::Tensor positives = whole.positives.detach().narrow(0, first * kRows, 2 * kRows);
    info_nce(queries, positives).sum.backward();
    const Features own = whole.of(rank.rank());
    grouped_info_nce(own.queries, own.positives, {}, false, {}, *group).sum.backward();
    expect_near(own.queries.grad(), queries.grad().narrow(0, group->rank() * kRows, kRows));
  });
}

TEST(GroupedInfoNce, MovesLessInSmallerGroups) {
  const Features whole;
  const auto gathered = [&](std::int64_t group_size) {
    std::int64_t bytes = 0;
    run_ranks(kRanks, [&](Communicator& rank) {
      const auto group = rank.split(group_size);
      const Features own = whole.of(rank.rank());
      grouped_info_nce(own.queries, own.positives, {}, false, {}, *group).sum.backward();
      if (rank.rank() > 0) return;
      const std::int64_t counts = group_size * static_cast<std::int64_t>(sizeof(std::int64_t));
      bytes = group->traffic().at("all_gather").bytes - counts;
      EXPECT_EQ(bytes, group->traffic().at("reduce_scatter").bytes);
    });
    return bytes;
  };
  EXPECT_EQ(gathered(4), kRanks * kRows * kDim * static_cast<std::int64_t>(sizeof(double)));
  EXPECT_EQ(gathered(4), 2 * gathered(2));
}

// The three conventions that are found in the wild, for a parameter that all ranks share.
TEST(GroupedInfoNce, LocalAndFullLossesAgreeAndALocalShardIsAShare) {
  const Features whole;
  const auto project = [](const at::Tensor& rows, const at::Tensor& weight) {
    return rows.detach().matmul(weight);
  };
  const at::Tensor weight = random_tensor({kDim, kDim}, 4, at::kDouble).requires_grad_();
  info_nce(project(whole.queries, weight), project(whole.positives, weight)).sum.backward();
  run_ranks(kRanks, [&](Communicator& rank) {
    const Features own = whole.of(rank.rank());
    const auto mean_gradient = [&](const auto& loss_of) {
      at::Tensor copy = weight.detach().clone().requires_grad_();
      loss_of(project(own.queries, copy), project(own.positives, copy)).backward();
      at::Tensor gradient = copy.grad().clone();
      rank.all_reduce(gradient);
      return gradient / static_cast<double>(kRanks);
    };
    const at::Tensor local = mean_gradient([&](const at::Tensor& q, const at::Tensor& p) {
      return grouped_info_nce(q, p, {}, false, {}, rank).sum * static_cast<double>(kRanks);
    });
    const at::Tensor full = mean_gradient([&](const at::Tensor& q, const at::Tensor& p) {
      return info_nce(dist::gather_rows(q, rank).rows, dist::gather_rows(p, rank).rows).sum;
    });
    const at::Tensor shard = mean_gradient([&](const at::Tensor& q, const at::Tensor& p) {
      const auto with_own = [&](const at::Tensor& rows) {
        const at::Tensor all = rank.all_gather(rows.detach());
        const std::int64_t begin = rank.rank() * kRows;
        return at::cat({all.narrow(0, 0, begin), rows, all.slice(0, begin + kRows)});
      };
      return info_nce(with_own(q), with_own(p)).sum;
    });
    expect_near(local, weight.grad());
    expect_near(full, weight.grad());
    expect_near(shard * static_cast<double>(kRanks), weight.grad());
  });
}

TEST(GroupedInfoNce, NeedsPairs) {
  Communicator alone;
  const at::Tensor rows = random_tensor({3, 2}, 1);
  EXPECT_THROW((void)grouped_info_nce(rows, rows.narrow(0, 0, 2), {}, false, {}, alone), StateError);
  EXPECT_THROW((void)grouped_info_nce(rows.narrow(0, 0, 1), rows.narrow(0, 0, 1), {}, false, {}, alone),
               DataError);
}

/// BabelBERT's loss as it is written: for every word, all others but itself; `label` says whose positives are
/// whose.
template <class Label>
double nt_xent_by_loops(const at::Tensor& texts, const at::Tensor& pairs, double scale, const Label& label) {
  const at::NoGradGuard no_grad;
  const std::int64_t count = texts.size(0);
  const at::Tensor words = at::cat({texts, pairs});
  const at::Tensor units = words / words.norm(2, {1}, true);
  double sum = 0;
  for (std::int64_t i = 0; i < 2 * count; ++i) {
    double total = 0;
    double wanted = 0;
    double positives = 0;
    for (std::int64_t j = 0; j < 2 * count; ++j) {
      if (j == i) continue;
      const double logit = scale * (units[i] * units[j]).sum().item<double>();
      total += std::exp(logit);
      if (label(i % count) != label(j % count)) continue;
      wanted += logit;
      positives += 1;
    }
    sum += std::log(total) - wanted / positives;
  }
  return sum;
}

const auto kOwnPair = [](std::int64_t pair) { return pair; };
const auto kSynset = [](std::int64_t pair) { return pair % 4; };

at::Tensor synsets(std::int64_t first, std::int64_t pairs) {
  return at::arange(first, first + pairs, at::TensorOptions().dtype(at::kLong)) % 4;
}

TEST(NtXent, IsTheDoubleLoopAndSidesMayBeSwapped) {
  const Features all;
  Communicator alone;
  const InfoNceOptions options{"cosine", 1 / 0.07};
  for (const bool labelled : {false, true}) {
    const at::Tensor labels = labelled ? synsets(0, kRanks * kRows) : at::Tensor();
    const double expected = labelled ? nt_xent_by_loops(all.queries, all.positives, options.scale, kSynset)
                                     : nt_xent_by_loops(all.queries, all.positives, options.scale, kOwnPair);
    const ContrastiveLoss loss = grouped_nt_xent(all.queries, all.positives, {}, labels, options, alone);
    EXPECT_NEAR(loss.sum.item<double>(), expected, 1e-6);
    EXPECT_EQ(loss.count, 2 * kRanks * kRows);
    const ContrastiveLoss swapped = grouped_nt_xent(all.positives, all.queries, {}, labels, options, alone);
    EXPECT_NEAR(swapped.sum.item<double>(), expected, 1e-6);
    // Hard negatives are candidates of every word and nobody's positive.
    const ContrastiveLoss harder =
        grouped_nt_xent(all.queries, all.positives, all.negatives, labels, options, alone);
    EXPECT_GT((harder.per_query - loss.per_query).min().item<double>(), 0);
  }
}

TEST(NtXent, OfAllRanksIsTheLossOfOneProcess) {
  for (const bool labelled : {false, true}) {
    for (const bool hard : {false, true}) {
      const Features whole;
      Communicator alone;
      const ContrastiveLoss expected =
          grouped_nt_xent(whole.queries, whole.positives, hard ? whole.negatives : at::Tensor(),
                          labelled ? synsets(0, kRanks * kRows) : at::Tensor(), {}, alone);
      expected.sum.backward();
      Total total;
      run_ranks(kRanks, [&](Communicator& rank) {
        const Features own = whole.of(rank.rank());
        const at::Tensor labels = labelled ? synsets(rank.rank() * kRows, kRows) : at::Tensor();
        const ContrastiveLoss loss = grouped_nt_xent(own.queries, own.positives,
                                                     hard ? own.negatives : at::Tensor(), labels, {}, rank);
        EXPECT_EQ(loss.count, 2 * kRows);
        total.add(loss.sum.item<double>(), rank);
        loss.sum.backward();
        const auto part = [&](const at::Tensor& all) {
          return all.grad().narrow(0, rank.rank() * kRows, kRows);
        };
        expect_near(own.queries.grad(), part(whole.queries));
        expect_near(own.positives.grad(), part(whole.positives));
        if (hard) expect_near(own.negatives.grad(), part(whole.negatives));
      });
      EXPECT_NEAR(total.value(), expected.sum.item<double>(), 1e-9);
    }
  }
}

TEST(NtXent, RefusesWhatAreNoPairs) {
  const Features all;
  Communicator alone;
  const at::Tensor one = all.queries.narrow(0, 0, 1);
  EXPECT_THROW((void)grouped_nt_xent(one, one, {}, {}, {}, alone), DataError);  // No negative.
  EXPECT_THROW((void)grouped_nt_xent(all.queries, one, {}, {}, {}, alone), StateError);
  EXPECT_THROW((void)grouped_nt_xent(all.queries, all.positives, {}, synsets(0, 3), {}, alone), StateError);
}

}  // namespace
}  // namespace bitrain::losses
