#include <bitrain/io/safetensors.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <string_view>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/json.h>

namespace bitrain::io {
namespace fs = std::filesystem;
namespace {

struct DtypeName {
  const char* name;
  at::ScalarType dtype;
};
constexpr DtypeName kDtypes[] = {
    {"F64", at::kDouble},          {"I64", at::kLong},  {"U64", at::kUInt64}, {"C64", at::kComplexFloat},
    {"F32", at::kFloat},           {"I32", at::kInt},   {"U32", at::kUInt32}, {"F16", at::kHalf},
    {"BF16", at::kBFloat16},       {"I16", at::kShort}, {"U16", at::kUInt16}, {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E5M2", at::kFloat8_e5m2}, {"I8", at::kChar},   {"U8", at::kByte},    {"BOOL", at::kBool}};

std::optional<at::ScalarType> dtype_named(const std::string& name) {
  for (const DtypeName& entry : kDtypes)
    if (name == entry.name) return entry.dtype;
  return std::nullopt;
}

/// A place in kDtypes: the order in which Hugging Face lays types out, wider ones first.
std::size_t rank_of(at::ScalarType dtype) {
  for (std::size_t i = 0; i < std::size(kDtypes); ++i)
    if (kDtypes[i].dtype == dtype) return i;
  throw StateError("safetensors has no type for ", c10::toString(dtype));
}

/// A whole number inside [0, 2^63), which JSON may also spell as a float or a string in a hostile file.
std::uint64_t whole_number(const Json& value, const std::string& where) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())
    throw FormatError(where, " is not a whole number: ", value.dump());
  return value.get<std::uint64_t>();
}

bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         (a.numel() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

bool looks_pickled(std::string_view bytes) {
  return bytes.substr(0, 2) == "PK" ||
         (bytes.size() > 2 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5);
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const fs::path& path) {
  SafetensorsFile file;
  file.mapping_ = std::make_shared<const MappedFile>(MappedFile::open(path));
  file.read_header();
  return file;
}

void SafetensorsFile::read_header() {
  const std::string where = mapping_->path().string();
  const std::string_view bytes = mapping_->view();
  if (bytes.size() < 8)
    throw FormatError(where, ": ", bytes.size(), " bytes are too few for a safetensors file");
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  // The first bytes of a pickle may also be those of a length.
  const bool has_header = header_size > 0 && header_size <= bytes.size() - 8 && bytes[8] == '{';
  if (!has_header && looks_pickled(bytes))
    throw UnsupportedError(
        where,
        " is a pickled PyTorch file, which can run code when read; open it in transformers "
        "and save it with save_pretrained, which writes safetensors");
  if (header_size > kMaxSafetensorsHeader)
    throw FormatError(where, ": its header claims ", header_size, " bytes; at most ", kMaxSafetensorsHeader,
                      " are allowed, so this is no safetensors file");
  if (header_size > bytes.size() - 8)
    throw FormatError(where, ": the header should have ", header_size, " bytes, but the file ends after ",
                      bytes.size() - 8, " of them: it is truncated");
  const std::uint64_t data_begin = 8 + header_size;
  if (header_size == 0 || bytes[8] != '{') throw FormatError(where, ": the header does not begin with '{'");
  const Json header = parse_json(bytes.substr(8, header_size), where + ", header");
  if (!header.is_object()) throw FormatError(where, ": the header is no JSON object");
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) throw FormatError(where, ": __metadata__ is no object");
      for (const auto& [key, text] : value.items()) {
        if (!text.is_string()) throw FormatError(where, ": __metadata__ '", key, "' is no string");
        metadata_[key] = text.get<std::string>();
      }
      continue;
    }
    const std::string place = where + ": tensor '" + name + "'";
    if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") ||
        !value.contains("data_offsets"))
      throw FormatError(place, " lacks dtype, shape or data_offsets");
    if (!value["dtype"].is_string()) throw FormatError(place, ": dtype is no string");
    const std::optional<at::ScalarType> dtype = dtype_named(value["dtype"].get<std::string>());
    if (!dtype)
      throw UnsupportedError(place, " has the type ", value["dtype"].dump(),
                             ", which LibTorch does not have");
    const Json& offsets = value["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2) throw FormatError(place, ": data_offsets is not a pair");
    if (!value["shape"].is_array() || value["shape"].size() > 64) throw FormatError(place, ": bad shape");
    Entry entry;
    entry.dtype = *dtype;
    unsigned __int128 size = c10::elementSize(*dtype);
    for (const Json& extent : value["shape"]) {
      entry.shape.push_back(
          static_cast<std::int64_t>(whole_number(extent, place + ": an extent of its shape")));
      size *= static_cast<std::uint64_t>(entry.shape.back());
      if (size > static_cast<unsigned __int128>(std::numeric_limits<std::int64_t>::max()))
        throw FormatError(place, ": its shape ", value["shape"].dump(), " is larger than any file");
    }
    const std::uint64_t begin = whole_number(offsets[0], place + ": data_offsets");
    const std::uint64_t end = whole_number(offsets[1], place + ": data_offsets");
    if (begin > end) throw FormatError(place, ": it ends (", end, ") before it begins (", begin, ")");
    if (end > bytes.size() - data_begin)
      throw FormatError(place, ": its data end at byte ", end, ", but the file has only ",
                        bytes.size() - data_begin, " bytes of data: it is truncated");
    if (end - begin != static_cast<std::uint64_t>(size))
      throw FormatError(place, ": its shape ", value["shape"].dump(), " of ",
                        value["dtype"].get<std::string>(), " needs ", static_cast<std::uint64_t>(size),
                        " bytes, its data_offsets span ", end - begin);
    entry.begin = data_begin + begin;
    entry.end = data_begin + end;
    names_.push_back(name);
    entries_.emplace(name, std::move(entry));
  }
  check_layout(data_begin);
}

void SafetensorsFile::check_layout(std::uint64_t data_begin) const {
  std::vector<std::pair<const Entry*, const std::string*>> sorted;
  for (const auto& [name, entry] : entries_) sorted.emplace_back(&entry, &name);
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    return std::tie(a.first->begin, a.first->end) < std::tie(b.first->begin, b.first->end);
  });
  std::uint64_t at = data_begin;
  for (const auto& [entry, name] : sorted) {
    if (entry->begin != at)
      throw FormatError(where(), ": tensor '", *name,
                        entry->begin < at ? "' overlaps the one before it" : "' leaves a hole before it");
    at = entry->end;
  }
  if (at != mapping_->size())
    throw FormatError(where(), ": ", mapping_->size() - at, " bytes follow the last tensor");
}

const SafetensorsFile::Entry& SafetensorsFile::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end())
    throw FormatError(where(), ": there is no tensor '", name, "'", did_you_mean(name, names_));
  return found->second;
}

std::vector<std::int64_t> SafetensorsFile::shape(const std::string& name) const {
  return entry(name).shape;
}

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const Entry& found = entry(name);
  const auto options = at::TensorOptions().dtype(found.dtype);
  if (found.begin == found.end) return at::empty(found.shape, options);
  auto* data = const_cast<std::uint8_t*>(mapping_->data()) + found.begin;
  if (found.begin % c10::elementSize(found.dtype) != 0) {
    at::Tensor copy = at::empty(found.shape, options);
    std::memcpy(copy.mutable_data_ptr(), data, found.end - found.begin);
    return copy;
  }
  return at::from_blob(
      data, found.shape, [keep = mapping_](void*) {}, options);
}

void SafetensorsFile::forget(const std::string& name) const {
  const Entry& found = entry(name);
  mapping_->forget(found.begin, found.end);
}

namespace {

/// Names the safetensors that lie in a folder under other names, if any.
std::string others_in(const fs::path& directory) {
  std::set<std::string> others;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, ignored))
    if (entry.path().extension() == ".safetensors") others.insert(entry.path().filename().string());
  if (others.empty()) return "";
  return "; there is " + join(std::vector<std::string>(others.begin(), others.end()), ", ") +
         ", which transformers does not read either: convert it to a folder of Hugging Face's";
}

}  // namespace

SafetensorsFolder SafetensorsFolder::open(const fs::path& directory, const std::string& stem) {
  SafetensorsFolder folder;
  folder.directory_ = directory;
  const fs::path single = directory / (stem + ".safetensors");
  const fs::path index = directory / (stem + ".safetensors.index.json");
  std::error_code ignored;
  if (fs::exists(single, ignored)) {
    folder.shards_.push_back(SafetensorsFile::open(single));
    folder.names_ = folder.shards_[0].names();
    for (const std::string& name : folder.names_) folder.shard_of_[name] = 0;
    return folder;
  }
  if (!fs::exists(index, ignored)) {
    for (const char* pickle :
         {"pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin", "consolidated.00.pth"})
      if (fs::exists(directory / pickle, ignored))
        throw UnsupportedError(
            directory.string(), " holds only ", pickle,
            ", a pickled file, which can run code when read; open it in transformers (or PEFT) and "
            "save it with save_pretrained, which writes safetensors");
    throw IoError("no ", single.filename().string(), " and no ", index.filename().string(), " in ",
                  directory.string(),
                  fs::exists(directory, ignored) ? others_in(directory) : ", which does not exist");
  }
  const Json document = read_json(index);
  if (!document.is_object() || !document.contains("weight_map") || !document["weight_map"].is_object())
    throw FormatError(index.string(), ": there is no 'weight_map' object");
  std::map<std::string, std::size_t> shard_numbers;
  for (const auto& [name, file] : document["weight_map"].items()) {
    if (!file.is_string()) throw FormatError(index.string(), ": the file of '", name, "' is no string");
    const std::string file_name = file.get<std::string>();
    if (file_name.empty() || fs::path(file_name).filename() != file_name || file_name == "..")
      throw FormatError(index.string(), ": '", file_name, "' is not the name of a file in this folder");
    const auto [number, added] = shard_numbers.emplace(file_name, folder.shards_.size());
    if (added) folder.shards_.push_back(SafetensorsFile::open(directory / file_name));
    if (!folder.shards_[number->second].contains(name))
      throw FormatError(index.string(), ": '", name, "' should be in ", file_name, ", but is not");
    folder.shard_of_[name] = number->second;
    folder.names_.push_back(name);
  }
  folder.add_unlisted();
  return folder;
}

void SafetensorsFolder::add_unlisted() {
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    for (const std::string& name : shards_[i].names()) {
      const auto [listed, added] = shard_of_.emplace(name, i);
      if (added) names_.push_back(name);
      const SafetensorsFile& other = shards_[listed->second];
      if (listed->second != i && !same_bytes(shards_[i].tensor(name), other.tensor(name)))
        throw FormatError(directory_.string(), ": '", name, "' is in two files with other numbers, ",
                          fs::path(other.where()).filename().string(), " and ",
                          fs::path(shards_[i].where()).filename().string(),
                          "; programs differ in which they take: remove one of the two");
    }
  }
}

const SafetensorsFile& SafetensorsFolder::shard(const std::string& name) const {
  const auto found = shard_of_.find(name);
  if (found == shard_of_.end())
    throw FormatError(where(), ": there is no tensor '", name, "'", did_you_mean(name, names_));
  return shards_[found->second];
}

at::Tensor SafetensorsFolder::tensor(const std::string& name) const {
  return shard(name).tensor(name);
}

std::vector<std::int64_t> SafetensorsFolder::shape(const std::string& name) const {
  return shard(name).shape(name);
}

void write_safetensors(const fs::path& path, const NamedTensors& tensors, const Metadata& metadata,
                       const TensorLoader& load) {
  std::vector<const std::pair<std::string, at::Tensor>*> sorted;
  std::set<std::string_view> seen{"__metadata__"};
  for (const auto& pair : tensors) {
    if (!seen.insert(pair.first).second)
      throw StateError("cannot write ", path.string(), ": two tensors are called '", pair.first, "'");
    if (!pair.second.defined())
      throw StateError("cannot write ", path.string(), ": '", pair.first, "' is undefined");
    sorted.push_back(&pair);
  }
  std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) {
    return std::make_pair(rank_of(a->second.scalar_type()), std::cref(a->first).get()) <
           std::make_pair(rank_of(b->second.scalar_type()), std::cref(b->first).get());
  });
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t at = 0;
  for (const auto* pair : sorted) {
    const std::uint64_t size = pair->second.numel() * pair->second.element_size();
    header[pair->first] = {{"dtype", kDtypes[rank_of(pair->second.scalar_type())].name},
                           {"shape", pair->second.sizes().vec()},
                           {"data_offsets", {at, at + size}}};
    at += size;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  AtomicFile file(path);
  const std::uint64_t size = text.size();
  file.write(&size, 8);
  file.write(text);
  for (const auto* pair : sorted) {
    at::Tensor tensor = pair->second;
    if (tensor.is_meta()) {
      tensor = load(pair->first);
      if (tensor.sizes() != pair->second.sizes() || tensor.scalar_type() != pair->second.scalar_type())
        throw StateError("cannot write ", path.string(), ": '", pair->first, "' is not what was announced");
    }
    tensor = tensor.detach().cpu().contiguous();
    file.write(tensor.const_data_ptr(), tensor.nbytes());
  }
  file.commit();
}

void write_safetensors_folder(const fs::path& directory, const NamedTensors& tensors,
                              std::uint64_t max_shard_bytes, const TensorLoader& load,
                              const std::string& stem) {
  std::vector<NamedTensors> shards(1);
  std::uint64_t filled = 0;
  std::uint64_t total = 0;
  for (const auto& pair : tensors) {
    const std::uint64_t size = pair.second.numel() * pair.second.element_size();
    if (!shards.back().empty() && filled + size > max_shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(pair);
    filled += size;
    total += size;
  }
  if (shards.size() == 1)
    return write_safetensors(directory / (stem + ".safetensors"), tensors, {{"format", "pt"}}, load);
  Json weight_map = Json::object();
  for (std::size_t i = 0; i < shards.size(); ++i) {
    char suffix[64];
    std::snprintf(suffix, sizeof suffix, "-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    write_safetensors(directory / (stem + suffix), shards[i], {{"format", "pt"}}, load);
    for (const auto& pair : shards[i]) weight_map[pair.first] = stem + suffix;
  }
  write_json(directory / (stem + ".safetensors.index.json"),
             {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}});
}

}  // namespace bitrain::io
