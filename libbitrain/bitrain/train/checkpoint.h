#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json_fwd.hpp>

#include <bitrain/dist/communicator.h>
#include <bitrain/optim/adamw.h>

/// Checkpoints: folders `checkpoint-<step>` that are complete or not there.
///
///   trainable.safetensors   every trained tensor under its name, in its own dtype
///   optimizer.safetensors   AdamW's state (optim::AdamW::state)
///                           Either, where ranks share it out: <name>-<rank>-of-<ranks>.safetensors, with
///                           flat slices and for each parameter "<parameter>.slice" [2], begin and end
///   extra.safetensors       what else a run goes on from (TrainParts::extra_state), where there is any
///   trainer_state.json      Hugging Face's keys (global_step, log_history, ...) and, under "bitrain", the
///                           counters a run resumes from
///   manifest.json           sizes and CRC-32C of the files above, written last: the mark of completeness
///
/// and whatever the caller's `save_weights` writes (a Hugging Face or PEFT folder).
namespace bitrain::train {

namespace fs = std::filesystem;

/// A folder of checkpoints.
class CheckpointStore {
 public:
  explicit CheckpointStore(fs::path directory);

  /// What to write.
  struct Contents {
    optim::NamedTensors trainable;
    optim::NamedTensors optimizer;
    optim::NamedTensors extra;                             ///< Written where it is not empty.
    const nlohmann::ordered_json* state = nullptr;         ///< trainer_state.json
    std::function<void(const std::string&)> save_weights;  ///< Writes more into the folder; may be empty.
    bool sharded = false;                                  ///< `optimizer` is this rank's slices.
    bool sharded_weights = false;                          ///< So is `trainable`; with sharded.
  };
  /// Writes checkpoint-<step> aside, makes it durable, renames it. Rank 0 does it, but for slices; all return
  /// when it is there. IoError when the disk is full, on any rank: what was there before is untouched.
  fs::path save(std::int64_t step, const Contents& contents, dist::Communicator& ranks);

  /// Steps of the complete checkpoints, ascending. Half-written and damaged folders are passed over with a
  /// warning.
  [[nodiscard]] std::vector<std::int64_t> steps() const;
  /// The last of these, or nothing where no checkpoint is. Throws FormatError where there are some, all
  /// damaged.
  [[nodiscard]] std::optional<std::int64_t> newest() const;
  [[nodiscard]] fs::path path(std::int64_t step) const;

  /// Deletes all but the newest `keep_last` checkpoints and `best`, and what interrupted writers left.
  void prune(std::int64_t keep_last, std::optional<std::int64_t> best);

 private:
  /// Of every checkpoint what is wrong with it, or "".
  [[nodiscard]] std::map<std::int64_t, std::string> look() const;

  fs::path directory_;
};

// The steps of a save, for those who take them apart (BackgroundSave).

/// "optimizer-<rank>-of-<ranks>.safetensors": the last file of a rank to be there.
[[nodiscard]] std::string slice_file(std::int64_t rank, std::int64_t ranks);
/// This rank's slices.
void write_slice(const fs::path& folder, const CheckpointStore::Contents& contents, std::int64_t rank,
                 std::int64_t ranks);
/// Everything else of rank 0 but `save_weights` and the manifest.
void write_files(const fs::path& folder, const CheckpointStore::Contents& contents);
/// Last: names what is there.
void write_manifest(const fs::path& folder);

/// A checkpoint opened for reading.
class CheckpointReader {
 public:
  /// Checks every file against the manifest. FormatError when one is damaged.
  explicit CheckpointReader(const fs::path& directory);

  [[nodiscard]] const nlohmann::ordered_json& state() const;
  /// StateError, naming what is missing, left over or of another shape or dtype than `parameters`.
  void check(const std::vector<optim::Parameter>& parameters) const;
  /// Checks, and copies the saved tensors into `parameters`.
  void restore(const std::vector<optim::Parameter>& parameters) const;
  /// What was saved of one that check() has found, in its shape.
  [[nodiscard]] at::Tensor trainable_tensor(const optim::Parameter& parameter) const;
  /// As it was saved, or put together from slices and then flat.
  [[nodiscard]] std::optional<at::Tensor> optimizer_tensor(const std::string& name) const;
  [[nodiscard]] std::optional<at::Tensor> extra_tensor(const std::string& name) const;

  ~CheckpointReader();
  CheckpointReader(const CheckpointReader&) = delete;
  CheckpointReader& operator=(const CheckpointReader&) = delete;

 private:
  struct Files;
  std::unique_ptr<Files> files_;
};

/// True when `directory` holds a manifest and every file in it has the size that the manifest says.
[[nodiscard]] bool is_complete_checkpoint(const fs::path& directory);

}  // namespace bitrain::train
