#pragma once

#include <ATen/core/Tensor.h>

namespace bitrain::losses {

/// log of the mean over pairs i != j of exp(-2 |z_i - z_j|^2) for unit vectors z [B, D] (Wang and Isola
/// 2020): 0 when all embeddings have collapsed into one, well below where they spread over the sphere. A
/// measure to watch, without gradient; the [B, B] distances exist a tile at a time. Throws DataError for B
/// below 2, StateError for anything but a matrix.
[[nodiscard]] double uniformity(const at::Tensor& z);

}  // namespace bitrain::losses
