#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <bitrain/train/callbacks.h>

namespace bitrain::train {

/// Writes one TensorBoard event file of scalars: records with masked CRC-32C around hand-encoded Event
/// protobufs (docs/formats.md).
class EventFile {
 public:
  /// Creates `events.out.tfevents.<time>.<host>.<pid>.<n>` in `directory`. `first_step` > 0 marks a resumed
  /// run: readers drop what older files of the folder hold from that step on.
  EventFile(const std::filesystem::path& directory, std::int64_t first_step);

  void add_scalars(std::int64_t step, const std::vector<std::pair<std::string, double>>& values);
  void flush();
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  void write_record(const std::string& event);

  std::filesystem::path path_;
  std::ofstream file_;
};

/// Scalars of a run: train/loss, train/learning_rate, train/grad_norm, train/tokens_per_second,
/// train/<part>, eval/<language>/<figure>.
class TensorBoard : public Callback {
 public:
  explicit TensorBoard(std::filesystem::path directory) : directory_(std::move(directory)) {}

  void on_begin(const RunInfo& info) override;
  void on_step(const StepRecord& record) override;
  void on_evaluate(const Evaluation& evaluation) override;
  void on_end(const TrainResult& result) override;

 private:
  std::filesystem::path directory_;
  std::unique_ptr<EventFile> file_;
  std::int64_t log_every_ = 1;
  std::int64_t total_steps_ = 0;
};

}  // namespace bitrain::train
