#include <bitrain/nn/embedding.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/where.h>

#include <bitrain/nn/functional.h>

namespace bitrain::nn {

Embedding::Embedding(std::int64_t rows, std::int64_t dim, at::TensorOptions options)
    : weight(at::empty({rows, dim}, options)) {}

at::Tensor Embedding::forward(const at::Tensor& ids, const ForwardContext& /*context*/) const {
  const Use in_use(*this);
  at::Tensor out = nn::embedding(weight, ids);
  for (const LowRank& adapter : adapters) {
    if (!adapter.enabled) continue;
    // PEFT's embedding adapters have no dropout. The gather wants the rows of A^T side by side; backward
    // needs B^T, whose original may be elsewhere then.
    const at::Tensor inner = nn::embedding(adapter.a.t().contiguous(), ids);
    const at::Tensor b = adapter.b.to(out.scalar_type()).t().clone(at::MemoryFormat::Contiguous);
    out = at::addmm(out, inner.to(out.scalar_type()), b, 1, adapter.scale);
  }
  if (!trainable_rows) return out;
  const at::Tensor& indices = trainable_rows->indices;
  const at::Tensor place = at::searchsorted(indices, ids).clamp_max(indices.size(0) - 1);
  const at::Tensor trained = indices.index_select(0, place).eq(ids);
  return at::where(trained.unsqueeze(1), nn::embedding(trainable_rows->rows, place).to(out.scalar_type()),
                   out);
}

at::Tensor Embedding::merged_weight(at::ScalarType dtype) const {
  const at::NoGradGuard no_grad;
  bool changes = trainable_rows.has_value();
  for (const LowRank& adapter : adapters) changes = changes || adapter.enabled;
  if (!changes) return weight.detach().to(dtype);
  at::Tensor sum = weight.to(at::kFloat, false, true);
  for (const LowRank& adapter : adapters)
    if (adapter.enabled)
      sum.addmm_(adapter.a.to(at::kFloat).t(), adapter.b.to(at::kFloat).t(), 1, adapter.scale);
  if (trainable_rows) sum.index_copy_(0, trainable_rows->indices, trainable_rows->rows.to(at::kFloat));
  return sum.to(dtype);
}

void Embedding::visit_own_tensors(const TensorVisitor& visit) {
  visit("weight", weight);
}

void Embedding::visit_own_parts(const PartVisitor& visit) {
  visit_parts(adapters, trainable_rows, visit);
}

}  // namespace bitrain::nn
