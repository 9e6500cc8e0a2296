#include <bitrain/losses/cross_entropy.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/ones_like.h>

#include <bitrain/nn/kernel_table.h>

namespace bitrain::losses {
void cross_entropy_in_place(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& weights,
                            bool gradient, const at::Tensor& losses) {
  if (nn::has_kernels(logits)) {
    nn::kernels_on(logits).cross_entropy(
        nn::kernel_type(logits), {logits.data_ptr(), logits.stride(0)}, labels.const_data_ptr<std::int64_t>(),
        weights.defined() ? weights.const_data_ptr<float>() : nullptr, logits.size(0), logits.size(1),
        gradient, losses.mutable_data_ptr<float>());
    return;
  }
  at::Tensor wide = logits.to(losses.scalar_type());
  const at::Tensor index = labels.unsqueeze(1);
  const at::Tensor lse = at::logsumexp(wide, 1, /*keepdim=*/true);
  losses.copy_((lse - wide.gather(1, index)).squeeze(1));
  if (!gradient) return;
  at::Tensor slope = (wide - lse).exp_();
  slope.scatter_add_(1, index, -at::ones_like(index, slope.options()));
  if (weights.defined()) slope.mul_(weights.unsqueeze(1));
  logits.copy_(slope);
}

}  // namespace bitrain::losses
