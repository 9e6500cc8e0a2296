#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/fields/rule.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::vocab {

/// Where the rows of new tokens come from: a rule for the input embedding and one for the output head. With
/// t_1..t_k the old tokens of a new piece (NewPiece::source) and E the old rows of the matrix:
///
///   piece_mean       (1/k) sum E[t_i]
///   weighted_mean    the same, each weighted by the bytes of t_i
///   first, last      E[t_1], E[t_k]
///   global_mean      mean of all old rows
///   gaussian         each element from N(mean, std) of its column over the old rows; with `std`, from N(0,
///   std) mean_covariance  a draw from N(mean, covariance_scale * covariance) of the old rows (Hewitt 2021)
///   copy             the row of the piece `copy_of`; without one, of the t_i with most bytes
///   tie_to_input     (head only) the new input row
struct InitialiserOptions {
  std::string preset = "zip_tie";
  std::string input;
  std::string head;
  bool norm_match = false;
  std::optional<double> std;
  double covariance_scale = 1.0;
  std::string copy_of;
};
template <class Visitor>
void visit_fields(Visitor& v, InitialiserOptions& o) {
  v.field("preset", o.preset, not_empty(),
          "A pair of rules by name: zip_tie (piece_mean for both), zip_tie_strict_tie (piece_mean, "
          "tie_to_input), last_first, or one rule's name for both.");
  v.field("input", o.input,
          one_of({"", "piece_mean", "weighted_mean", "first", "last", "global_mean", "gaussian",
                  "mean_covariance", "copy"}),
          "Rule for the rows of the input embedding; empty takes the preset's.");
  v.field(
      "head", o.head,
      one_of({"", "piece_mean", "weighted_mean", "first", "last", "global_mean", "gaussian",
              "mean_covariance", "copy", "tie_to_input"}),
      "Rule for the rows of the output head; empty takes the preset's. A tied head has no rows of its own.");
  v.field("norm_match", o.norm_match, any(),
          "Scale each new row to the mean norm of the old rows: averaging shrinks norms.");
  v.field("std", o.std, above(0), "gaussian: draw from N(0, std) instead of the old rows' statistics.");
  v.field("covariance_scale", o.covariance_scale, at_least(0),
          "mean_covariance: factor of the covariance; transformers uses 1e-9.");
  v.field("copy_of", o.copy_of, any(), "copy: the old piece whose row every new token gets.");
}

/// A rule for each matrix.
struct InitialiserRules {
  std::string input;
  std::string head;
};
/// The rules behind the options. Throws ConfigError naming the nearest name for one that does not exist.
[[nodiscard]] InitialiserRules rules_of(const InitialiserOptions& options);

/// Every name `preset` takes, presets with a name of their own first: what a recipe tries when asked for all.
[[nodiscard]] std::vector<std::string> initialiser_names();

/// For each new piece its old pieces and the bytes each stands for, flattened.
struct PieceTable {
  std::vector<std::int64_t> offsets{0};  ///< [pieces + 1]
  std::vector<text::TokenId> ids;
  std::vector<float> bytes;  ///< As long as `ids`.

  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  /// Appends a piece. Throws StateError when `source` is empty or the lengths differ.
  void add(const std::vector<text::TokenId>& source, const std::vector<float>& source_bytes);
};

/// What fill_rows needs besides the matrix.
struct FillRequest {
  std::string rule;            ///< Any but tie_to_input.
  std::int64_t old_rows = 0;   ///< Rows [0, old_rows) are read.
  std::int64_t first_row = 0;  ///< Rows [first_row, first_row + pieces.size()) are written.
  std::int64_t copy_row = -1;  ///< For `copy`; -1: the longest old piece of each.
  std::uint64_t seed = 0;
  std::string purpose;  ///< Keeps the draws of different matrices apart.
};

/// Fills rows of `matrix` [V, D] (float32, bfloat16, float16 or float64, on the CPU, contiguous). Sums are in
/// float32 and rounded once (float64 in float64). Draws are a function of (seed, purpose, row, column).
/// Nothing as large as the matrix is made. Throws StateError for ids outside [0, old_rows).
void fill_rows(at::Tensor& matrix, const PieceTable& pieces, const InitialiserOptions& options,
               const FillRequest& request);

/// Mean of rows [0, rows) of `matrix` [V, D] as float32 [D], or float64 for a float64 matrix.
[[nodiscard]] at::Tensor mean_row(const at::Tensor& matrix, std::int64_t rows);
/// Mean Euclidean norm of rows [begin, end).
[[nodiscard]] double mean_norm(const at::Tensor& matrix, std::int64_t begin, std::int64_t end);

}  // namespace bitrain::vocab
