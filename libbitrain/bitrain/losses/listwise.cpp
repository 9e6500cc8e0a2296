#include <bitrain/losses/listwise.h>

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/stack.h>

#include <bitrain/base/error.h>

namespace bitrain::losses {

ListwiseLoss listwise_cross_entropy(const at::Tensor& scores, const std::vector<std::int64_t>& ends) {
  if (scores.dim() != 1 || ends.empty() || ends.back() != scores.size(0))
    throw StateError("list-wise loss: scores ", scores.sizes(), " are not those of ", ends.size(),
                     " queries that end at ", ends.empty() ? 0 : ends.back());
  const at::Tensor values = scores.detach().to(at::kCPU, at::kDouble).contiguous();
  const auto* value = values.const_data_ptr<double>();
  std::vector<at::Tensor> losses;
  ListwiseLoss result;
  std::int64_t begin = 0;
  for (const std::int64_t end : ends) {
    if (end <= begin) throw StateError("list-wise loss: query ", result.count, " has no candidates");
    if (end - begin == 1)
      throw DataError("list-wise loss: query ", result.count, " has a positive and no negatives");
    losses.push_back(-at::log_softmax(scores.narrow(0, begin, end - begin), 0).select(0, 0));
    if (value[begin] > *std::max_element(value + begin + 1, value + end)) ++result.first;
    ++result.count;
    begin = end;
  }
  result.sum = at::stack(losses).sum();
  return result;
}

}  // namespace bitrain::losses
