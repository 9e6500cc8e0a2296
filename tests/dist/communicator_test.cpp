#include <bitrain/dist/communicator.h>

#include <atomic>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/dist/gather_rows.h>
#include <bitrain/dist/thread_ranks.h>

#include "support/gradcheck.h"

namespace bitrain::dist {
namespace {

using bitrain::testing::random_tensor;
using ::testing::HasSubstr;

at::Tensor filled(std::int64_t rows, std::int64_t rank) {
  return at::full({rows, 2}, static_cast<double>(rank), at::kDouble);
}

template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Communicator, IsOneRankByItself) {
  Communicator alone;
  EXPECT_EQ(alone.rank(), 0);
  EXPECT_EQ(alone.size(), 1);
  at::Tensor rows = filled(3, 4);
  EXPECT_TRUE(at::equal(alone.all_gather(rows), rows));
  EXPECT_TRUE(at::equal(alone.reduce_scatter(rows), rows));
  alone.all_reduce(rows);
  alone.broadcast(rows, 0);
  alone.barrier();
  EXPECT_TRUE(at::equal(rows, filled(3, 4)));
  EXPECT_EQ(alone.split(1)->size(), 1);
  EXPECT_TRUE(alone.traffic().empty());
  EXPECT_THROW((void)alone.split(2), ConfigError);
  EXPECT_THROW(alone.broadcast(rows, 1), StateError);
}

TEST(Communicator, RanksMoveAndSumInTheirOrder) {
  for (const std::int64_t size : {1, 2, 3, 4}) {
    std::atomic<int> ran = 0;
    run_ranks(size, [&](Communicator& rank) {
      ASSERT_EQ(rank.size(), size);
      const at::Tensor all = rank.all_gather(filled(2, rank.rank()));
      ASSERT_EQ(all.size(0), 2 * size);
      for (std::int64_t r = 0; r < size; ++r) EXPECT_TRUE(at::equal(all.narrow(0, 2 * r, 2), filled(2, r)));
      const at::Tensor mine = rank.reduce_scatter(all + static_cast<double>(rank.rank()));
      const double ranks = static_cast<double>(size * (size - 1)) / 2;
      EXPECT_TRUE(
          at::equal(mine, at::full({2, 2}, static_cast<double>(size * rank.rank()) + ranks, at::kDouble)));
      at::Tensor sum = filled(1, rank.rank());
      rank.all_reduce(sum);
      EXPECT_TRUE(at::equal(sum, at::full({1, 2}, ranks, at::kDouble)));
      at::Tensor last = filled(1, rank.rank());
      rank.broadcast(last, size - 1);
      EXPECT_TRUE(at::equal(last, filled(1, size - 1)));
      rank.barrier();
      ++ran;
    });
    EXPECT_EQ(ran, size);
  }
}

TEST(Communicator, RanksShareOutTheThreads) {
  const int before = at::get_num_threads();
  at::set_num_threads(4);
  run_ranks(2, [](Communicator&) { EXPECT_EQ(at::get_num_threads(), 2); });
  run_ranks(5, [](Communicator&) { EXPECT_EQ(at::get_num_threads(), 1); });
  EXPECT_EQ(at::get_num_threads(), 4);
  at::set_num_threads(before);
}

TEST(Communicator, GroupsAreNeighbours) {
  run_ranks(4, [](Communicator& rank) {
    const auto pair = rank.split(2);
    EXPECT_EQ(pair->size(), 2);
    EXPECT_EQ(pair->rank(), rank.rank() % 2);
    const at::Tensor rows = pair->all_gather(filled(1, rank.rank()));
    const std::int64_t first = rank.rank() / 2 * 2;
    EXPECT_TRUE(at::equal(rows, at::cat({filled(1, first), filled(1, first + 1)})));
    EXPECT_EQ(rank.split(1)->size(), 1);
    EXPECT_EQ(rank.split(4)->rank(), rank.rank());
    EXPECT_THROW((void)rank.split(3), ConfigError);
  });
}

TEST(Communicator, CountsWhatWentThrough) {
  run_ranks(4, [](Communicator& rank) {
    const auto pair = rank.split(2);
    const at::Tensor rows = filled(3, 0);  // 48 bytes.
    (void)rank.all_gather(rows);
    (void)pair->all_gather(rows);
    (void)pair->all_gather(rows);
    EXPECT_EQ(rank.traffic().at("all_gather").bytes, 4 * 48);
    EXPECT_EQ(pair->traffic().at("all_gather").bytes, 2 * 2 * 48);
    EXPECT_EQ(pair->traffic().at("all_gather").calls, 2);
    (void)rank.reduce_scatter(at::zeros({8, 2}, at::kDouble));
    EXPECT_EQ(rank.traffic().at("reduce_scatter").bytes, 128);
  });
}

TEST(Communicator, SaysWhichRankDoesNotFit) {
  const auto with = [](const std::function<void(Communicator&)>& body) {
    return message_of([&] { run_ranks(3, body); });
  };
  EXPECT_THAT(with([](Communicator& rank) { (void)rank.all_gather(filled(rank.rank() == 2 ? 2 : 1, 0)); }),
              HasSubstr("all_gather: rank 2 has Double[2, 2], rank 0 Double[1, 2]"));
  EXPECT_THAT(with([](Communicator& rank) {
                at::Tensor rows = filled(1, 0);
                if (rank.rank() == 1) {
                  rank.all_reduce(rows);
                } else {
                  rank.barrier();
                }
              }),
              HasSubstr("rank 1 is in all_reduce while rank 0 is in barrier"));
  EXPECT_THAT(with([](Communicator& rank) {
                if (rank.rank() != 1) rank.barrier();
              }),
              HasSubstr("rank 1 ended while others were in barrier"));
  EXPECT_THAT(with([](Communicator& rank) {
                const auto all = rank.split(3);
                if (rank.rank() == 2) throw DataError("no such file");
                all->barrier();
              }),
              HasSubstr("no such file"));
  EXPECT_THAT(with([](Communicator& rank) { (void)rank.reduce_scatter(filled(4, 0)); }),
              HasSubstr("reduce_scatter over 3 ranks"));
  EXPECT_THROW(run_ranks(0, [](Communicator&) {}), ConfigError);
}

TEST(GatherRows, SumsTheGradientsOfAllRanksForARow) {
  // Rank r has r + 1 rows; its loss weighs every row of the group by its own weights.
  constexpr std::int64_t kRanks = 3;
  const at::Tensor rows = random_tensor({6, 4}, 1, at::kDouble);
  const at::Tensor weights = random_tensor({kRanks, 6, 4}, 2, at::kDouble);
  run_ranks(kRanks, [&](Communicator& rank) {
    const std::int64_t begin = rank.rank() * (rank.rank() + 1) / 2;
    at::Tensor own = rows.narrow(0, begin, rank.rank() + 1).clone().requires_grad_();
    const GatheredRows gathered = gather_rows(own, rank);
    EXPECT_EQ(gathered.offset, begin);
    EXPECT_TRUE(at::equal(gathered.rows.detach(), rows));
    (gathered.rows * weights[rank.rank()]).sum().backward();
    const at::Tensor expected = weights.sum(0).narrow(0, begin, rank.rank() + 1);
    EXPECT_LT((own.grad() - expected).abs().max().item<double>(), 1e-12);
  });
}

TEST(GatherRows, TakesRanksWithoutRows) {
  run_ranks(2, [](Communicator& rank) {
    at::Tensor own = at::ones({2 * rank.rank(), 3}, at::kDouble).requires_grad_();
    const GatheredRows gathered = gather_rows(own, rank);
    EXPECT_EQ(gathered.rows.size(0), 2);
    gathered.rows.sum().backward();
    EXPECT_TRUE(at::equal(own.grad(), at::full({2 * rank.rank(), 3}, 2.0, at::kDouble)));
    EXPECT_EQ(gather_rows(at::zeros({0, 3}), rank).rows.size(0), 0);
  });
}

}  // namespace
}  // namespace bitrain::dist
