#include <bitrain/base/batch.h>

#include <algorithm>

#include <ATen/ops/empty.h>

#include <bitrain/base/error.h>

namespace bitrain {

std::int64_t Batch::longest_segment() const {
  const std::vector<std::int32_t>& all = whole_boundaries.empty() ? boundaries : whole_boundaries;
  std::int32_t longest = 0;
  for (std::size_t s = 1; s < all.size(); ++s) longest = std::max(longest, all[s] - all[s - 1]);
  return longest;
}

Batch Batch::to(at::Device device) const {
  Batch moved = *this;
  for (at::Tensor* tensor :
       {&moved.input_ids, &moved.labels, &moved.position_ids, &moved.token_type_ids, &moved.cu_seqlens}) {
    if (tensor->defined()) *tensor = tensor->to(device);
  }
  return moved;
}

Batch token_share(const Batch& batch, std::int64_t rank, std::int64_t ranks) {
  if (ranks == 1 || batch.tokens() == 0) return batch;
  if (batch.tokens() < ranks)
    throw DataError("a micro-batch of ", batch.tokens(), " tokens cannot be shared by ", ranks, " ranks");
  if (!batch.group_ids.empty() || !batch.document_ids.empty() || !batch.scores.empty())
    throw StateError("tokens of examples with several texts cannot be shared by ranks");
  const auto begin = static_cast<std::int32_t>(token_begin(batch.tokens(), rank, ranks));
  const auto end = static_cast<std::int32_t>(token_begin(batch.tokens(), rank + 1, ranks));
  Batch share;
  share.whole_boundaries = batch.boundaries;
  share.first_token = batch.first_token + begin;
  share.boundaries.push_back(0);
  for (std::size_t s = 0; s + 1 < batch.boundaries.size(); ++s) {
    if (batch.boundaries[s + 1] <= begin || batch.boundaries[s] >= end) continue;
    share.boundaries.push_back(std::min(batch.boundaries[s + 1], end) - begin);
    if (!batch.language_ids.empty()) share.language_ids.push_back(batch.language_ids[s]);
    if (!batch.weights.empty()) share.weights.push_back(batch.weights[s]);
  }
  const auto part = [&](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.narrow(0, begin, end - begin).contiguous() : tensor;
  };
  share.input_ids = part(batch.input_ids);
  share.labels = part(batch.labels);
  share.position_ids = part(batch.position_ids);
  share.token_type_ids = part(batch.token_type_ids);
  const at::Tensor ends = at::empty({static_cast<std::int64_t>(share.boundaries.size())}, at::kInt);
  std::copy(share.boundaries.begin(), share.boundaries.end(), ends.mutable_data_ptr<std::int32_t>());
  share.cu_seqlens = ends.to(batch.input_ids.device());
  return share;
}

Batch make_batch(const std::vector<std::vector<std::int32_t>>& ids,
                 const std::vector<std::vector<std::int32_t>>& labels,
                 const std::vector<std::int32_t>& language_ids) {
  if (ids.size() != labels.size()) {
    throw DataError("a batch needs one label row a segment, got ", ids.size(), " segments and ",
                    labels.size(), " label rows");
  }
  Batch batch;
  batch.boundaries.push_back(0);
  std::int64_t total = 0;
  for (std::size_t s = 0; s < ids.size(); ++s) {
    if (ids[s].empty() || ids[s].size() != labels[s].size()) {
      throw DataError("segment ", s, " of a batch has ", ids[s].size(), " tokens and ", labels[s].size(),
                      " labels");
    }
    total += static_cast<std::int64_t>(ids[s].size());
    batch.boundaries.push_back(static_cast<std::int32_t>(total));
  }
  batch.language_ids = language_ids;
  batch.input_ids = at::empty({total}, at::kLong);
  batch.labels = at::empty({total}, at::kLong);
  batch.position_ids = at::empty({total}, at::kLong);
  batch.cu_seqlens = at::empty({static_cast<std::int64_t>(batch.boundaries.size())}, at::kInt);
  auto* id = batch.input_ids.mutable_data_ptr<std::int64_t>();
  auto* label = batch.labels.mutable_data_ptr<std::int64_t>();
  auto* position = batch.position_ids.mutable_data_ptr<std::int64_t>();
  for (std::size_t s = 0; s < ids.size(); ++s) {
    for (std::size_t i = 0; i < ids[s].size(); ++i) {
      *id++ = ids[s][i];
      *label++ = labels[s][i];
      *position++ = static_cast<std::int64_t>(i);
    }
  }
  std::copy(batch.boundaries.begin(), batch.boundaries.end(),
            batch.cu_seqlens.mutable_data_ptr<std::int32_t>());
  return batch;
}

}  // namespace bitrain
