#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::nn {

/// How the token vectors of a segment become one: Sentence-BERT's modes (Reimers and Gurevych 2019), the
/// position-weighted mean of SGPT (Muennighoff 2022), and the last token.
enum class Pooling {
  kCls,                ///< The first token.
  kMax,                ///< The largest of each feature.
  kMean,               ///< Their mean.
  kMeanSqrtLenTokens,  ///< Their sum over the square root of their number.
  kWeightedMean,       ///< The mean with weights 1, 2, .. by position.
  kLastToken,          ///< The last token.
};

/// sentence-transformers' name of a mode ("mean_sqrt_len_tokens"), and back; nothing for an unknown name.
[[nodiscard]] const char* pooling_name(Pooling mode);
[[nodiscard]] std::optional<Pooling> pooling_named(const std::string& name);
/// Every mode, in the order in which sentence-transformers joins them.
[[nodiscard]] const std::vector<Pooling>& pooling_modes();

/// hidden [N, D] -> [S, modes * D]: every segment pooled by each mode in turn, joined. `boundaries`: 0, then
/// the end of each segment, the last one N (Batch::boundaries). The result is float32 (float64 for float64),
/// so that similarities of bfloat16 models keep their digits; sums do not depend on the number of threads.
/// Of equal largest values, the first gets the gradient. Throws StateError for an empty segment, no mode, or
/// shapes that do not fit.
[[nodiscard]] at::Tensor pool_segments(const at::Tensor& hidden, const std::vector<std::int32_t>& boundaries,
                                       const std::vector<Pooling>& modes);

namespace reference {
/// The same in plain ATen calls, for any device and dtype.
[[nodiscard]] at::Tensor pool_segments(const at::Tensor& hidden, const std::vector<std::int32_t>& boundaries,
                                       const std::vector<Pooling>& modes);
}  // namespace reference

}  // namespace bitrain::nn
