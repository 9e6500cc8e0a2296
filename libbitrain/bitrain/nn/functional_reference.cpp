#include <bitrain/nn/functional_reference.h>

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>

#include <bitrain/base/rng.h>
#include <bitrain/kernels/cpu_kernels.h>

namespace bitrain::nn::reference {
namespace {

// What sums and products are taken in: float32 for anything narrower.
at::Tensor widened(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = widened(x);
  const at::Tensor scale = at::rsqrt(wide.square().mean(-1, true) + eps);
  return (wide * scale * weight.to(wide.scalar_type())).to(x.scalar_type());
}

std::pair<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& residual,
                                               const at::Tensor& weight, double eps) {
  at::Tensor sum = x + residual;
  at::Tensor normed = rms_norm(sum, weight, eps);
  return {std::move(sum), std::move(normed)};
}

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const at::Tensor wide = widened(x);
  return at::layer_norm(wide, weight.sizes(), weight.to(wide.scalar_type()), bias.to(wide.scalar_type()), eps)
      .to(x.scalar_type());
}

std::pair<at::Tensor, at::Tensor> add_layer_norm(const at::Tensor& x, const at::Tensor& residual,
                                                 const at::Tensor& weight, const at::Tensor& bias,
                                                 double eps) {
  at::Tensor sum = x + residual;
  at::Tensor normed = layer_norm(sum, weight, bias, eps);
  return {std::move(sum), std::move(normed)};
}

at::Tensor gelu(const at::Tensor& x, Gelu form) {
  return at::gelu(widened(x), form == Gelu::kTanh ? "tanh" : "none").to(x.scalar_type());
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  return (at::silu(widened(gate)) * widened(up)).to(gate.scalar_type());
}

at::Tensor apply_rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                        const at::Tensor& position_ids) {
  const at::Tensor wide = widened(x);
  const std::int64_t half = x.size(-1) / 2;
  const at::Tensor positions =
      position_ids.defined() ? position_ids : at::arange(x.size(0), x.options().dtype(at::kLong));
  const auto rows_of = [&](const at::Tensor& table) {
    return table.narrow(-1, 0, half).index_select(0, positions).unsqueeze(1).to(wide.scalar_type());
  };
  const at::Tensor c = rows_of(cos);
  const at::Tensor s = rows_of(sin);
  const at::Tensor first = wide.narrow(-1, 0, half);
  const at::Tensor second = wide.narrow(-1, half, half);
  return at::cat({first * c - second * s, second * c + first * s}, -1).to(x.scalar_type());
}

at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::vector<std::int32_t>& boundaries, double scale, bool causal) {
  std::vector<at::Tensor> outputs;
  for (std::size_t i = 0; i + 1 < boundaries.size(); ++i) {
    const std::int64_t begin = boundaries[i];
    const std::int64_t length = boundaries[i + 1] - begin;
    if (length == 0) continue;
    const auto heads_first = [&](const at::Tensor& x) {
      return x.narrow(0, begin, length).transpose(0, 1).unsqueeze(0);
    };
    const at::Tensor out =
        at::scaled_dot_product_attention(heads_first(q), heads_first(k), heads_first(v), /*attn_mask=*/{},
                                         /*dropout_p=*/0.0, causal, scale, q.size(1) != k.size(1));
    outputs.push_back(out.squeeze(0).transpose(0, 1));
  }
  return outputs.empty() ? q.clone() : at::cat(outputs, 0);
}

at::Tensor dropout(const at::Tensor& x, double p, const DropoutKey& key, std::uint64_t stream) {
  if (p <= 0) return x;
  const std::int64_t tokens = x.size(0);
  const std::int64_t dim = tokens == 0 ? 0 : x.numel() / tokens;
  const auto block =
      philox4x32(stream_key(key.seed, "dropout"), static_cast<std::uint64_t>(key.step), stream);
  const at::Tensor mask = at::ones(x.sizes(), at::TensorOptions().dtype(at::kFloat));
  const kernels::Rows rows{mask.data_ptr(), dim};
  kernels::cpu_kernels().dropout(kernels::FloatType::kFloat32, {rows.data, dim},
                                 static_cast<std::uint64_t>(block[1]) << 32U | block[0], key.first_token,
                                 static_cast<std::uint32_t>(std::lround(p * 65536)), tokens, dim, rows);
  return x * mask.to(x.options());
}

at::Tensor embedding(const at::Tensor& weight, const at::Tensor& ids) {
  return at::embedding(weight, ids);
}

}  // namespace bitrain::nn::reference
