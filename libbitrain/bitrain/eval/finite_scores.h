#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace bitrain::eval {

/// Throws DivergedError where `score` is NaN or infinite: that is no score. `what` names it in the message.
void check_score(double score, const std::string& what);

/// The same for all elements of what a model gave.
void check_finite(const at::Tensor& x, const std::string& what);

}  // namespace bitrain::eval
