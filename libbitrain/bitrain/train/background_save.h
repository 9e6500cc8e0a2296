#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <future>
#include <memory>
#include <thread>

#include <nlohmann/json.hpp>

#include <bitrain/io/directory.h>
#include <bitrain/train/checkpoint.h>

namespace bitrain::train {

/// A checkpoint that is written while training goes on. What it holds is copied into host memory first; the
/// manifest comes last, when the slices of all ranks are there, so that a run that dies meanwhile leaves no
/// checkpoint rather than half of one.
class BackgroundSave {
 public:
  /// Copies and starts. Every rank calls it at the same step. `timeout`: how long rank 0 waits for the slices
  /// of others. Throws IoError when the folder cannot be made.
  BackgroundSave(const CheckpointStore& store, std::int64_t step, const CheckpointStore::Contents& contents,
                 dist::Communicator& ranks, std::chrono::seconds timeout);
  /// Gives up what is not finished.
  ~BackgroundSave();
  BackgroundSave(const BackgroundSave&) = delete;
  BackgroundSave& operator=(const BackgroundSave&) = delete;

  [[nodiscard]] std::int64_t step() const { return step_; }
  /// Whether finish() would return at once.
  [[nodiscard]] bool done() const;
  /// Waits for this rank's part; on rank 0 the checkpoint is there then. Throws what went wrong on the way.
  std::filesystem::path finish();

 private:
  void write();
  void wait_for_slices() const;

  std::int64_t step_;
  std::filesystem::path target_;
  CheckpointStore::Contents contents_;
  nlohmann::ordered_json state_;
  std::int64_t rank_;
  std::int64_t ranks_;
  std::chrono::seconds timeout_;
  std::unique_ptr<io::AtomicDirectory> folder_;  ///< Of rank 0.
  std::filesystem::path aside_;                  ///< Where files go until the folder has its name.
  std::atomic<bool> cancelled_{false};
  std::future<void> written_;
  std::thread thread_;
};

}  // namespace bitrain::train
