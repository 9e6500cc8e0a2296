#include <bitrain/train/checkpoint.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <set>

#include <ATen/core/grad_mode.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/train/crc32c.h>

namespace bitrain::train {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kPrefix = "checkpoint-";
constexpr const char* kTrainable = "trainable.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kExtra = "extra.safetensors";
constexpr const char* kState = "trainer_state.json";
constexpr const char* kManifest = "manifest.json";
/// What a resume reads, and therefore checks in full.
constexpr std::array<const char*, 3> kResumeFiles = {kTrainable, kOptimizer, kState};

/// Those files, and the one that not every run has.
std::vector<const char*> resume_files(bool extra) {
  std::vector<const char*> names(kResumeFiles.begin(), kResumeFiles.end());
  if (extra) names.push_back(kExtra);
  return names;
}

/// The step in a name like "checkpoint-12", or nothing.
std::optional<std::int64_t> step_of(const std::string& name) {
  if (!starts_with(name, kPrefix)) return std::nullopt;
  std::int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (error != std::errc() || stop != end || step < 0) return std::nullopt;
  return step;
}

std::uint32_t file_crc(const fs::path& path) {
  return crc32c(io::MappedFile::open(path).view());
}

/// Sizes of all files below `directory`, and CRCs of those that a resume reads.
Json make_manifest(const fs::path& directory) {
  std::map<std::string, Json> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) {
      files[fs::relative(entry.path(), directory).generic_string()] = {{"size", entry.file_size()}};
    }
  }
  for (const char* name : resume_files(fs::exists(directory / kExtra)))
    files[name]["crc32c"] = file_crc(directory / name);
  return {{"format", "bitrain checkpoint"}, {"version", 1}, {"files", files}};
}

/// "" when all files have the sizes of the manifest, else what is wrong.
std::string find_damage(const fs::path& directory) {
  try {
    const Json manifest = io::read_json(directory / kManifest);
    for (const auto& [name, entry] : manifest.at("files").items()) {
      std::error_code error;
      const std::uintmax_t size = fs::file_size(directory / name, error);
      if (error) return name + " is missing";
      if (size != entry.at("size").get<std::uintmax_t>()) {
        return c10::str(name, " has ", size, " bytes, the manifest says ", entry.at("size").dump());
      }
    }
    for (const char* name : kResumeFiles) {
      if (!manifest.at("files").contains(name)) return c10::str("the manifest has no ", name);
    }
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace

bool is_complete_checkpoint(const fs::path& directory) {
  return find_damage(directory).empty();
}

CheckpointStore::CheckpointStore(fs::path directory) : directory_(std::move(directory)) {}

fs::path CheckpointStore::path(std::int64_t step) const {
  return directory_ / c10::str(kPrefix, step);
}

fs::path CheckpointStore::save(std::int64_t step, const Contents& contents) {
  fs::path target = path(step);
  try {
    io::AtomicDirectory folder(target);
    const fs::path aside = folder.path();
    io::write_safetensors(aside / kTrainable, contents.trainable);
    io::write_safetensors(aside / kOptimizer, contents.optimizer);
    if (!contents.extra.empty()) io::write_safetensors(aside / kExtra, contents.extra);
    io::write_json(aside / kState, *contents.state);
    if (contents.save_weights) contents.save_weights(aside.string());
    io::write_json(aside / kManifest, make_manifest(aside));
    folder.commit();
  } catch (Error& error) {
    error.add_context("cannot save " + target.string());
    throw;
  } catch (const fs::filesystem_error& error) {
    throw IoError("cannot save ", target.string(), ": ", error.what());
  }
  return target;
}

std::vector<std::int64_t> CheckpointStore::steps() const {
  std::vector<std::int64_t> result;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory_, error)) {
    const std::optional<std::int64_t> step = step_of(entry.path().filename().string());
    if (!step || !entry.is_directory()) continue;
    const std::string damage = find_damage(entry.path());
    if (damage.empty()) {
      result.push_back(*step);
    } else {
      log_warn(entry.path().string(), " is not a complete checkpoint and is passed over: ", damage);
    }
  }
  std::sort(result.begin(), result.end());
  return result;
}

std::optional<std::int64_t> CheckpointStore::newest() const {
  const std::vector<std::int64_t> all = steps();
  if (all.empty()) return std::nullopt;
  return all.back();
}

void CheckpointStore::prune(std::int64_t keep_last, std::optional<std::int64_t> best) {
  io::remove_leftovers(directory_);
  const std::vector<std::int64_t> all = steps();
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep_last) < all.size(); ++i) {
    if (all[i] == best) continue;
    // Renamed first: a folder that is half deleted must not carry the name of a checkpoint.
    fs::path doomed = path(all[i]);
    doomed += c10::str(".tmp-", ::getpid(), "-old");
    std::error_code error;
    fs::rename(path(all[i]), doomed, error);
    if (!error) fs::remove_all(doomed, error);
    if (error) log_warn("cannot delete the old checkpoint ", path(all[i]).string(), ": ", error.message());
  }
}

struct CheckpointReader::Files {
  fs::path directory;
  Json state;
  io::SafetensorsFile trainable;
  io::SafetensorsFile optimizer;
  std::optional<io::SafetensorsFile> extra;
};

CheckpointReader::CheckpointReader(const fs::path& directory) {
  const std::string damage = find_damage(directory);
  if (!damage.empty()) throw FormatError(directory.string(), ": not a complete checkpoint: ", damage);
  const Json manifest = io::read_json(directory / kManifest);
  const bool extra = manifest.at("files").contains(kExtra);
  for (const char* name : resume_files(extra)) {
    const Json& entry = manifest.at("files").at(name);
    if (!entry.contains("crc32c") || entry.at("crc32c") != file_crc(directory / name)) {
      throw FormatError(
          (directory / name).string(),
          ": its bytes are not those that were written (checksum); delete this checkpoint to resume from "
          "an older one");
    }
  }
  files_ = std::make_unique<Files>(Files{directory, io::read_json(directory / kState),
                                         io::SafetensorsFile::open(directory / kTrainable),
                                         io::SafetensorsFile::open(directory / kOptimizer), std::nullopt});
  if (extra) files_->extra = io::SafetensorsFile::open(directory / kExtra);
}

CheckpointReader::~CheckpointReader() = default;

const Json& CheckpointReader::state() const {
  return files_->state;
}

void CheckpointReader::restore(const std::vector<optim::Parameter>& parameters) const {
  const std::string where = files_->directory.string();
  std::set<std::string> left_over;
  for (const std::string& name : files_->trainable.names()) left_over.insert(name);
  for (const optim::Parameter& parameter : parameters) {
    if (!files_->trainable.contains(parameter.name)) {
      throw StateError(where, ": does not fit this run: it has no tensor '", parameter.name, "'");
    }
    const at::Tensor saved = files_->trainable.tensor(parameter.name);
    if (saved.sizes() != parameter.tensor.sizes() || saved.scalar_type() != parameter.tensor.scalar_type()) {
      throw StateError(where, ": does not fit this run: '", parameter.name, "' is ",
                       c10::toString(saved.scalar_type()), saved.sizes(), " there and ",
                       c10::toString(parameter.tensor.scalar_type()), parameter.tensor.sizes(), " here");
    }
    left_over.erase(parameter.name);
  }
  if (!left_over.empty()) {
    throw StateError(where, ": does not fit this run: it has ", left_over.size(),
                     " tensors that are not trained here, '", *left_over.begin(), "' for one");
  }
  const at::NoGradGuard no_grad;
  for (const optim::Parameter& parameter : parameters) {
    at::Tensor target = parameter.tensor;
    target.copy_(files_->trainable.tensor(parameter.name));
  }
}

std::optional<at::Tensor> CheckpointReader::optimizer_tensor(const std::string& name) const {
  if (!files_->optimizer.contains(name)) return std::nullopt;
  return files_->optimizer.tensor(name);
}

std::optional<at::Tensor> CheckpointReader::extra_tensor(const std::string& name) const {
  if (!files_->extra || !files_->extra->contains(name)) return std::nullopt;
  return files_->extra->tensor(name);
}

}  // namespace bitrain::train
