#include <bitrain/base/batch.h>

#include <algorithm>

#include <ATen/ops/empty.h>

#include <bitrain/base/error.h>

namespace bitrain {

std::int64_t Batch::longest_segment() const {
  std::int32_t longest = 0;
  for (std::size_t s = 1; s < boundaries.size(); ++s)
    longest = std::max(longest, boundaries[s] - boundaries[s - 1]);
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
