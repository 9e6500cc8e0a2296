#include <bitrain/hub/config_sizes.h>

#include <charconv>
#include <limits>
#include <set>

#include <ATen/core/Formatting.h>
#include <c10/util/ArrayRef.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain::hub {
namespace {

std::int64_t elements(const std::vector<std::int64_t>& shape) {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product = saturating_product(product, extent);
  return product;
}

/// Numbers of the layers that the file has tensors of.
std::set<std::int64_t> layers_in(const io::TensorSource& source, const std::string& prefix) {
  std::set<std::int64_t> layers;
  for (const std::string& name : source.names()) {
    std::int64_t number = 0;
    if (!starts_with(name, prefix)) continue;
    const char* const begin = name.data() + prefix.size();
    if (std::from_chars(begin, name.data() + name.size(), number).ec == std::errc()) layers.insert(number);
  }
  return layers;
}

/// What is this much larger than the files is not tried; what is wrong by less can be made and is then told
/// in full by load_weights. Weights in 4 bits are twice as many as the elements that hold them.
constexpr std::int64_t kProportion = 4;

}  // namespace

bool has_weights(const std::filesystem::path& directory) {
  std::error_code ignored;
  return std::filesystem::exists(directory / "model.safetensors", ignored) ||
         std::filesystem::exists(directory / "model.safetensors.index.json", ignored);
}

std::int64_t saturating_product(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<std::int64_t>::max() : product;
}

void check_sizes(const io::TensorSource& source, const WantedSizes& wanted) {
  std::vector<std::string> faults;
  std::int64_t all = 0;
  for (const std::string& name : source.names()) all += elements(source.shape(name));
  for (const WantedTensor& tensor : wanted.tensors) {
    const bool there = source.contains(tensor.name);
    const std::int64_t size = there ? elements(source.shape(tensor.name)) : all;
    if (elements(tensor.shape) / kProportion <= size) continue;
    const std::string state =
        there ? to_text(" is ", at::IntArrayRef(source.shape(tensor.name))) : " is missing";
    faults.push_back(to_text(tensor.name, state, ", the model wants ", at::IntArrayRef(tensor.shape)));
  }
  if (const auto layers = static_cast<std::int64_t>(layers_in(source, wanted.layers).size());
      layers < wanted.layer_count / kProportion)
    faults.push_back(to_text("there are ", layers, " layers (", wanted.layers, "N), the model wants ",
                             wanted.layer_count));
  if (!faults.empty())
    throw FormatError(source.where(), ": the weights do not fit config.json: ", join(faults, "; "));
}

}  // namespace bitrain::hub
