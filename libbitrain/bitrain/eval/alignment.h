#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include <bitrain/fields/rule.h>

/// Maps between the embedding spaces of two languages, fitted after training. Embeddings are rows; float32.
namespace bitrain::eval {

/// y = ((x - shift) / scale) rotation.
struct Calibration {
  at::Tensor shift;     ///< [D]; undefined: none.
  at::Tensor scale;     ///< [D]; undefined: none.
  at::Tensor rotation;  ///< [D, D]; undefined: none.

  /// x [N, D] -> [N, D]. Throws StateError for another width.
  [[nodiscard]] at::Tensor apply(const at::Tensor& x) const;
};

/// Shift and scale after which every column of x [N, D] has mean 0 and variance 1 (CCP, arXiv 2206.03281). A
/// column that never changes keeps scale 1. Throws DataError for fewer than two rows or values that are not
/// finite.
[[nodiscard]] Calibration fit_shift_and_scale(const at::Tensor& x);

/// The orthogonal R that brings x R nearest to y, row i to row i (Schönemann 1966): U V^T of the singular
/// value decomposition of x^T y. Throws StateError for shapes that differ, DataError for values that are not
/// finite.
[[nodiscard]] at::Tensor procrustes(const at::Tensor& x, const at::Tensor& y);

struct UnsupervisedOptions {
  std::int64_t iterations = 20;
  std::int64_t anchors = 2000;
  std::int64_t csls_neighbours = 10;
};
template <class Visitor>
void visit_fields(Visitor& v, UnsupervisedOptions& o) {
  v.field("iterations", o.iterations, at_least(1), "Rounds of matching rows and rotating again.");
  v.field("anchors", o.anchors, at_least(2),
          "Rows of each side, from the first, that the start is found on.");
  v.field("csls_neighbours", o.csls_neighbours, at_least(0), "Neighbours of CSLS in matching; 0: cosine.");
}

/// A rotation without pairs: rows are matched by how far they lie from all others of their own side, whatever
/// the rotation, then rotation and mutual nearest neighbours improve each other (Artetxe et al. 2018). Works
/// where the two clouds have one shape. Throws as procrustes; StateError when no rows match.
[[nodiscard]] at::Tensor fit_rotation_unsupervised(const at::Tensor& x, const at::Tensor& y,
                                                   const UnsupervisedOptions& options = {});

}  // namespace bitrain::eval
