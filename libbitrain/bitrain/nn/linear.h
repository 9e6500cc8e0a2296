#pragma once

#include <optional>
#include <vector>

#include <bitrain/nn/low_rank.h>
#include <bitrain/nn/unit.h>
#include <bitrain/quant/quantized_tensor.h>

namespace bitrain::nn {

/// y = x W^T + b: the one seam for QLoRA. The weight is dense or 4-bit; adapters are LowRank pairs. Models
/// never know which; adapters never know the quantiser. Also the language-model head.
class Linear : public Unit {
 public:
  /// Weights are allocated but not filled. The names are fixed: "weight", "bias".
  Linear(std::int64_t in_features, std::int64_t out_features, bool bias, at::TensorOptions options = {});

  /// x [.., in] -> [.., out]. The base weight gets a gradient only where it requires one.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const ForwardContext& context) const;

  [[nodiscard]] bool is_quantized() const { return quantized.has_value(); }
  /// Replaces the dense weight by its 4-bit form (frozen).
  void quantize(const quant::QuantizeOptions& options);
  /// The weight as a dense tensor: itself, or decoded into `dtype`; without adapters.
  [[nodiscard]] at::Tensor dense_weight(at::ScalarType dtype) const;
  /// dense_weight plus every enabled adapter and trainable row, in `dtype` (summed in float32).
  [[nodiscard]] at::Tensor merged_weight(at::ScalarType dtype) const;

  std::int64_t in_features;
  std::int64_t out_features;
  at::Tensor weight;  ///< [out, in]; undefined when quantised.
  std::optional<quant::QuantizedTensor> quantized;
  at::Tensor bias;             ///< [out], or undefined.
  bool shares_weight = false;  ///< A tied head: the weight is the embedding's, which visits and saves it.
  std::vector<LowRank> adapters;
  std::optional<TrainableRows> trainable_rows;  ///< For a head.

  void visit_own_tensors(const TensorVisitor& visit) override;
  void visit_own_parts(const PartVisitor& visit) override;
};

}  // namespace bitrain::nn
