#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/dist/backend_ranks.h>
#include <bitrain/dist/environment.h>

#include "support/rank_processes.h"

namespace bitrain::dist {
namespace {

using std::chrono::milliseconds;

bool connects(const char* host, std::int64_t port) {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  inet_pton(AF_INET, host, &address.sin_addr);
  const bool connected = connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  close(socket);
  return connected;
}

class StoreAt : public ::testing::TestWithParam<bool> {
 protected:
  static Environment environment(const std::string& host) {
    Environment of_rank_0;
    of_rank_0.world_size = 2;
    of_rank_0.local_world_size = 2;
    of_rank_0.master_address = host;
    of_rank_0.master_port = testing::free_port();
    of_rank_0.libuv = GetParam();
    return of_rank_0;
  }
};

TEST_P(StoreAt, LoopbackCannotBeReachedByOtherAddresses) {
  const Environment where = environment("127.0.0.1");
  const StorePtr store = open_store(where, milliseconds(5000));
  Environment of_rank_1 = where;
  of_rank_1.rank = 1;
  const StorePtr other = open_store(of_rank_1, milliseconds(5000));
  other->set("key", "value");
  EXPECT_NO_THROW(store->wait({"key"}, milliseconds(5000)));
  EXPECT_TRUE(connects("127.0.0.1", where.master_port));
  EXPECT_FALSE(connects("127.0.0.2", where.master_port));  // As open to all it would answer there too.
}

TEST_P(StoreAt, RanksOfOtherMachinesAreWaitedForOnAllAddresses) {
  Environment where = environment("127.0.0.1");
  where.local_world_size = 1;
  const StorePtr store = open_store(where, milliseconds(5000));
  EXPECT_TRUE(connects("127.0.0.2", where.master_port));
}

TEST_P(StoreAt, ANameOfThisMachineServesItsRanks) {
  const Environment where = environment("localhost");
  const StorePtr store = open_store(where, milliseconds(5000));
  Environment of_rank_1 = where;
  of_rank_1.rank = 1;
  open_store(of_rank_1, milliseconds(5000))->set("key", "value");
  EXPECT_NO_THROW(store->wait({"key"}, milliseconds(5000)));
}

TEST_P(StoreAt, ATakenPortIsSaid) {
  const Environment where = environment("127.0.0.1");
  const int taken = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(where.master_port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(taken, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(taken, 1), 0);
  try {
    (void)open_store(where, milliseconds(5000));
    ADD_FAILURE() << "nothing was thrown";
  } catch (const RankError& error) {
    EXPECT_NE(std::string(error.what()).find("is the port taken?"), std::string::npos) << error.what();
  }
  close(taken);
}

INSTANTIATE_TEST_SUITE_P(Servers, StoreAt, ::testing::Bool(),
                         [](const auto& server) { return server.param ? "Libuv" : "Threads"; });

}  // namespace
}  // namespace bitrain::dist
