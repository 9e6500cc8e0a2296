#include <bitrain/hub/weights.h>

#include <algorithm>
#include <set>

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <c10/core/ScalarType.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/hub/bitsandbytes.h>
#include <bitrain/hub/finite_weights.h>
#include <bitrain/nn/embedding.h>
#include <bitrain/nn/linear.h>

namespace bitrain::hub {
namespace {

std::string list_some(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 8;
  std::vector<std::string> shown(names.begin(),
                                 names.begin() + static_cast<std::ptrdiff_t>(std::min(names.size(), kShown)));
  std::string text = join(shown, ", ");
  if (names.size() > kShown) text += " and " + std::to_string(names.size() - kShown) + " more";
  return text;
}

/// What the names of a file have before those that are looked for, or lack, where that holds for all of them.
std::string prefix_advice(const std::vector<std::string>& missing, const std::set<std::string>& unexpected) {
  const auto all = [&](const auto& in_file) {
    return std::all_of(missing.begin(), missing.end(),
                       [&](const std::string& name) { return unexpected.count(in_file(name)) != 0; });
  };
  const std::string& first = missing.front();
  for (const std::string& name : unexpected) {
    if (!ends_with(name, "." + first)) continue;
    const std::string prefix = name.substr(0, name.size() - first.size());
    if (all([&](const std::string& wanted) { return prefix + wanted; }))
      return to_text(". The file has them all behind '", prefix,
                     "': another program wrapped the model when it saved it; write them without it "
                     "(safetensors.torch.load_file and save_file)");
  }
  return "";
}

/// Fills a model from a source of tensors, and keeps account of what does not fit.
class Loader {
 public:
  Loader(nn::Module& model, const io::TensorSource& source, at::ScalarType dtype, at::Device device,
         const WeightNames& names, const LayerLoaded& layer_loaded)
      : model_(model),
        source_(source),
        dtype_(dtype),
        device_(device),
        names_(names),
        layer_loaded_(layer_loaded) {}

  void load() {
    load("", model_);
    source_.check_not_written();
    report();
  }

  static std::string joined(const std::string& path, const std::string& own) {
    return path.empty() ? own : path + "." + own;
  }

 private:
  void load(const std::string& path, nn::Module& module) {
    const TensorLookup lookup = [this](const std::string& name) {
      if (!source_.contains(name)) return at::Tensor();
      used_.insert(name);
      return source_.tensor(name);
    };
    auto* linear = dynamic_cast<nn::Linear*>(&module);
    if (linear != nullptr && !linear->shares_weight) {
      const std::string name = names_.in_file(joined(path, "weight"));
      if (is_bitsandbytes(name, lookup)) load_packed(name, *linear, lookup);
    }
    module.visit_own_tensors([&](const std::string& own, at::Tensor& tensor) {
      load_dense(names_.in_file(joined(path, own)), tensor);
    });
    for (const auto& [name, child] : module.children()) load(joined(path, name), *child);
    auto* layer = dynamic_cast<nn::Unit*>(&module);
    const bool map = linear != nullptr || dynamic_cast<nn::Embedding*>(&module) != nullptr;
    const bool whole = missing_.empty() && faults_.empty();  // Else there is nothing to go on with.
    if (layer == nullptr || map || !layer_loaded_ || !whole) return;
    try {
      layer_loaded_(*layer);
    } catch (Error& error) {
      error.add_context(path);
      throw;
    }
  }

  void load_packed(const std::string& name, nn::Linear& linear, const TensorLookup& lookup) {
    for (const std::string& part : source_.names()) {
      if (!starts_with(part, name)) continue;
      used_.insert(part);
      check(source_.tensor(part), part);
    }
    quant::QuantizedTensor packed = from_bitsandbytes(name, lookup);
    linear.weight = at::Tensor();  // Dealt with here, whether it fits or not.
    if (packed.shape != std::vector<std::int64_t>{linear.out_features, linear.in_features}) {
      faults_.push_back(to_text(name, " is ", at::IntArrayRef(packed.shape), ", the model wants [",
                                linear.out_features, ", ", linear.in_features, "]"));
      return;
    }
    linear.quantized = packed.to(device_);
  }

  void load_dense(const std::string& name, at::Tensor& tensor) {
    if (!source_.contains(name)) {
      missing_.push_back(name);
      return;
    }
    used_.insert(name);
    const at::Tensor stored = source_.tensor(name);
    if (stored.sizes() != tensor.sizes())
      faults_.push_back(to_text(name, " is ", stored.sizes(), ", the model wants ", tensor.sizes()));
    else if (!stored.is_floating_point())
      faults_.push_back(
          to_text(name, " holds ", c10::toString(stored.scalar_type()), ", no floating-point numbers"));
    else
      take(name, stored, tensor);
  }

  // On the meta device only headers are looked at.
  void check(const at::Tensor& stored, const std::string& name) const {
    if (!device_.is_meta()) check_finite(stored, source_.file_of(name), name);
  }

  void take(const std::string& name, const at::Tensor& stored, at::Tensor& tensor) {
    check(stored, name);
    tensor = stored.to(device_, dtype_, /*non_blocking=*/false, /*copy=*/true);
    source_.forget(name);  // Else the process would hold file and model side by side.
  }

  void report() {
    std::vector<std::string> unexpected;
    for (const std::string& name : source_.names())
      if (used_.count(name) == 0 && !names_.harmless(name)) unexpected.push_back(name);
    if (!missing_.empty())
      faults_.push_back("missing: " + list_some(missing_) + did_you_mean(missing_.front(), unexpected) +
                        names_.advice(missing_.front()));
    if (!unexpected.empty()) {
      faults_.push_back("unexpected: " + list_some(unexpected));
      if (!missing_.empty())
        faults_.back() += prefix_advice(missing_, {unexpected.begin(), unexpected.end()});
    }
    if (!faults_.empty())
      throw FormatError(source_.where(), ": the weights do not fit config.json: ", join(faults_, "; "));
  }

  nn::Module& model_;
  const io::TensorSource& source_;
  at::ScalarType dtype_;
  at::Device device_;
  const WeightNames& names_;
  const LayerLoaded& layer_loaded_;
  std::set<std::string> used_;
  std::vector<std::string> missing_;
  std::vector<std::string> faults_;
};

}  // namespace

std::optional<at::ScalarType> dtype_in(const io::Json& config, const std::string& where) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    const auto found = config.find(key);
    if (found == config.end() || !found->is_string()) continue;
    const std::string name = found->get<std::string>();
    if (name == "float32") return at::kFloat;
    if (name == "bfloat16") return at::kBFloat16;
    if (name == "float16") return at::kHalf;
    throw UnsupportedError(where, ": ", key, " '", name,
                           "' is not supported (there are float32, bfloat16, float16)");
  }
  return std::nullopt;
}

const char* dtype_name(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? "bfloat16" : dtype == at::kHalf ? "float16" : "float32";
}

at::ScalarType file_dtype(const io::TensorSource& source) {
  for (const std::string& name : source.names()) {
    const at::Tensor tensor = source.tensor(name);
    const bool norm = ends_with(name, "norm.weight") || ends_with(name, "Norm.weight") ||
                      ends_with(name, "LayerNorm.gamma");
    if (norm && tensor.is_floating_point()) return tensor.scalar_type();
  }
  return at::kFloat;
}

bool same_tensor(const io::TensorSource& source, const std::string& a, const std::string& b) {
  if (!source.contains(a) || !source.contains(b) || source.shape(a) != source.shape(b)) return false;
  const at::Tensor first = source.tensor(a);
  const at::Tensor second = source.tensor(b);
  return first.scalar_type() == second.scalar_type() && at::equal(first, second);
}

void load_weights(nn::Module& model, const io::TensorSource& source, at::ScalarType dtype, at::Device device,
                  const WeightNames& names, const LayerLoaded& layer_loaded) {
  Loader(model, source, dtype, device, names, layer_loaded).load();
}

void LazyTensors::add(io::NamedTensors& tensors, const std::string& name, const at::Tensor& tensor,
                      std::optional<at::ScalarType> dtype) {
  const at::ScalarType type = dtype.value_or(tensor.scalar_type());
  if (!keeper_ && type == tensor.scalar_type()) {
    tensors.emplace_back(name, tensor.detach());
    return;
  }
  later_.insert_or_assign(name, std::pair(tensor, type));
  tensors.emplace_back(name, at::empty(tensor.sizes(), at::TensorOptions().dtype(type).device(at::kMeta)));
}

io::TensorLoader LazyTensors::loader() const {
  return [keeper = keeper_, later = later_](const std::string& name) {
    const auto& [tensor, type] = later.at(name);
    if (keeper) keeper->fetch(tensor);
    return tensor.detach().to(type);
  };
}

CollectedWeights collect_weights(nn::Module& model, std::optional<at::ScalarType> dtype) {
  CollectedWeights result;
  LazyTensors lazy(model);
  std::optional<at::ScalarType> stored = dtype;
  model.visit_modules([&](const std::string& path, nn::Module& module) {
    const auto* linear = dynamic_cast<const nn::Linear*>(&module);
    const auto* embedding = dynamic_cast<const nn::Embedding*>(&module);
    if ((linear != nullptr && (!linear->adapters.empty() || linear->trainable_rows)) ||
        (embedding != nullptr && (!embedding->adapters.empty() || embedding->trainable_rows)))
      throw StateError("cannot save the model as a whole: ", path,
                       " has an adapter; merge it first, or save the adapter alone");
    if (linear != nullptr && linear->is_quantized()) {
      const quant::QuantizedTensor& weight = *linear->quantized;
      result.packed = quant::QuantizeOptions{weight.type, weight.block_size, weight.double_quant()};
      for (auto& part : to_bitsandbytes(path + ".weight", weight)) result.tensors.push_back(std::move(part));
    } else if (linear != nullptr) {
      result.dense_linears.push_back(path);
    }
    module.visit_own_tensors([&](const std::string& own, at::Tensor& tensor) {
      if (!stored) stored = tensor.scalar_type();
      lazy.add(result.tensors, Loader::joined(path, own), tensor, dtype);
    });
  });
  result.load = lazy.loader();
  result.dtype = stored.value_or(at::kFloat);
  return result;
}

void add_dtype(io::Json& config, const CollectedWeights& weights) {
  config["dtype"] = dtype_name(weights.dtype);
  config["torch_dtype"] = config["dtype"];  // For transformers 4.
  config.erase("quantization_config");      // That of the folder the model came from.
  if (weights.packed)
    config["quantization_config"] =
        quantization_config(*weights.packed, weights.dtype, weights.dense_linears);
}

}  // namespace bitrain::hub
