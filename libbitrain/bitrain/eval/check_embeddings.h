#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace bitrain::eval {

/// What comparing rows by direction needs. Throws StateError unless x is float32 [N, D] with N, D > 0, and
/// DataError naming the first row that has NaN or infinity or is all zero, or when all of several rows are
/// equal: no neighbour is then nearer than another. `what` names x in messages.
void check_embeddings(const at::Tensor& x, const std::string& what);

}  // namespace bitrain::eval
