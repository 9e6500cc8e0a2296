#include <algorithm>
#include <csignal>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/dist/ordered_sum.h>
#include <bitrain/dist/session.h>
#include <bitrain/dist/thread_ranks.h>

#include "support/gradcheck.h"
#include "support/rank_processes.h"

namespace bitrain::dist {
namespace {

using bitrain::testing::on_ranks;
using bitrain::testing::random_tensor;
using bitrain::testing::RankProcesses;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

at::Tensor filled(std::int64_t rows, std::int64_t rank) {
  return at::full({rows, 2}, static_cast<double>(rank), at::kDouble);
}

/// What rank `rank` has, of `numel` elements. Drawing millions would take longer than to move them: they
/// repeat after a prime number, so that no piece of a tensor is like another.
at::Tensor share(std::int64_t rank, std::int64_t numel, at::ScalarType dtype) {
  constexpr std::int64_t kPeriod = 65'537;
  const at::Tensor drawn =
      random_tensor({std::min(numel, kPeriod)}, static_cast<std::uint64_t>(100 + rank), dtype);
  return numel <= kPeriod ? drawn : drawn.repeat({numel / kPeriod + 1}).narrow(0, 0, numel);
}

/// Every collective against what it should give, on any backend.
void check_collectives(Communicator& world) {
  const std::int64_t size = world.size();
  const std::int64_t rank = world.rank();
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const std::int64_t numel : {1, 7, 4096, 100'003, 1'200'000}) {
      std::vector<at::Tensor> all;
      for (std::int64_t r = 0; r < size; ++r) all.push_back(share(r, numel, dtype));
      const at::Tensor expected = ordered_sum(all);
      at::Tensor sum = all[static_cast<std::size_t>(rank)].clone();
      Pending pending = world.start_all_reduce(sum, "a test");
      pending.wait();
      pending.wait();
      EXPECT_TRUE(at::equal(sum, expected)) << dtype << " " << numel << ": sums in the order of ranks";
      EXPECT_TRUE(at::equal(world.all_gather(all[static_cast<std::size_t>(rank)]), at::cat(all)));
      std::vector<at::Tensor> long_ones;
      for (std::int64_t r = 0; r < size; ++r) long_ones.push_back(share(r, numel * size, dtype));
      EXPECT_TRUE(at::equal(world.reduce_scatter(long_ones[static_cast<std::size_t>(rank)]),
                            ordered_sum(long_ones).narrow(0, rank * numel, numel)));
      at::Tensor last = all[static_cast<std::size_t>(rank)].clone();
      world.broadcast(last, size - 1);
      EXPECT_TRUE(at::equal(last, all.back()));
    }
  }
  // Rank r gives rank s r + 2 s rows.
  std::vector<std::int64_t> given;
  std::vector<std::int64_t> taken;
  std::vector<at::Tensor> rows;
  std::vector<at::Tensor> expected;
  for (std::int64_t s = 0; s < size; ++s) {
    given.push_back(rank + 2 * s);
    taken.push_back(s + 2 * rank);
    rows.push_back(filled(given.back(), 10 * rank + s));
    expected.push_back(filled(taken.back(), 10 * s + rank));
  }
  EXPECT_TRUE(at::equal(world.all_to_all(at::cat(rows), given, taken), at::cat(expected)));
  world.barrier();
  if (size == 4) {
    const auto pair = world.split(2);
    EXPECT_TRUE(at::equal(pair->all_gather(filled(1, rank)),
                          at::cat({filled(1, rank / 2 * 2), filled(1, rank / 2 * 2 + 1)})));
    const auto column = world.across(2);
    EXPECT_EQ(column->rank(), rank / 2);
    EXPECT_TRUE(at::equal(column->all_gather(filled(1, rank)),
                          at::cat({filled(1, rank % 2), filled(1, rank % 2 + 2)})));
  }
}

TEST(Collectives, OfThreads) {
  for (const std::int64_t size : {1, 2, 3, 4}) run_ranks(size, check_collectives);
}

TEST(Collectives, OfProcesses) {
  for (const int size : {1, 2, 3, 4})
    on_ranks(size, [](Session& session) { check_collectives(*session.world()); });
}

TEST(Collectives, GoOnWhileTheRankComputes) {
  on_ranks(2, [](Session& session) {
    Communicator& world = *session.world();
    std::vector<at::Tensor> tensors;
    std::vector<Pending> pending;
    for (std::int64_t i = 0; i < 20; ++i) {
      tensors.push_back(share(world.rank() + 10 * i, 10'000, at::kFloat));
      pending.push_back(world.start_all_reduce(tensors.back(), "number"));
    }
    for (std::int64_t i = 19; i >= 0; --i) {
      pending[static_cast<std::size_t>(i)].wait();
      EXPECT_TRUE(
          at::equal(tensors[static_cast<std::size_t>(i)],
                    ordered_sum({share(10 * i, 10'000, at::kFloat), share(1 + 10 * i, 10'000, at::kFloat)})));
    }
    EXPECT_EQ(world.traffic().at("all_reduce").calls, 20);
    EXPECT_EQ(world.traffic().at("all_reduce").bytes, 20 * 40'000);
    EXPECT_GT(world.traffic().at("all_reduce").seconds, 0);
  });
}

RankProcesses::Options impatient(std::int64_t seconds = 2) {
  RankProcesses::Options options = RankProcesses::default_options();
  options.parallel.timeout_seconds = seconds;
  return options;
}

void all_reduce_forever(Session& session, std::chrono::milliseconds pause = std::chrono::milliseconds(1)) {
  at::Tensor sum = at::ones({1000});
  std::printf("begun\n");
  std::fflush(stdout);
  while (true) {
    session.world()->all_reduce(sum, "test sums");
    std::this_thread::sleep_for(pause);
  }
}

void wait_for_output(const RankProcesses& ranks, int rank, const std::string& text) {
  for (int i = 0; i < 6000 && ranks.output(rank).find(text) == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

TEST(Faults, ABrokenPipeDoesNotKill) {
  on_ranks(2, [](Session& session) {
    EXPECT_EQ(std::raise(SIGPIPE), 0);
    at::Tensor sum = at::ones({10});
    session.world()->all_reduce(sum, "sums");
  });
}

TEST(Faults, AKilledRankIsNamed) {
  RankProcesses ranks(
      3, [](Session& session) { all_reduce_forever(session); }, impatient());
  for (int r = 0; r < 3; ++r) wait_for_output(ranks, r, "begun");
  ranks.signal(2, SIGKILL);
  const std::vector<int> codes = ranks.wait();
  EXPECT_EQ(codes, (std::vector<int>{9, 9, 128 + SIGKILL}));
  EXPECT_THAT(ranks.output(0) + ranks.output(1), HasSubstr("all_reduce of test sums"));
  EXPECT_THAT(ranks.output(0), HasSubstr("rank 2 ("));
  EXPECT_THAT(ranks.output(0), HasSubstr("is silent: killed, stopped or cut off"));
}

TEST(Faults, AStoppedRankIsNamedWithinTheTimeout) {
  RankProcesses ranks(
      3, [](Session& session) { all_reduce_forever(session); }, impatient());
  for (int r = 0; r < 3; ++r) wait_for_output(ranks, r, "begun");
  ranks.signal(1, SIGSTOP);
  const std::vector<int> codes = ranks.wait(std::chrono::seconds(60), {1});
  EXPECT_EQ(codes[0], 9);
  EXPECT_EQ(codes[2], 9);
  EXPECT_THAT(ranks.output(0), HasSubstr("rank 1 ("));
  EXPECT_THAT(ranks.output(2), HasSubstr("is silent"));
}

void lose_the_store(int how) {
  RankProcesses ranks(
      3, [](Session& session) { all_reduce_forever(session); }, impatient());
  for (int r = 0; r < 3; ++r) wait_for_output(ranks, r, "begun");
  ranks.signal(0, how);
  const std::vector<int> codes = ranks.wait(std::chrono::seconds(60), {0});
  EXPECT_EQ(codes[1], 9);
  EXPECT_EQ(codes[2], 9);
  EXPECT_THAT(ranks.output(1), HasSubstr("the store at 127.0.0.1:"));
  EXPECT_THAT(ranks.output(2), HasSubstr("does not answer: the process that serves it is gone or stopped"));
}

TEST(Faults, TheStoreMayDieWithItsRank) {
  lose_the_store(SIGKILL);
}

TEST(Faults, TheStoreMayStopWithItsRank) {
  lose_the_store(SIGSTOP);
}

// Between stages, and while rank 0 writes a checkpoint, the others ask the store for a sign of it.
void lose_whom_others_await(int how) {
  RankProcesses ranks(
      3,
      [](Session& session) {
        std::printf("begun\n");
        std::fflush(stdout);
        if (session.world()->rank() == 0) std::this_thread::sleep_for(std::chrono::seconds(100));
        session.world()->await(0, "a long stage");
      },
      impatient());
  for (int r = 0; r < 3; ++r) wait_for_output(ranks, r, "begun");
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  ranks.signal(0, how);
  const std::vector<int> codes = ranks.wait(std::chrono::seconds(60), {0});
  EXPECT_EQ(codes[1], 9);
  EXPECT_EQ(codes[2], 9);
  EXPECT_THAT(ranks.output(1), HasSubstr("a long stage: the store at 127.0.0.1:"));
  EXPECT_THAT(ranks.output(2), HasSubstr("does not answer: the process that serves it is gone or stopped"));
}

TEST(Faults, WhoIsAwaitedMayDie) {
  lose_whom_others_await(SIGKILL);
}

TEST(Faults, WhoIsAwaitedMayStop) {
  lose_whom_others_await(SIGSTOP);
}

TEST(Faults, AStragglerIsNamed) {
  RankProcesses ranks(
      3,
      [](Session& session) {
        at::Tensor sum = at::ones({10});
        session.world()->all_reduce(sum, "first sums");
        if (session.world()->rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(20));
        session.world()->all_reduce(sum, "second sums");
      },
      impatient());
  const std::vector<int> codes = ranks.wait(std::chrono::seconds(60), {1});
  EXPECT_EQ(codes[0], 9);
  EXPECT_EQ(codes[2], 9);
  EXPECT_THAT(ranks.output(0), HasSubstr("is alive, in its collective number 2 (all_reduce of first sums)"));
  EXPECT_THAT(ranks.output(0), HasSubstr("slower than the timeout allows"));
}

TEST(Faults, TheErrorOfOneRankIsToldByAll) {
  RankProcesses ranks(
      3,
      [](Session& session) {
        if (session.world()->rank() == 1) throw IoError("no space left on this disk");
        all_reduce_forever(session);
      },
      impatient());
  const std::vector<int> codes = ranks.wait();
  EXPECT_EQ(codes, (std::vector<int>{9, 10, 9}));
  EXPECT_THAT(ranks.output(0), HasSubstr("rank 1 ("));
  EXPECT_THAT(ranks.output(0), HasSubstr("failed: no space left on this disk"));
  EXPECT_THAT(ranks.output(2), HasSubstr("no space left on this disk"));
}

TEST(Faults, ARankThatHasEndedIsNamed) {
  RankProcesses ranks(
      2,
      [](Session& session) {
        if (session.world()->rank() == 0) all_reduce_forever(session);
      },
      impatient());
  const std::vector<int> codes = ranks.wait();
  EXPECT_EQ(codes[0], 9);
  EXPECT_THAT(ranks.output(0), AnyOf(HasSubstr("rank 1 ("), HasSubstr("the store")));
}

TEST(Faults, ARankThatNeverComesIsNamed) {
  RankProcesses::Options options = impatient(2);
  options.absent = {1, 3};
  RankProcesses ranks(
      4, [](Session& session) { all_reduce_forever(session); }, options);
  const std::vector<int> codes = ranks.wait();
  EXPECT_EQ(codes[0], 9);
  EXPECT_THAT(ranks.output(0), HasSubstr("of 4 ranks 2 came within 2 s; missing: 1, 3"));
}

TEST(Session, OfOneProcessMeetsNobody) {
  Session session({}, {}, at::kCPU);
  EXPECT_EQ(session.world()->size(), 1);
  session.fail("nothing");
}

TEST(Session, WritesTheErrorFileOfTorchrun) {
  const bitrain::test::TemporaryDirectory directory;
  Environment environment;
  environment.error_file = directory.path() / "error.json";
  write_error_file(environment.error_file, "step 3: \"no\" space");
  std::ifstream file(environment.error_file);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  EXPECT_THAT(text,
              HasSubstr(R"({"message":{"message":"step 3: \"no\" space","extraInfo":{"py_callstack":)"));
  EXPECT_THAT(text, HasSubstr("\"timestamp\":\""));
  write_error_file("", "nowhere");
  write_error_file("/nonexistent/folder/x", "nowhere");
}

TEST(Session, AnAddressThatIsTakenIsAnError) {
  Environment environment;
  environment.rank = 1;
  environment.world_size = 2;
  environment.master_address = "127.0.0.1";
  environment.master_port = bitrain::testing::free_port();
  ParallelOptions options;
  options.timeout_seconds = 1;
  try {
    Session session(environment, options, at::kCPU);
    FAIL();
  } catch (const RankError& error) {
    EXPECT_THAT(error.what(), HasSubstr("rank 1 cannot reach the store at 127.0.0.1:"));
    EXPECT_THAT(error.what(), Not(HasSubstr("\n")));
  }
}

}  // namespace
}  // namespace bitrain::dist
