#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/nn/module.h>
#include <bitrain/nn/unit.h>
#include <bitrain/quant/quantized_tensor.h>

/// What all model folders share: dtypes in config.json, and tensors between files and modules.
namespace bitrain::hub {

/// The dtype that config.json names, if it does. Throws UnsupportedError for one that bitrain does not have.
[[nodiscard]] std::optional<at::ScalarType> dtype_in(const io::Json& config, const std::string& where);
[[nodiscard]] const char* dtype_name(at::ScalarType dtype);
/// The dtype of the norms of a file; they are never packed.
[[nodiscard]] at::ScalarType file_dtype(const io::TensorSource& source);

/// How the names of a file differ from those of the model.
struct WeightNames {
  /// The file's name for the model's.
  std::function<std::string(const std::string& name)> in_file = [](const std::string& name) { return name; };
  /// Whether a tensor of the file that the model has no place for may be passed over.
  std::function<bool(const std::string& name)> harmless = [](const std::string&) { return false; };
  /// What an error that names a missing tensor goes on with: what may be wrong, and the remedy.
  std::function<std::string(const std::string& name)> advice = [](const std::string&) { return ""; };
};

/// Whether two tensors of a file, or of two, are the same numbers; false where either is missing.
[[nodiscard]] bool same_tensor(const io::TensorSource& source, const std::string& a, const std::string& b);

/// Told of each layer of a model when all its weights are there.
using LayerLoaded = std::function<void(nn::Unit& layer)>;

/// Fills `model` from `source`, copying dense weights as `dtype` to `device`; weights that bitsandbytes
/// packed stay packed. Throws FormatError listing every tensor that is missing, unexpected or of another
/// shape; DivergedError naming the first one that holds NaN or infinity, and its file;
/// IoError when somebody writes to a file meanwhile.
void load_weights(nn::Module& model, const io::TensorSource& source, at::ScalarType dtype, at::Device device,
                  const WeightNames& names = {}, const LayerLoaded& layer_loaded = {});

/// The tensors of a model as files hold them.
struct CollectedWeights {
  io::NamedTensors tensors;                      ///< On the meta device: what `load` gives.
  io::TensorLoader load;                         ///< One that is to be converted, or that is elsewhere.
  at::ScalarType dtype = at::kFloat;             ///< Of dense weights.
  std::optional<quant::QuantizeOptions> packed;  ///< How linear maps are packed, where they are.
  std::vector<std::string> dense_linears;        ///< Paths of those that are not.
};

/// Collects them, dense weights as `dtype` where given, one at a time when they are loaded. Throws StateError
/// for a model with adapters. `model` must live as long as the result.
[[nodiscard]] CollectedWeights collect_weights(nn::Module& model, std::optional<at::ScalarType> dtype);

/// Puts `tensor` under `name`: by itself, or where it is to be converted to `dtype` or a keeper of units may
/// have it elsewhere, as one to be loaded.
class LazyTensors {
 public:
  explicit LazyTensors(nn::Module& model) : keeper_(nn::keeper_of(model)) {}
  void add(io::NamedTensors& tensors, const std::string& name, const at::Tensor& tensor,
           std::optional<at::ScalarType> dtype = {});
  [[nodiscard]] io::TensorLoader loader() const;

 private:
  std::shared_ptr<nn::WeightKeeper> keeper_;
  std::map<std::string, std::pair<at::Tensor, at::ScalarType>> later_;
};

/// Writes the dtype, and how weights are packed, into a config.json.
void add_dtype(io::Json& config, const CollectedWeights& weights);

}  // namespace bitrain::hub
