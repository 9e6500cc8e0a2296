#include <bitrain/train/checkpoint.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <map>
#include <set>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/base/failure.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/dist/gather_text.h>
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
constexpr std::string_view kTrainableStem = "trainable";
constexpr std::string_view kOptimizerStem = "optimizer";
constexpr std::string_view kSlice = ".slice";

/// Whether it is <stem>.safetensors or a rank's slices of that.
bool is_file_of(std::string_view stem, const std::string& name) {
  return starts_with(name, stem) && name.find('/') == std::string::npos;
}

/// Whether a resume reads it: its checksum is kept, and checked.
bool is_resume_file(const std::string& name) {
  return name == kState || name == kExtra || is_file_of(kTrainableStem, name) ||
         is_file_of(kOptimizerStem, name);
}

/// "<stem>-<rank>-of-<ranks>.safetensors"
std::string sliced(std::string_view stem, std::int64_t rank, std::int64_t ranks) {
  std::array<char, 96> name{};
  std::snprintf(name.data(), name.size(), "%s-%05lld-of-%05lld.safetensors", std::string(stem).c_str(),
                static_cast<long long>(rank), static_cast<long long>(ranks));
  return name.data();
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

/// The pages of what was summed up are given back: a checkpoint is as large as the optimizer's state.
std::uint32_t file_crc(const fs::path& path) {
  constexpr std::size_t kPart = std::size_t{4} << 20U;
  const io::MappedFile file = io::MappedFile::open(path);
  std::uint32_t crc = 0;
  for (std::size_t begin = 0; begin < file.size(); begin += kPart) {
    crc = crc32c(file.view().substr(begin, kPart), crc);
    file.forget(begin, begin + kPart);
  }
  return crc;
}

/// Sizes of all files below `directory`, and CRCs of those that a resume reads.
Json make_manifest(const fs::path& directory) {
  std::map<std::string, Json> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) {
      files[fs::relative(entry.path(), directory).generic_string()] = {{"size", entry.file_size()}};
    }
  }
  for (auto& [name, entry] : files)
    if (is_resume_file(name)) entry["crc32c"] = file_crc(directory / name);
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
        return to_text(name, " has ", size, " bytes, the manifest says ", entry.at("size").dump());
      }
    }
    for (const auto& [stem, usual] : {std::pair{kTrainableStem, kTrainable}, {kOptimizerStem, kOptimizer}}) {
      bool there = false;
      for (const auto& [name, entry] : manifest.at("files").items()) there = there || is_file_of(stem, name);
      if (!there) return to_text("the manifest has no ", usual);
    }
    if (!manifest.at("files").contains(kState)) return to_text("the manifest has no ", kState);
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
  return directory_ / to_text(kPrefix, step);
}

std::string slice_file(std::int64_t rank, std::int64_t ranks) {
  return sliced(kOptimizerStem, rank, ranks);
}

void write_slice(const fs::path& folder, const CheckpointStore::Contents& contents, std::int64_t rank,
                 std::int64_t ranks) {
  if (contents.sharded_weights)
    io::write_safetensors(folder / sliced(kTrainableStem, rank, ranks), contents.trainable);
  io::write_safetensors(folder / slice_file(rank, ranks), contents.optimizer);
}

void write_files(const fs::path& folder, const CheckpointStore::Contents& contents) {
  if (!contents.sharded_weights) io::write_safetensors(folder / kTrainable, contents.trainable);
  if (!contents.sharded) io::write_safetensors(folder / kOptimizer, contents.optimizer);
  if (!contents.extra.empty()) io::write_safetensors(folder / kExtra, contents.extra);
  io::write_json(folder / kState, *contents.state);
}

void write_manifest(const fs::path& folder) {
  io::write_json(folder / kManifest, make_manifest(folder));
}

namespace {

/// Each rank writes its slices into the folder that rank 0 has made. Throws on all ranks what went wrong on
/// one.
void write_slices(const std::string& aside, const CheckpointStore::Contents& contents,
                  dist::Communicator& ranks) {
  const fs::path folder = dist::broadcast_text(aside, 0, ranks, "the folder of a checkpoint");
  std::string problem;
  try {
    write_slice(folder, contents, ranks.rank(), ranks.size());
  } catch (const std::exception& error) {
    problem = failure_of(error).message;
  }
  const std::vector<std::string> problems = dist::gather_text(problem, ranks, "slices of a checkpoint");
  for (std::size_t r = 0; r < problems.size(); ++r)
    if (!problems[r].empty()) throw IoError("rank ", r, ": ", problems[r]);
}

}  // namespace

fs::path CheckpointStore::save(std::int64_t step, const Contents& contents, dist::Communicator& ranks) {
  fs::path target = path(step);
  try {
    if (ranks.rank() > 0) {
      if (contents.sharded) write_slices({}, contents, ranks);
    } else {
      io::AtomicDirectory folder(target);
      const fs::path aside = folder.path();
      if (contents.sharded) write_slices(aside.string(), contents, ranks);
      write_files(aside, contents);
      if (contents.save_weights) contents.save_weights(aside.string());
      write_manifest(aside);
      folder.commit();
    }
    ranks.await(0, "saving " + target.string());
  } catch (RankError&) {
    throw;
  } catch (Error& error) {
    error.add_context("cannot save " + target.string());
    throw;
  } catch (const fs::filesystem_error& error) {
    throw IoError("cannot save ", target.string(), ": ", error.what());
  }
  return target;
}

std::map<std::int64_t, std::string> CheckpointStore::look() const {
  std::map<std::int64_t, std::string> damage_of;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory_, error)) {
    const std::optional<std::int64_t> step = step_of(entry.path().filename().string());
    if (step && entry.is_directory()) damage_of[*step] = find_damage(entry.path());
  }
  return damage_of;
}

std::vector<std::int64_t> CheckpointStore::steps() const {
  std::vector<std::int64_t> result;
  for (const auto& [step, damage] : look()) {
    if (damage.empty())
      result.push_back(step);
    else
      log_warn(path(step).string(), " is not a complete checkpoint and is passed over: ", damage);
  }
  return result;
}

std::optional<std::int64_t> CheckpointStore::newest() const {
  const std::vector<std::int64_t> all = steps();
  if (!all.empty()) return all.back();
  // A kill while one is written leaves none of that name: these were whole once, and hold somebody's work.
  if (const std::map<std::int64_t, std::string> damaged = look(); !damaged.empty())
    throw FormatError("no checkpoint in ", directory_.string(), " is complete, ",
                      path(damaged.rbegin()->first).filename().string(), ": ", damaged.rbegin()->second,
                      ". Put the files back; to begin anew, remove or rename ",
                      damaged.size() == 1 ? "it" : "all of them");
  return std::nullopt;
}

void CheckpointStore::prune(std::int64_t keep_last, std::optional<std::int64_t> best) {
  io::remove_leftovers(directory_);
  const std::vector<std::int64_t> all = steps();
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep_last) < all.size(); ++i) {
    if (all[i] == best) continue;
    try {
      io::discard(path(all[i]));  // What is half deleted must not carry the name of a checkpoint.
    } catch (const IoError& error) {
      log_warn("cannot delete the old checkpoint: ", error.what());
    }
  }
}

struct CheckpointReader::Files {
  fs::path directory;
  Json state;
  std::vector<io::SafetensorsFile> trainable;  ///< One, or one of each rank that wrote it.
  std::vector<io::SafetensorsFile> optimizer;  ///< Likewise.
  std::optional<io::SafetensorsFile> extra;
};

CheckpointReader::CheckpointReader(const fs::path& directory) {
  const std::string damage = find_damage(directory);
  if (!damage.empty()) throw FormatError(directory.string(), ": not a complete checkpoint: ", damage);
  const Json manifest = io::read_json(directory / kManifest);
  std::vector<io::SafetensorsFile> trainable;
  std::vector<io::SafetensorsFile> optimizer;
  for (const auto& [name, entry] : manifest.at("files").items()) {
    if (!is_resume_file(name)) continue;
    if (!entry.contains("crc32c") || entry.at("crc32c") != file_crc(directory / name)) {
      throw FormatError(
          (directory / name).string(),
          ": its bytes are not those that were written (checksum); delete this checkpoint to resume from "
          "an older one");
    }
    if (is_file_of(kTrainableStem, name)) trainable.push_back(io::SafetensorsFile::open(directory / name));
    if (is_file_of(kOptimizerStem, name)) optimizer.push_back(io::SafetensorsFile::open(directory / name));
  }
  files_ = std::make_unique<Files>(Files{directory, io::read_json(directory / kState), std::move(trainable),
                                         std::move(optimizer), std::nullopt});
  if (manifest.at("files").contains(kExtra)) files_->extra = io::SafetensorsFile::open(directory / kExtra);
}

CheckpointReader::~CheckpointReader() = default;

const Json& CheckpointReader::state() const {
  return files_->state;
}

namespace {

/// A tensor that one file has, or that files have slices of: those, by where they begin.
struct Pieces {
  std::map<std::int64_t, at::Tensor> by_begin;
  bool sliced = false;
};

Pieces pieces_of(const std::vector<io::SafetensorsFile>& files, const std::string& name,
                 const std::string& slice) {
  Pieces pieces;
  for (const io::SafetensorsFile& file : files) {
    if (!file.contains(name)) continue;
    at::Tensor piece = file.tensor(name);
    if (piece.dim() == 0 || !file.contains(slice)) return {{{0, std::move(piece)}}, false};
    pieces.sliced = true;
    pieces.by_begin[file.tensor(slice).const_data_ptr<std::int64_t>()[0]] = std::move(piece);
  }
  return pieces;
}

/// The whole of it; flat where it was in slices.
at::Tensor joined(const Pieces& pieces, const std::string& name, const fs::path& where) {
  std::vector<at::Tensor> in_order;
  std::int64_t end = 0;
  for (const auto& [begin, piece] : pieces.by_begin) {
    if (!pieces.sliced) return piece;
    if (begin != end)
      throw FormatError(where.string(), ": elements ", end, " to ", begin, " of '", name, "' are missing");
    end += piece.numel();
    in_order.push_back(piece);
  }
  return at::cat(in_order);
}

}  // namespace

at::Tensor CheckpointReader::trainable_tensor(const optim::Parameter& parameter) const {
  const Pieces pieces = pieces_of(files_->trainable, parameter.name, parameter.name + std::string(kSlice));
  return joined(pieces, parameter.name, files_->directory).view(parameter.tensor.sizes());
}

void CheckpointReader::check(const std::vector<optim::Parameter>& parameters) const {
  const std::string where = files_->directory.string();
  std::set<std::string> left_over;
  for (const io::SafetensorsFile& file : files_->trainable)
    for (const std::string& name : file.names())
      if (!ends_with(name, kSlice)) left_over.insert(name);
  for (const optim::Parameter& parameter : parameters) {
    const Pieces pieces = pieces_of(files_->trainable, parameter.name, parameter.name + std::string(kSlice));
    if (pieces.by_begin.empty()) {
      throw StateError(where, ": does not fit this run: it has no tensor '", parameter.name, "'");
    }
    const at::Tensor& saved = pieces.by_begin.begin()->second;
    std::int64_t elements = 0;
    for (const auto& [begin, piece] : pieces.by_begin) elements += piece.numel();
    const std::vector<std::int64_t> shape =
        pieces.sliced ? std::vector<std::int64_t>{elements} : saved.sizes().vec();
    const std::vector<std::int64_t> wanted =
        pieces.sliced ? std::vector<std::int64_t>{parameter.tensor.numel()} : parameter.tensor.sizes().vec();
    if (shape != wanted || saved.scalar_type() != parameter.tensor.scalar_type()) {
      throw StateError(where, ": does not fit this run: '", parameter.name, "' is ",
                       c10::toString(saved.scalar_type()), at::IntArrayRef(shape), " there and ",
                       c10::toString(parameter.tensor.scalar_type()), parameter.tensor.sizes(), " here");
    }
    left_over.erase(parameter.name);
  }
  if (!left_over.empty()) {
    throw StateError(where, ": does not fit this run: it has ", left_over.size(),
                     " tensors that are not trained here, '", *left_over.begin(), "' for one");
  }
}

void CheckpointReader::restore(const std::vector<optim::Parameter>& parameters) const {
  check(parameters);
  const at::NoGradGuard no_grad;
  for (const optim::Parameter& parameter : parameters) {
    at::Tensor target = parameter.tensor;
    target.copy_(trainable_tensor(parameter));
  }
}

std::optional<at::Tensor> CheckpointReader::optimizer_tensor(const std::string& name) const {
  const Pieces pieces =
      pieces_of(files_->optimizer, name, name.substr(0, name.rfind('.')) + std::string(kSlice));
  if (pieces.by_begin.empty()) return std::nullopt;
  return joined(pieces, name, files_->directory);
}

std::optional<at::Tensor> CheckpointReader::extra_tensor(const std::string& name) const {
  if (!files_->extra || !files_->extra->contains(name)) return std::nullopt;
  return files_->extra->tensor(name);
}

}  // namespace bitrain::train
