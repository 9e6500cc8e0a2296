#include <bitrain/dist/ordered_sum.h>

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty_like.h>

namespace bitrain::dist {
namespace {

/// Elements that are summed at a time: they stay in the cache, and 16-bit ones need no more float32.
constexpr std::int64_t kAtATime = 32'768;

}  // namespace

void ordered_sum(const std::vector<at::Tensor>& tensors, at::Tensor sum) {
  const at::NoGradGuard no_grad;
  const bool narrow = sum.is_floating_point() && sum.element_size() == 2;
  for (std::int64_t begin = 0; begin < sum.numel(); begin += kAtATime) {
    const std::int64_t length = std::min(kAtATime, sum.numel() - begin);
    const auto part = [&](const at::Tensor& tensor) { return tensor.narrow(0, begin, length); };
    at::Tensor out = part(sum);
    if (tensors.size() == 1) {
      out.copy_(part(tensors.front()));
    } else if (tensors.size() == 2 && !narrow) {
      at::add_out(out, part(tensors[0]), part(tensors[1]));
    } else {
      at::Tensor partial =
          part(tensors.front())
              .to(narrow ? at::kFloat : sum.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
      for (std::size_t r = 1; r < tensors.size(); ++r) partial.add_(part(tensors[r]));
      out.copy_(partial);
    }
  }
}

at::Tensor ordered_sum(const std::vector<at::Tensor>& tensors) {
  const at::NoGradGuard no_grad;
  at::Tensor sum = at::empty_like(tensors.front(), at::MemoryFormat::Contiguous);
  std::vector<at::Tensor> flat;
  for (const at::Tensor& tensor : tensors) flat.push_back(tensor.reshape(-1));
  ordered_sum(flat, sum.view(-1));
  return sum;
}

}  // namespace bitrain::dist
