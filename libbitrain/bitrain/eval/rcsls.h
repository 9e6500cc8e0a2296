#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include <bitrain/fields/rule.h>

/// Relaxed CSLS (Joulin et al. 2018, "Loss in translation"): a map between two spaces, fitted to the measure
/// it is used with.
namespace bitrain::eval {

/// Pairs (x_i, y_i) of a dictionary [n, D], and the two spaces [N, D], [M, D] whose rows crowd around them.
/// All rows are float32 and of length 1.
struct AlignmentData {
  at::Tensor x;
  at::Tensor y;
  at::Tensor sources;
  at::Tensor targets;
};

struct RcslsOptions {
  std::int64_t iterations = 10;
  std::int64_t neighbours = 10;
  std::int64_t negatives = 200000;
  double learning_rate = 1.0;
  std::string projection = "none";
};
template <class Visitor>
void visit_fields(Visitor& v, RcslsOptions& o) {
  v.field("iterations", o.iterations, at_least(0), "Steps tried; one that does not lower the loss counts.");
  v.field("neighbours", o.neighbours, at_least(1), "Nearest rows whose similarity is held down.");
  v.field("negatives", o.negatives, at_least(1),
          "Rows of each space, from the first, that neighbours are sought among.");
  v.field("learning_rate", o.learning_rate, above(0), "First step; halved when the loss rises.");
  v.field("projection", o.projection, one_of({"none", "spectral", "orthogonal"}),
          "What every step ends with: nothing, singular values cut to 1, or the nearest orthogonal map.");
}

struct RcslsLoss {
  double value = 0;
  at::Tensor gradient;  ///< [D, D]: d value / d map.
};

/// -(1/n) sum over i of 2 x_i M . y_i, less the mean of x_i M . t over the nearest targets t, less the mean
/// of s M . y_i over the sources s whose s M is nearest to y_i. The neighbours count as constants in the
/// gradient. Throws as fit_rcsls.
[[nodiscard]] RcslsLoss rcsls_loss(const AlignmentData& data, const at::Tensor& map, std::int64_t neighbours);

/// The map M [D, D] that brings x M near y: gradient descent on rcsls_loss from procrustes on. A step that
/// does not lower the loss is taken back and the rate halved, so the result is never worse than procrustes by
/// that loss. Throws StateError for shapes or types that do not fit, DataError as check_embeddings,
/// ConfigError for options out of range.
[[nodiscard]] at::Tensor fit_rcsls(const AlignmentData& data, const RcslsOptions& options = {});

}  // namespace bitrain::eval
