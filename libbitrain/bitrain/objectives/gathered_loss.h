#pragma once

#include <memory>

#include <bitrain/dist/communicator.h>
#include <bitrain/objectives/embedding_loss.h>

namespace bitrain::objectives {

/// The same loss over the rows of all ranks: every rank gathers all embeddings and computes the whole loss,
/// of which it counts its share, so that loss, weight and gradients summed over ranks are those of one rank
/// with all rows; also those of parameters inside the loss. For losses that have no form of their own for
/// ranks (Contrastive has): memory and work of the loss are those of the whole step on every rank.
/// `loss.loss` sees batches with everything but positions and device tensors of tokens that the others read.
[[nodiscard]] EmbeddingLoss over_ranks(EmbeddingLoss loss, std::shared_ptr<dist::Communicator> ranks);

}  // namespace bitrain::objectives
