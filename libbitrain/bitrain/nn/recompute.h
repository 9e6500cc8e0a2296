#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::nn {

/// A piece of a model as a function of its input tensors.
using Piece = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

/// piece(inputs), keeping nothing for backward but the inputs: the piece runs again there (activation
/// recomputation, Chen et al. 2016). Gradients also reach the parameters the piece uses,
/// through backward() (autograd's grad() does not see them). The piece must be a
/// pure function of the inputs and of those parameters; dropout keyed by position is. Then the results are
/// those without recomputation, bit for bit. `piece` lives until backward.
[[nodiscard]] std::vector<at::Tensor> recompute(Piece piece, const std::vector<at::Tensor>& inputs);

}  // namespace bitrain::nn
