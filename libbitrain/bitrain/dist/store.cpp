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
#include <bitrain/base/failure.h>
#include <bitrain/dist/file_descriptor.h>

namespace bitrain::dist {
namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses addresses_of(const std::string& host, std::int64_t port, int type) {
  addrinfo hints{};
  hints.ai_socktype = type;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) found = nullptr;
  return {found, &freeaddrinfo};
}

bool is_of_this_machine_alone(const addrinfo& address) {
  constexpr std::uint32_t kLoopbackNetwork = 127;
  if (address.ai_family == AF_INET)
    return ntohl(reinterpret_cast<const sockaddr_in*>(address.ai_addr)->sin_addr.s_addr) >> 24U ==
           kLoopbackNetwork;
  return address.ai_family == AF_INET6 &&
         IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address.ai_addr)->sin6_addr);
}

/// A socket bound to `host` where that is an address of this machine alone: the store asks for no secret, and
/// left to itself it listens to every network. None where other machines may come, and where the address is
/// taken, which the store then says itself.
FileDescriptor local_listener(const std::string& host, std::int64_t port) {
  const Addresses all = addresses_of(host, port, SOCK_STREAM);
  if (!all || !is_of_this_machine_alone(*all)) return FileDescriptor();
  FileDescriptor listener(::socket(all->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int yes = 1;
  setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(listener.get(), all->ai_addr, all->ai_addrlen) != 0) return FileDescriptor();
  return listener;
}

}  // namespace

StorePtr open_store(const Environment& environment, std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(environment.master_port);
  options.isServer = environment.rank == 0 && !environment.store_is_served;
  options.multiTenant = options.isServer;
  options.waitWorkers = false;  // Who is missing is said by name later.
  options.timeout = timeout;
  options.useLibUV = environment.libuv;
  // A host of several may have a name that means another address to itself than to others.
  if (options.isServer && environment.local_world_size == environment.world_size) {
    FileDescriptor listener = local_listener(environment.master_address, environment.master_port);
    if (listener.is_open()) options.masterListenFd = listener.release();
  }
  const std::string prefix = to_text("bitrain/", environment.run_id, "/", environment.restart_count);
  try {
    return c10::make_intrusive<c10d::PrefixStore>(
        prefix, c10::make_intrusive<c10d::TCPStore>(environment.master_address, options));
  } catch (const std::exception& error) {
    const std::string where = to_text(environment.master_address, ":", environment.master_port);
    const std::string message = failure_of(error).message;
    const std::string reason = message.substr(0, message.find('\n'));
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
  const Addresses all = addresses_of(host, port, SOCK_DGRAM);
  for (const addrinfo* one = all.get(); one != nullptr; one = one->ai_next) {
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
