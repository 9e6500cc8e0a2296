#include <bitrain/dist/store.h>

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <bitrain/base/error.h>

namespace bitrain::dist {

StorePtr open_store(const Environment& environment, std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(environment.master_port);
  options.isServer = environment.rank == 0 && !environment.store_is_served;
  options.multiTenant = options.isServer;
  options.waitWorkers = false;  // Who is missing is said by name later.
  options.timeout = timeout;
  options.useLibUV = environment.libuv;
  const std::string prefix = to_text("bitrain/", environment.run_id, "/", environment.restart_count);
  try {
    return c10::make_intrusive<c10d::PrefixStore>(
        prefix, c10::make_intrusive<c10d::TCPStore>(environment.master_address, options));
  } catch (const std::exception& error) {
    const std::string where = to_text(environment.master_address, ":", environment.master_port);
    // LibTorch's messages end in a C++ stack.
    const std::string reason(error.what(), std::string(error.what()).find('\n'));
    if (options.isServer)
      throw RankError("rank 0 cannot serve the store at ", where, ": ", reason,
                      "; is the port taken? Set another MASTER_PORT");
    throw RankError("rank ", environment.rank, " cannot reach the store at ", where, ": ", reason,
                    "; check MASTER_ADDR and MASTER_PORT, and that ",
                    environment.store_is_served ? "the launcher" : "rank 0", " runs",
                    how_to_run_alone(environment));
  }
}

std::string address_towards(const std::string& host, std::int64_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return {};
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> all(found, &freeaddrinfo);
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    const int socket = ::socket(one->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (socket < 0) continue;
    sockaddr_storage own{};
    socklen_t size = sizeof own;
    // A datagram socket sends nothing when it connects: the kernel only picks the way.
    const bool known = connect(socket, one->ai_addr, one->ai_addrlen) == 0 &&
                       getsockname(socket, reinterpret_cast<sockaddr*>(&own), &size) == 0;
    close(socket);
    std::array<char, NI_MAXHOST> text{};
    if (known && getnameinfo(reinterpret_cast<sockaddr*>(&own), size, text.data(), text.size(), nullptr, 0,
                             NI_NUMERICHOST) == 0)
      return text.data();
  }
  return {};
}

}  // namespace bitrain::dist
