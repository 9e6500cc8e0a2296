#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain {

/// What a model returns. Logits are not here on purpose: objectives apply the head in chunks (see losses).
struct ModelOutput {
  at::Tensor hidden;                   ///< [N, D] after the final norm.
  std::vector<at::Tensor> all_hidden;  ///< [N, D] each: embeddings, then every layer; only when asked for.
};

}  // namespace bitrain
