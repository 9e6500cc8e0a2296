#pragma once

#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include <bitrain/dist/communicator.h>
#include <bitrain/dist/environment.h>
#include <bitrain/dist/options.h>

namespace bitrain::dist {

/// The ranks of a run, from meeting to parting. Keep it on the stack of main, around everything that uses its
/// communicators. A single process meets nobody and opens nothing.
class Session {
 public:
  /// Meets the other ranks of `environment`: by Gloo for `device` cpu, by NCCL for cuda, where the GPU with
  /// the number of local_rank becomes the current one, unless `options.backend` says otherwise. Returns when
  /// all are there. From then on SIGPIPE no longer kills this process, unless it has a handler. Throws
  /// RankError naming the ranks that did not come within the timeout.
  Session(Environment environment, const ParallelOptions& options, at::Device device);
  /// Waits for the other ranks, so that nobody ends while another still needs it; unless an exception is on
  /// its way out, or `fail` was called.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  [[nodiscard]] const std::shared_ptr<Communicator>& world() const;
  [[nodiscard]] const Environment& environment() const;

  /// This rank ends because of `message`: the others are told. torchrun is by write_error_file.
  void fail(const std::string& message);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// Writes why this process failed where torchrun looks for it (TORCHELASTIC_ERROR_FILE, as
/// torch.distributed.elastic.multiprocessing.errors writes it). An empty path: does nothing. Never throws.
void write_error_file(const std::string& path, const std::string& message) noexcept;

}  // namespace bitrain::dist
