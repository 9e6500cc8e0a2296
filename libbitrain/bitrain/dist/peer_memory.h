#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <vector>

/// Inside dist only.
namespace bitrain::dist {

/// The memory of other processes of this machine, read without their help (process_vm_readv(2), as MPI
/// libraries do): one copy in place of the two and the protocol of a socket.
class PeerMemory {
 public:
  /// Every rank's `words`, one after the other. A collective.
  using Exchange = std::function<std::vector<std::int64_t>(const std::vector<std::int64_t>& words)>;

  /// A collective. What comes of it reads nothing unless all ranks are on one machine and each may read each
  /// other: the same user, and no rule of the kernel or the container against it.
  PeerMemory(std::int64_t rank, std::int64_t size, const Exchange& exchange);

  /// Of all ranks.
  [[nodiscard]] bool readable() const { return readable_; }
  /// Copies `bytes` from `address` in the process of `rank`. Throws std::system_error, also when that process
  /// is gone.
  void read(std::int64_t rank, std::int64_t address, void* to, std::int64_t bytes) const;

 private:
  std::vector<pid_t> processes_;
  bool readable_ = false;
};

}  // namespace bitrain::dist
