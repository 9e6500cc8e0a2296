#include <bitrain/dist/peer_memory.h>

#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <numeric>
#include <system_error>
#include <vector>

#include <gtest/gtest.h>

namespace bitrain::dist {
namespace {

/// Two ranks of which the other one is this process too, but for what `spoil` does to its words.
PeerMemory with_itself(const std::function<void(std::vector<std::int64_t>&)>& spoil) {
  int call = 0;
  return {0, 2, [&](const std::vector<std::int64_t>& words) {
            std::vector<std::int64_t> other = words;
            if (call++ == 0) spoil(other);
            std::vector<std::int64_t> all = words;
            all.insert(all.end(), other.begin(), other.end());
            return all;
          }};
}

pid_t process_that_is_gone() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return child;
}

TEST(PeerMemory, IsReadWhereItLies) {
  const PeerMemory memory = with_itself([](auto&) {});
  if (!memory.readable()) GTEST_SKIP() << "processes may not read each other here";
  std::vector<int> there(100'000);
  std::iota(there.begin(), there.end(), 1);
  std::vector<int> here(there.size());
  memory.read(1, reinterpret_cast<std::int64_t>(there.data()), here.data(),
              static_cast<std::int64_t>(here.size() * sizeof(int)));
  EXPECT_EQ(here, there);
  EXPECT_THROW(memory.read(1, 8, here.data(), 8), std::system_error) << "nothing is there";
}

TEST(PeerMemory, IsLeftAloneOfOthers) {
  EXPECT_FALSE(with_itself([](auto& words) { words[0] += 1; }).readable()) << "another machine";
  EXPECT_FALSE(with_itself([](auto& words) { words[1] = process_that_is_gone(); }).readable());
  EXPECT_FALSE(with_itself([](auto& words) { words[2] += 1; }).readable()) << "a process of the same number";
  EXPECT_FALSE(with_itself([](auto& words) { words[3] = 8; }).readable()) << "an address of nothing";
}

TEST(PeerMemory, OfAProcessThatIsGoneIsAnError) {
  const pid_t gone = process_that_is_gone();
  const PeerMemory memory = with_itself([&](auto& words) { words[1] = gone; });
  int here = 0;
  EXPECT_THROW(memory.read(1, reinterpret_cast<std::int64_t>(&here), &here, sizeof here), std::system_error);
}

}  // namespace
}  // namespace bitrain::dist
