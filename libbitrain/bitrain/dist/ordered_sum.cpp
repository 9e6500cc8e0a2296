#include <bitrain/dist/ordered_sum.h>

#include <ATen/core/grad_mode.h>

namespace bitrain::dist {

at::Tensor ordered_sum(const std::vector<at::Tensor>& tensors) {
  const at::NoGradGuard no_grad;
  const at::Tensor& first = tensors.front();
  const bool narrow = first.is_floating_point() && first.element_size() == 2;
  at::Tensor sum = narrow ? first.to(at::kFloat) : first.clone();
  for (std::size_t r = 1; r < tensors.size(); ++r) sum.add_(tensors[r]);
  return narrow ? sum.to(first.scalar_type()) : sum;
}

}  // namespace bitrain::dist
