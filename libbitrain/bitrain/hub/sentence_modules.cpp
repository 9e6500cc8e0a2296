#include <bitrain/hub/sentence_modules.h>

#include <algorithm>
#include <array>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/hub/config_sizes.h>
#include <bitrain/hub/weights.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/config_reader.h>

namespace bitrain::hub {
namespace fs = std::filesystem;
namespace {

using io::Json;
using models::ConfigReader;
using models::Dense;
using nn::Activation;

constexpr const char* kSentenceFeatures = "sentence_embedding";

constexpr std::array<std::pair<const char*, Activation>, 5> kActivations = {
    {{"torch.nn.modules.linear.Identity", Activation::kIdentity},
     {"torch.nn.modules.activation.Tanh", Activation::kTanh},
     {"torch.nn.modules.activation.ReLU", Activation::kRelu},
     {"torch.nn.modules.activation.GELU", Activation::kGelu},
     {"torch.nn.modules.activation.Sigmoid", Activation::kSigmoid}}};

std::string last_part(const std::string& dotted) {
  return dotted.substr(dotted.rfind('.') + 1);
}

Activation activation_named(const std::string& name, const std::string& where) {
  std::vector<std::string> names;
  for (const auto& [known, activation] : kActivations) {
    names.push_back(last_part(known));
    if (starts_with(name, "torch.nn.") && last_part(name) == last_part(known)) return activation;
  }
  throw UnsupportedError(where, ": the activation_function '", name,
                         "' is not supported; there are those of torch.nn: ", join(names, ", "));
}

}  // namespace

std::vector<ModuleEntry> read_modules(const fs::path& directory, const std::vector<std::string>& known) {
  const fs::path path = directory / "modules.json";
  const Json json = io::read_json(path);
  if (!json.is_array() || json.empty()) throw FormatError(path.string(), ": a list of modules was expected");
  std::vector<ModuleEntry> modules;
  for (const Json& element : json) {
    const ConfigReader reader(element, path.string());
    std::string type;
    std::string folder;
    reader.require("type", type);
    reader.read("path", folder);
    const fs::path relative(folder);
    if (relative.is_absolute() || std::find(relative.begin(), relative.end(), "..") != relative.end())
      throw FormatError(path.string(), ": the path '", folder, "' leaves the folder");
    modules.push_back({last_part(type), directory / relative});
    if (std::find(known.begin(), known.end(), modules.back().type) == known.end())
      throw UnsupportedError(path.string(), ": the module type '", type,
                             "' is not supported; there are: ", join(known, ", "));
  }
  return modules;
}

std::string names_of(const std::vector<ModuleEntry>& modules) {
  std::vector<std::string> names;
  names.reserve(modules.size());
  for (const ModuleEntry& module : modules) names.push_back(module.type);
  return join(names, ", ");
}

fs::path ModuleWriter::add(const std::string& type) {
  const std::size_t index = modules_.size();
  const std::string path = index == 0 ? "" : std::to_string(index) + "_" + last_part(type);
  modules_.push_back({{"idx", index},
                      {"name", std::to_string(index)},
                      {"path", path},
                      {"type", "sentence_transformers." + type}});
  fs::create_directories(directory_ / path);
  return directory_ / path;
}

void ModuleWriter::finish() const {
  io::write_json(directory_ / "modules.json", modules_);
}

std::unique_ptr<Dense> read_dense(const fs::path& directory, const std::string& features,
                                  const OpenOptions& options) {
  const fs::path path = directory / "config.json";
  const std::string where = path.string();
  const Json json = io::read_json(path);
  const ConfigReader reader(json, where);
  std::int64_t in_features = 0;
  std::int64_t out_features = 0;
  bool bias = true;
  bool residual = false;
  std::string activation = "torch.nn.modules.activation.Tanh";
  reader.require("in_features", in_features);
  reader.require("out_features", out_features);
  if (in_features < 1 || out_features < 1)
    throw FormatError(where, ": in_features and out_features must be at least 1");
  reader.read("bias", bias);
  reader.read("activation_function", activation);
  reader.read("use_residual", residual);
  if (residual) throw UnsupportedError(where, ": use_residual is not supported");
  std::string name = kSentenceFeatures;
  for (const char* key : {"module_input_name", "module_output_name"}) {  // The second follows the first.
    reader.read(key, name);
    if (name != features)
      throw UnsupportedError(where, ": ", key, " '", name, "' is not supported; there is ", features);
  }
  const io::SafetensorsFolder source = io::SafetensorsFolder::open(directory);
  check_sizes(source, {"", 0, {{"linear.weight", {out_features, in_features}}}});
  const at::ScalarType dtype = options.dtype.value_or(at::kFloat);
  auto dense = std::make_unique<Dense>(in_features, out_features, bias, activation_named(activation, where),
                                       at::TensorOptions().dtype(dtype));
  load_weights(*dense, source, dtype, options.device);
  return dense;
}

void write_dense(const fs::path& directory, Dense& dense, const std::string& features,
                 const SaveOptions& options) {
  const auto* known = std::find_if(kActivations.begin(), kActivations.end(),
                                   [&](const auto& entry) { return entry.second == dense.activation; });
  if (known == kActivations.end())
    throw UnsupportedError("sentence-transformers has no name for the activation of a dense map");
  Json config = {{"in_features", dense.linear.in_features},
                 {"out_features", dense.linear.out_features},
                 {"bias", dense.linear.bias.defined()},
                 {"activation_function", known->first}};
  if (features != kSentenceFeatures)  // Versions before 5.4 do not know the keys.
    config["module_input_name"] = config["module_output_name"] = features;
  io::write_json(directory / "config.json", config);
  const CollectedWeights weights = collect_weights(dense, options.dtype);
  io::write_safetensors_folder(directory, weights.tensors, options.max_shard_bytes, weights.load);
}

}  // namespace bitrain::hub
