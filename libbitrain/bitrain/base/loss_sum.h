#pragma once

#include <map>
#include <string>

#include <ATen/core/Tensor.h>

namespace bitrain {

/// A loss kept as a sum with its count, so that means survive accumulation and ranks: it is divided once, by
/// the global count of an optimizer step. Weight 0 is an error where it is divided, never a NaN.
struct LossSum {
  /// A named share of the sum, for the log: per language ("language/es") or per term.
  struct Part {
    double sum = 0;
    double weight = 0;
  };

  at::Tensor sum;     ///< [] float, differentiable.
  double weight = 0;  ///< Supervised tokens (or pairs).
  std::map<std::string, Part> parts;
};

}  // namespace bitrain
