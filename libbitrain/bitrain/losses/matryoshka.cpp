#include <bitrain/losses/matryoshka.h>

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/unit_rows.h>

namespace bitrain::losses {
namespace {

void check(const std::vector<at::Tensor>& embeddings, const std::vector<std::int64_t>& dims) {
  if (embeddings.empty()) throw StateError("matryoshka: there are no embeddings");
  const std::int64_t widest = *std::max_element(dims.begin(), dims.end());
  for (const at::Tensor& embedding : embeddings) {
    if (!embedding.defined() || embedding.dim() < 1 || embedding.size(-1) < widest)
      throw StateError("matryoshka: dims has ", widest, ", more than the features of an embedding",
                       embedding.defined() ? to_text(" ", embedding.sizes()) : " that is undefined");
  }
}

}  // namespace

void check_widths(const MatryoshkaOptions& options) {
  const std::vector<std::int64_t>& dims = options.dims;
  if (dims.empty()) throw ConfigError("matryoshka: dims is empty");
  for (auto dim = dims.begin(); dim != dims.end(); ++dim) {
    if (*dim < 1) throw ConfigError("matryoshka: dims must be at least 1, not ", *dim);
    if (std::find(dims.begin(), dim, *dim) != dim) throw ConfigError("matryoshka: dims has ", *dim, " twice");
  }
  if (!options.weights.empty() && options.weights.size() != dims.size())
    throw ConfigError("matryoshka: ", options.weights.size(), " weights for ", dims.size(), " dims");
  for (const double weight : options.weights)
    if (!(weight >= 0) || std::isinf(weight))
      throw ConfigError("matryoshka: weights must be finite and at least 0, not ", weight);
}

at::Tensor matryoshka(const EmbeddingLoss& loss, const std::vector<at::Tensor>& embeddings,
                      const MatryoshkaOptions& options) {
  check_widths(options);
  check(embeddings, options.dims);
  at::Tensor sum;
  for (std::size_t k = 0; k < options.dims.size(); ++k) {
    std::vector<at::Tensor> leading;
    for (const at::Tensor& embedding : embeddings) {
      const at::Tensor cut = embedding.narrow(-1, 0, options.dims[k]);
      leading.push_back(options.normalize ? nn::unit_rows(cut) : cut);
    }
    const at::Tensor term = loss(leading) * (options.weights.empty() ? 1.0 : options.weights[k]);
    sum = sum.defined() ? sum + term : term;
  }
  return sum;
}

}  // namespace bitrain::losses
