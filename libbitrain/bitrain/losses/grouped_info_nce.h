#pragma once

#include <ATen/core/Tensor.h>

#include <bitrain/dist/communicator.h>
#include <bitrain/losses/info_nce.h>

namespace bitrain::losses {

/// InfoNCE over the candidates of a group of ranks: grouped aggregation (M2-Encoder, Guo et al. 2024). A rank
/// scores its own queries alone ("local loss"), so its similarities are B x (the group's candidates) and the
/// rows it gathers grow with the group, not with the world; large batches come from micro-batches whose
/// embeddings were collected before (GradCache).
///
/// queries, positives [B, D] (row i of one belongs to row i of the other), hard_negatives [H, D] or undefined
/// on every rank; B and H may differ between ranks. With `symmetric`, positives also look for their queries
/// among the group's, and the sum is the mean of both ways. The sum counts this rank's queries only;
/// gradients follow the convention of dist::gather_rows: summed over ranks they are those of the sum over the
/// group. `group` must live until backward has run. Throws as info_nce.
[[nodiscard]] ContrastiveLoss grouped_info_nce(const at::Tensor& queries, const at::Tensor& positives,
                                               const at::Tensor& hard_negatives, bool symmetric,
                                               const InfoNceOptions& options, dist::Communicator& group);

/// NT-Xent (Chen et al. 2020) over the pairs of a group of ranks, as BabelBERT has it (Green et al. 2023):
/// both sides of all pairs are queries and candidates; a row's positive is the other side of its pair, and
/// all rows but itself are candidates, those of its own side too.
///
/// `labels` [B] int64, or undefined on every rank: pairs of one label, anywhere in the group, are each
/// other's positives with all their rows (SupCon, Khosla et al. 2020). Labels are 0 or above. Hard negatives
/// are candidates only. The sum counts this rank's 2B rows, and per_query [2B] alternates between the sides;
/// it does not change when the sides do. Otherwise as grouped_info_nce.
[[nodiscard]] ContrastiveLoss grouped_nt_xent(const at::Tensor& texts, const at::Tensor& pairs,
                                              const at::Tensor& hard_negatives, const at::Tensor& labels,
                                              const InfoNceOptions& options, dist::Communicator& group);

}  // namespace bitrain::losses
