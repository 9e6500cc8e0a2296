#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/base/batch.h>
#include <bitrain/fields/rule.h>
#include <bitrain/models/language_model.h>

namespace bitrain::adapters {

struct MergeOptions {
  bool requantize = false;
  std::string dtype = "bfloat16";
};
template <class Visitor>
void visit_fields(Visitor& v, MergeOptions& o) {
  v.field("requantize", o.requantize, any(),
          "Write merged 4-bit weights in 4 bits again; otherwise they become dense.");
  v.field("dtype", o.dtype, one_of({"float32", "bfloat16", "float16"}),
          "Type of weights that were in 4 bits and become dense.");
}

/// Folds every enabled adapter and trained row into its weight: W + scale B A, summed in float32 and rounded
/// once. A 4-bit base is decoded first, as the adapter saw it in training ("NF4-faithful"), not taken from
/// the original 16-bit weights. Dense weights keep their dtype. Where the two sides of a tied embedding come
/// to differ, the head gets its own weight and config().tie_word_embeddings becomes false. Afterwards the
/// model has no adapters and nothing requires grad. Deterministic; parallel over modules.
void merge(nn::Module& model, const MergeOptions& options = {});

/// How far two sets of logits are apart.
struct LogitDifference {
  double max_absolute = 0;
  double mean_absolute = 0;
  double mean_kl = 0;         ///< Mean KL(before || after) a token, nats.
  double top1_agreement = 1;  ///< Share of tokens whose likeliest id is the same.
};
[[nodiscard]] LogitDifference compare_logits(const at::Tensor& before, const at::Tensor& after);

/// Logits [N, V] float32 of a small batch, without gradient.
[[nodiscard]] at::Tensor logits(models::LanguageModel& model, const Batch& batch);

/// Merges and says how far the logits of `batch` moved.
[[nodiscard]] LogitDifference merge_and_compare(models::LanguageModel& model, const Batch& batch,
                                                const MergeOptions& options = {});

}  // namespace bitrain::adapters
