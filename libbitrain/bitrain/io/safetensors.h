#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/io/file.h>

namespace bitrain::io {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;
using Metadata = std::map<std::string, std::string>;

/// Largest header that is read (Hugging Face's own limit).
inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;

/// A place tensors are read from by name: one file or a sharded folder.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// In the order of the file's header (shard by shard).
  [[nodiscard]] virtual const std::vector<std::string>& names() const = 0;
  [[nodiscard]] virtual bool contains(const std::string& name) const = 0;
  /// The tensor over the mapped file: no copy where it is aligned for its type, and the mapping lives as long
  /// as the tensor. Throws FormatError naming the file when there is no such tensor.
  [[nodiscard]] virtual at::Tensor tensor(const std::string& name) const = 0;
  /// Its shape, without touching the data.
  [[nodiscard]] virtual std::vector<std::int64_t> shape(const std::string& name) const = 0;
  /// Gives the memory of a tensor that was copied back to the system. No tensor over its part of the file may
  /// have been written to.
  virtual void forget(const std::string& /*name*/) const {}
  /// For messages: the file, or the folder.
  [[nodiscard]] virtual std::string where() const = 0;
  /// The file that holds a tensor. Throws FormatError when there is no such tensor.
  [[nodiscard]] virtual std::string file_of(const std::string& name) const = 0;
  /// After tensors were read: throws IoError when somebody has written to a file since it was opened, so that
  /// they may be halves of old and new ones.
  virtual void check_not_written() const = 0;
};

/// One .safetensors file (https://github.com/huggingface/safetensors#format), every bound checked on opening:
/// header size, JSON, dtypes, shapes against byte ranges, overlaps, holes, and the file's end.
class SafetensorsFile : public TensorSource {
 public:
  /// Throws IoError when the file cannot be read, FormatError naming it and the fault when it is damaged,
  /// UnsupportedError when it is a pickle (.bin, .pt) under this name.
  [[nodiscard]] static SafetensorsFile open(const std::filesystem::path& path);

  [[nodiscard]] const std::vector<std::string>& names() const override { return names_; }
  [[nodiscard]] bool contains(const std::string& name) const override { return entries_.count(name) != 0; }
  [[nodiscard]] at::Tensor tensor(const std::string& name) const override;
  [[nodiscard]] std::vector<std::int64_t> shape(const std::string& name) const override;
  void forget(const std::string& name) const override;
  [[nodiscard]] std::string where() const override { return mapping_->path().string(); }
  [[nodiscard]] std::string file_of(const std::string& name) const override {
    (void)entry(name);
    return where();
  }
  void check_not_written() const override { mapping_->identity().check_not_written(); }
  [[nodiscard]] const Metadata& metadata() const { return metadata_; }

 private:
  struct Entry {
    at::ScalarType dtype = at::kFloat;
    std::vector<std::int64_t> shape;
    std::uint64_t begin = 0;  ///< Of the file.
    std::uint64_t end = 0;
  };
  void read_header();
  void check_layout(std::uint64_t data_begin) const;
  [[nodiscard]] const Entry& entry(const std::string& name) const;

  std::shared_ptr<const MappedFile> mapping_;
  std::vector<std::string> names_;
  std::map<std::string, Entry> entries_;
  Metadata metadata_;
};

/// The weights of a Hugging Face folder: <stem>.safetensors, or the shards that <stem>.safetensors.index.json
/// lists.
class SafetensorsFolder : public TensorSource {
 public:
  /// Throws IoError when there are no safetensors; UnsupportedError when there is only a pickled .bin file,
  /// with how to convert it; FormatError when index and shards disagree, a shard is named outside the
  /// folder, or two shards have a tensor of one name and different numbers. Tensors that the index leaves out
  /// are read too.
  [[nodiscard]] static SafetensorsFolder open(const std::filesystem::path& directory,
                                              const std::string& stem = "model");

  [[nodiscard]] const std::vector<std::string>& names() const override { return names_; }
  [[nodiscard]] bool contains(const std::string& name) const override { return shard_of_.count(name) != 0; }
  [[nodiscard]] at::Tensor tensor(const std::string& name) const override;
  [[nodiscard]] std::vector<std::int64_t> shape(const std::string& name) const override;
  void forget(const std::string& name) const override { shard(name).forget(name); }
  [[nodiscard]] std::string where() const override { return directory_.string(); }
  [[nodiscard]] std::string file_of(const std::string& name) const override { return shard(name).where(); }
  void check_not_written() const override {
    for (const SafetensorsFile& file : shards_) file.check_not_written();
  }

 private:
  [[nodiscard]] const SafetensorsFile& shard(const std::string& name) const;
  /// Tensors of the shards that the index does not list, which other readers take as well.
  void add_unlisted();

  std::filesystem::path directory_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, std::size_t> shard_of_;
  std::vector<std::string> names_;
};

/// Gives the tensor of that name.
using TensorLoader = std::function<at::Tensor(const std::string& name)>;

/// Writes the tensors in Hugging Face's order (wider types first, then by name), each contiguous, on the CPU,
/// through an AtomicFile, one tensor in memory at a time beyond those given. One on the meta device stands
/// for what `load` gives when its turn comes. Throws StateError for a name used twice, a dtype the format
/// does not have, or what is loaded in another shape or dtype; IoError when the disk is full.
void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       const Metadata& metadata = {{"format", "pt"}}, const TensorLoader& load = {});

/// Writes `directory`/<stem>.safetensors, or shards of at most `max_shard_bytes` (a larger tensor gets its
/// own) with <stem>.safetensors.index.json.
void write_safetensors_folder(const std::filesystem::path& directory, const NamedTensors& tensors,
                              std::uint64_t max_shard_bytes = 5'000'000'000, const TensorLoader& load = {},
                              const std::string& stem = "model");

}  // namespace bitrain::io
