#include <bitrain/nn/projection_head.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/unit_rows.h>

namespace bitrain::nn {

// The bias of a linear map before a batch norm would only move its mean.
ProjectionHead::ProjectionHead(std::int64_t in_features, std::int64_t hidden_features,
                               std::int64_t out_features, at::TensorOptions options)
    : in_proj(in_features, hidden_features, /*bias=*/false, options),
      norm(hidden_features, options),
      out_proj(hidden_features, out_features, /*bias=*/true, options) {
  register_child("in_proj", in_proj);
  register_child("norm", norm);
  register_child("out_proj", out_proj);
}

at::Tensor ProjectionHead::forward(const at::Tensor& x, BatchStatistics statistics,
                                   const ForwardContext& context) {
  if (!x.defined() || x.dim() != 2 || x.size(1) != in_proj.in_features)
    throw StateError("projection head: input must be [B, ", in_proj.in_features, "]",
                     x.defined() ? to_text(", not ", x.sizes()) : ", not undefined");
  return unit_rows(out_proj.forward(norm.forward(in_proj.forward(x, context), statistics, context), context));
}

}  // namespace bitrain::nn
