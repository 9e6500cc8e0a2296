#pragma once

#include <ATen/core/Tensor.h>

/// Losses that teach embeddings and scores to follow others. All return [B], one loss an example, float32
/// (float64 where an input is); nothing flows into a teacher. Shapes that do not fit throw StateError.
namespace bitrain::losses {

/// (cos(a_i, b_i) - target_i)^2 for embeddings a, b [B, D] and scores target [B] in [-1, 1]
/// (sentence-transformers' CosineSimilarityLoss). A zero vector has cosine 0 with everything. Throws
/// DataError, naming the row, for a target outside [-1, 1] or NaN.
[[nodiscard]] at::Tensor cosine_regression(const at::Tensor& a, const at::Tensor& b,
                                           const at::Tensor& target);

/// Mean over the features of (student - teacher)^2, both [B, D] (Reimers and Gurevych 2020).
[[nodiscard]] at::Tensor embedding_mse(const at::Tensor& student, const at::Tensor& teacher);

/// temperature^2 KL(softmax(teacher / temperature) || softmax(student / temperature)) over the n candidates
/// of each example, scores [B, n] (Hinton et al. 2015). Throws ConfigError for a temperature not above 0,
/// DataError for n below 2.
[[nodiscard]] at::Tensor kl_distillation(const at::Tensor& student_scores, const at::Tensor& teacher_scores,
                                         double temperature = 1.0);

/// Mean over the negatives of ((s_0 - s_k) - (t_0 - t_k))^2 for scores [B, n], the positive first
/// (MarginMSE, Hofstatter et al. 2020). Throws DataError for n below 2.
[[nodiscard]] at::Tensor margin_mse(const at::Tensor& student_scores, const at::Tensor& teacher_scores);

/// Mean over j != i of (cos(s_i, s_j) - cos(t_i, t_j))^2 for embeddings student [B, D] and teacher [B, D'] of
/// any widths: keeps the geometry of a language while another is learnt. The two [B, B] matrices exist a
/// tile at a time, forward and backward. Throws DataError for B below 2.
[[nodiscard]] at::Tensor similarity_distillation(const at::Tensor& student, const at::Tensor& teacher);

}  // namespace bitrain::losses
