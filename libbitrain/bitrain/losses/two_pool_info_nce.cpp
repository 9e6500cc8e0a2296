#include <bitrain/losses/two_pool_info_nce.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include <bitrain/base/error.h>

namespace bitrain::losses {

ContrastiveLoss two_pool_info_nce(const at::Tensor& a1, const at::Tensor& a2, const at::Tensor& a3,
                                  const at::Tensor& a4, const InfoNceOptions& options) {
  if (a1.sizes() != a2.sizes())
    throw StateError("two_pool_info_nce: ", a1.sizes(), " and ", a2.sizes(), " are no pairs");
  const auto with = [](const at::Tensor& positives, const at::Tensor& pool) {
    return pool.defined() ? at::cat({positives, pool}) : positives;
  };
  ContrastiveLoss loss = info_nce(a1, with(a2, a3), options);
  const ContrastiveLoss back = info_nce(a2, with(a1, a4), options);
  loss.sum = loss.sum + back.sum;
  loss.per_query = loss.per_query + back.per_query;
  return loss;
}

}  // namespace bitrain::losses
