#include <bitrain/nn/functional.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/kernels/cpu_kernels.h>
#include <bitrain/nn/cuda_attention.h>
#include <bitrain/nn/functional_reference.h>
#include <bitrain/nn/kernel_table.h>

namespace bitrain::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The tensor as rows of its last dimension; it must be contiguous.
kernels::ConstRows const_rows(const at::Tensor& x) {
  return x.defined() ? kernels::ConstRows{x.const_data_ptr(), x.size(-1)} : kernels::ConstRows{};
}
kernels::Rows rows(const at::Tensor& x) {
  return x.defined() ? kernels::Rows{x.data_ptr(), x.size(-1)} : kernels::Rows{};
}

// [tokens, heads, head_dim] as rows of tokens: only the heads of one token must lie side by side.
at::Tensor with_packed_heads(const at::Tensor& x) {
  return x.stride(2) == 1 && x.stride(1) == x.size(2) ? x : x.contiguous();
}
kernels::ConstRows const_token_rows(const at::Tensor& x) {
  return {x.const_data_ptr(), x.stride(0)};
}
kernels::Rows token_rows(const at::Tensor& x) {
  return {x.data_ptr(), x.stride(0)};
}

std::int64_t row_count(const at::Tensor& x) {
  return x.size(-1) == 0 ? 0 : x.numel() / x.size(-1);
}

// Kernels take addresses: another device would be a fault there, not an error.
void check_devices(const char* function, const at::Tensor& x, std::initializer_list<at::Tensor> others) {
  for (const at::Tensor& other : others)
    if (other.defined() && other.device() != x.device())
      throw StateError(function, ": tensors on ", x.device().str(), " and ", other.device().str());
}

void check_heads(const at::Tensor& x, const char* name) {
  if (x.dim() != 3) throw StateError(name, " must be [tokens, heads, head_dim], not ", x.sizes());
}

// ---- Norms

void check_residual(const char* function, const at::Tensor& x, const at::Tensor& residual) {
  check_devices(function, x, {residual});
  if (x.sizes() != residual.sizes() || x.scalar_type() != residual.scalar_type()) {
    throw StateError(function, ": input ", x.sizes(), " ", x.scalar_type(), " and residual ",
                     residual.sizes(), " ", residual.scalar_type(), " differ");
  }
}

// Inputs (x, residual, weight); outputs (normed) or (normed, x + residual).
class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x,
                               const std::optional<at::Tensor>& residual, const at::Tensor& weight,
                               double eps) {
    const at::Tensor input = x.contiguous();
    const at::Tensor other = residual ? residual->contiguous() : at::Tensor();
    const at::Tensor scale = weight.contiguous();
    at::Tensor sum = other.defined() ? at::empty_like(input) : at::Tensor();
    at::Tensor y = at::empty_like(input);
    const at::Tensor rstd = at::empty({row_count(input)}, input.options().dtype(at::kFloat));
    kernels_on(input).rms_norm(kernel_type(input), const_rows(input), const_rows(other), rows(sum),
                               scale.const_data_ptr(), kernel_type(scale), row_count(input), input.size(-1),
                               static_cast<float>(eps), rows(y), rstd.mutable_data_ptr<float>());
    context->save_for_backward({sum.defined() ? sum : input, scale, rstd});
    context->set_materialize_grads(false);
    if (sum.defined()) return {y, sum};
    return {y};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const bool has_residual = gradients.size() > 1;
    const at::Tensor dsum = has_residual && gradients[1].defined() ? gradients[1].contiguous() : at::Tensor();
    if (!gradients[0].defined()) return {dsum, has_residual ? dsum : at::Tensor(), {}, {}};
    const at::Tensor dy = gradients[0].contiguous();
    const at::Tensor dx = at::empty_like(x);
    at::Tensor dweight;
    if (context->needs_input_grad(has_residual ? 2 : 1)) {
      dweight = at::empty(weight.sizes(), weight.options().dtype(at::kFloat));
    }
    kernels_on(x).rms_norm_backward(kernel_type(x), const_rows(dy), const_rows(dsum), const_rows(x),
                                    weight.const_data_ptr(), kernel_type(weight),
                                    saved[2].const_data_ptr<float>(), row_count(x), x.size(-1), rows(dx),
                                    dweight.defined() ? dweight.mutable_data_ptr<float>() : nullptr);
    if (dweight.defined()) dweight = dweight.to(weight.scalar_type());
    return {dx, has_residual ? dx : at::Tensor(), dweight, {}};
  }
};

void check_norm(const at::Tensor& x, const at::Tensor& weight) {
  check_devices("rms_norm", x, {weight});
  if (x.dim() == 0 || weight.dim() != 1 || x.size(-1) != weight.size(0)) {
    throw StateError("rms_norm: input ", x.sizes(), " does not fit weight ", weight.sizes());
  }
}

// Inputs (x, residual, weight, bias); outputs (normed) or (normed, x + residual).
class LayerNormFunction : public torch::autograd::Function<LayerNormFunction> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x,
                               const std::optional<at::Tensor>& residual, const at::Tensor& weight,
                               const at::Tensor& bias, double eps) {
    const at::Tensor input = x.contiguous();
    const at::Tensor other = residual ? residual->contiguous() : at::Tensor();
    const at::Tensor scale = weight.contiguous();
    const at::Tensor shift = bias.contiguous();
    at::Tensor sum = other.defined() ? at::empty_like(input) : at::Tensor();
    at::Tensor y = at::empty_like(input);
    const at::Tensor mean = at::empty({row_count(input)}, input.options().dtype(at::kFloat));
    const at::Tensor rstd = at::empty_like(mean);
    kernels_on(input).layer_norm(kernel_type(input), const_rows(input), const_rows(other), rows(sum),
                                 scale.const_data_ptr(), shift.const_data_ptr(), kernel_type(scale),
                                 row_count(input), input.size(-1), static_cast<float>(eps), rows(y),
                                 mean.mutable_data_ptr<float>(), rstd.mutable_data_ptr<float>());
    context->save_for_backward({sum.defined() ? sum : input, scale, mean, rstd});
    context->set_materialize_grads(false);
    if (sum.defined()) return {y, sum};
    return {y};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const bool has_residual = gradients.size() > 1;
    const at::Tensor dsum = has_residual && gradients[1].defined() ? gradients[1].contiguous() : at::Tensor();
    if (!gradients[0].defined()) return {dsum, has_residual ? dsum : at::Tensor(), {}, {}, {}};
    const at::Tensor dy = gradients[0].contiguous();
    const at::Tensor dx = at::empty_like(x);
    const std::size_t first = has_residual ? 2 : 1;  // Position of the weight among the inputs.
    at::Tensor dweight;
    at::Tensor dbias;
    if (context->needs_input_grad(first) || context->needs_input_grad(first + 1)) {
      dweight = at::empty(weight.sizes(), weight.options().dtype(at::kFloat));
      dbias = at::empty_like(dweight);
    }
    kernels_on(x).layer_norm_backward(
        kernel_type(x), const_rows(dy), const_rows(dsum), const_rows(x), weight.const_data_ptr(),
        kernel_type(weight), saved[2].const_data_ptr<float>(), saved[3].const_data_ptr<float>(), row_count(x),
        x.size(-1), rows(dx), dweight.defined() ? dweight.mutable_data_ptr<float>() : nullptr,
        dbias.defined() ? dbias.mutable_data_ptr<float>() : nullptr);
    if (dweight.defined()) {
      dweight = dweight.to(weight.scalar_type());
      dbias = dbias.to(weight.scalar_type());
    }
    return {dx, has_residual ? dx : at::Tensor(), dweight, dbias, {}};
  }
};

void check_layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  check_devices("layer_norm", x, {weight, bias});
  if (x.dim() == 0 || weight.dim() != 1 || weight.sizes() != bias.sizes() || x.size(-1) != weight.size(0) ||
      weight.scalar_type() != bias.scalar_type()) {
    throw StateError("layer_norm: input ", x.sizes(), " does not fit weight ", weight.sizes(), " ",
                     weight.scalar_type(), " and bias ", bias.sizes(), " ", bias.scalar_type());
  }
}

// ---- Activations and rotary

class GeluFunction : public torch::autograd::Function<GeluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, bool tanh) {
    const at::Tensor input = x.contiguous();
    at::Tensor y = at::empty_like(input);
    kernels_on(input).gelu(kernel_type(input), tanh, input.const_data_ptr(), input.numel(), y.data_ptr());
    context->save_for_backward({input});
    context->saved_data["tanh"] = tanh;
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor x = context->get_saved_variables()[0];
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor dx = at::empty_like(x);
    kernels_on(x).gelu_backward(kernel_type(x), context->saved_data["tanh"].toBool(), dy.const_data_ptr(),
                                x.const_data_ptr(), x.numel(), dx.data_ptr());
    return {dx, {}};
  }
};

class SwigluFunction : public torch::autograd::Function<SwigluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up) {
    const at::Tensor g = gate.contiguous();
    const at::Tensor u = up.contiguous();
    at::Tensor y = at::empty_like(g);
    kernels_on(g).swiglu(kernel_type(g), g.const_data_ptr(), u.const_data_ptr(), g.numel(), y.data_ptr());
    context->save_for_backward({g, u});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor dgate = at::empty_like(dy);
    at::Tensor dup = at::empty_like(dy);
    kernels_on(dy).swiglu_backward(kernel_type(dy), dy.const_data_ptr(), saved[0].const_data_ptr(),
                                   saved[1].const_data_ptr(), dy.numel(), dgate.data_ptr(), dup.data_ptr());
    return {dgate, dup};
  }
};

at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                  const at::Tensor& positions, bool inverse) {
  const at::Tensor input = with_packed_heads(x);
  at::Tensor y = at::empty(x.sizes(), x.options());
  kernels_on(input).rotary(kernel_type(input), const_token_rows(input), cos.const_data_ptr<float>(),
                           sin.const_data_ptr<float>(), cos.stride(0),
                           positions.defined() ? positions.const_data_ptr<std::int64_t>() : nullptr,
                           x.size(0), x.size(1), x.size(2), inverse, token_rows(y));
  return y;
}

class RotaryFunction : public torch::autograd::Function<RotaryFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin, const std::optional<at::Tensor>& positions) {
    context->save_for_backward({cos, sin, positions.value_or(at::Tensor())});
    return rotate(x, cos, sin, positions.value_or(at::Tensor()), /*inverse=*/false);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    return {rotate(gradients[0], saved[0], saved[1], saved[2], /*inverse=*/true), {}, {}, {}};
  }
};

void check_rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                  const at::Tensor& positions) {
  check_devices("apply_rotary", x, {cos, sin, positions});
  check_heads(x, "apply_rotary: x");
  const std::int64_t half = x.size(2) / 2;
  if (x.size(2) % 2 != 0 || cos.dim() != 2 || cos.sizes() != sin.sizes() ||
      (cos.size(1) != half && cos.size(1) != 2 * half)) {
    throw StateError("apply_rotary: tables ", cos.sizes(), " and ", sin.sizes(), " do not fit x ", x.sizes());
  }
  if (positions.defined() && (positions.dim() != 1 || positions.size(0) != x.size(0))) {
    throw StateError("apply_rotary: position_ids ", positions.sizes(), " do not fit x ", x.sizes());
  }
}

void check_positions(const at::Tensor& positions, std::int64_t tokens, std::int64_t limit) {
  if (!positions.defined()) {
    if (tokens > limit)
      throw DataError("position ", limit, " lies beyond the ", limit, " of the rotary tables");
    return;
  }
  const auto* values = positions.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < tokens; ++i) {
    if (values[i] < 0 || values[i] >= limit) {
      throw DataError(
          "position ", values[i], " of token ", i, " lies outside the ", limit,
          " positions of the rotary tables: shorten the sequences or raise max_position_embeddings");
    }
  }
}

// ---- Attention

struct AttentionCall {
  std::vector<std::int32_t> boundaries;
  double scale = 1;
  bool causal = true;

  [[nodiscard]] kernels::AttentionShape shape(const at::Tensor& q, const at::Tensor& k) const {
    return {.type = kernel_type(q),
            .boundaries = boundaries.data(),
            .segments = static_cast<std::int64_t>(boundaries.size()) - 1,
            .heads = q.size(1),
            .kv_heads = k.size(1),
            .head_dim = q.size(2),
            .scale = static_cast<float>(scale),
            .causal = causal};
  }
};

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const AttentionCall& call) {
    const at::Tensor query = with_packed_heads(q);
    const at::Tensor key = with_packed_heads(k);
    const at::Tensor value = with_packed_heads(v);
    at::Tensor out = at::empty(q.sizes(), q.options());
    const at::Tensor lse = at::empty({q.size(1), q.size(0)}, q.options().dtype(at::kFloat));
    kernels::cpu_kernels().attention(call.shape(query, key), const_token_rows(query), const_token_rows(key),
                                     const_token_rows(value), token_rows(out), lse.mutable_data_ptr<float>());
    context->save_for_backward({query, key, value, out, lse});
    context->saved_data["boundaries"] =
        std::vector<std::int64_t>(call.boundaries.begin(), call.boundaries.end());
    context->saved_data["scale"] = call.scale;
    context->saved_data["causal"] = call.causal;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& q = saved[0];
    const at::Tensor& k = saved[1];
    const at::Tensor& v = saved[2];
    const auto boundaries = context->saved_data["boundaries"].toIntVector();
    const AttentionCall call{.boundaries = {boundaries.begin(), boundaries.end()},
                             .scale = context->saved_data["scale"].toDouble(),
                             .causal = context->saved_data["causal"].toBool()};
    const at::Tensor dout = with_packed_heads(gradients[0]);
    at::Tensor dq = at::empty(q.sizes(), q.options());
    at::Tensor dk = at::empty(k.sizes(), k.options());
    at::Tensor dv = at::empty(v.sizes(), v.options());
    kernels::cpu_kernels().attention_backward(call.shape(q, k), const_token_rows(dout), const_token_rows(q),
                                              const_token_rows(k), const_token_rows(v),
                                              const_token_rows(saved[3]), saved[4].const_data_ptr<float>(),
                                              token_rows(dq), token_rows(dk), token_rows(dv));
    return {dq, dk, dv, {}};
  }
};

void check_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const std::vector<std::int32_t>& boundaries) {
  check_devices("packed_attention", q, {k, v});
  check_heads(q, "packed_attention: q");
  check_heads(k, "packed_attention: k");
  if (k.sizes() != v.sizes() || q.size(0) != k.size(0) || q.size(2) != k.size(2) || k.size(1) == 0 ||
      q.size(1) % k.size(1) != 0) {
    throw StateError("packed_attention: q ", q.sizes(), ", k ", k.sizes(), " and v ", v.sizes(),
                     " do not fit");
  }
  if (boundaries.empty() || boundaries.front() != 0 || boundaries.back() != q.size(0) ||
      !std::is_sorted(boundaries.begin(), boundaries.end())) {
    throw StateError("packed_attention: boundaries must rise from 0 to the number of tokens, ", q.size(0));
  }
}

// ---- Dropout

struct Draws {
  std::uint64_t key = 0;
  std::int64_t first_token = 0;
  std::uint32_t threshold = 0;
};

at::Tensor drop(const at::Tensor& x, const Draws& draws) {
  const at::Tensor input = x.contiguous();
  at::Tensor y = at::empty_like(input);
  const std::int64_t dim = input.numel() / input.size(0);
  kernels_on(input).dropout(kernel_type(input), {input.const_data_ptr(), dim}, draws.key, draws.first_token,
                            draws.threshold, input.size(0), dim, {y.data_ptr(), dim});
  return y;
}

class DropoutFunction : public torch::autograd::Function<DropoutFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const Draws& draws) {
    context->saved_data["key"] = static_cast<std::int64_t>(draws.key);
    context->saved_data["first_token"] = draws.first_token;
    context->saved_data["threshold"] = static_cast<std::int64_t>(draws.threshold);
    return drop(x, draws);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Draws draws{.key = static_cast<std::uint64_t>(context->saved_data["key"].toInt()),
                      .first_token = context->saved_data["first_token"].toInt(),
                      .threshold = static_cast<std::uint32_t>(context->saved_data["threshold"].toInt())};
    return {drop(gradients[0], draws), {}};
  }
};

// ---- Embedding

// Rows of dweight become the sums of the rows of dy by id, on the CPU.
void sum_by_id(const at::Tensor& dy, const at::Tensor& ids, const at::Tensor& dweight) {
  const auto* id = ids.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> order(static_cast<std::size_t>(ids.size(0)));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return id[a] < id[b]; });
  std::vector<std::int64_t> starts;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || id[order[i]] != id[order[i - 1]]) starts.push_back(static_cast<std::int64_t>(i));
  }
  const auto groups = static_cast<std::int64_t>(starts.size());
  starts.push_back(ids.size(0));
  kernels::cpu_kernels().scatter_add(kernel_type(dy), const_rows(dy), id, order.data(), starts.data(), groups,
                                     dy.size(1), dweight.data_ptr());
}

class EmbeddingFunction : public torch::autograd::Function<EmbeddingFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& weight, const at::Tensor& ids) {
    context->save_for_backward({ids});
    context->saved_data["rows"] = weight.size(0);
    if (!weight.is_cpu()) return weight.index_select(0, ids);
    const at::Tensor table = weight.contiguous();
    at::Tensor y = at::empty({ids.size(0), weight.size(1)}, weight.options());
    kernels::cpu_kernels().gather(kernel_type(table), table.const_data_ptr(),
                                  ids.const_data_ptr<std::int64_t>(), ids.size(0), weight.size(1),
                                  y.data_ptr());
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor ids = context->get_saved_variables()[0];
    const at::Tensor dy = gradients[0].contiguous();
    const at::Tensor dweight = at::zeros({context->saved_data["rows"].toInt(), dy.size(1)}, dy.options());
    if (dy.is_cpu()) {
      sum_by_id(dy, ids, dweight);
    } else {
      const auto [sorted, order] = ids.sort(/*stable=*/std::optional<bool>(true), /*dim=*/0);
      scatter_add_on_cuda(dy, sorted, order, dweight);
    }
    return {dweight, {}};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check_norm(x, weight);
  if (!has_kernels(x) || !has_kernels(weight)) return reference::rms_norm(x, weight, eps);
  return RmsNormFunction::apply(x, std::nullopt, weight, eps)[0];
}

std::pair<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& residual,
                                               const at::Tensor& weight, double eps) {
  check_norm(x, weight);
  check_residual("add_rms_norm", x, residual);
  if (!has_kernels(x) || !has_kernels(weight)) return reference::add_rms_norm(x, residual, weight, eps);
  const variable_list outputs = RmsNormFunction::apply(x, std::optional(residual), weight, eps);
  return {outputs[1], outputs[0]};
}

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  check_layer_norm(x, weight, bias);
  if (!has_kernels(x) || !has_kernels(weight)) return reference::layer_norm(x, weight, bias, eps);
  return LayerNormFunction::apply(x, std::nullopt, weight, bias, eps)[0];
}

std::pair<at::Tensor, at::Tensor> add_layer_norm(const at::Tensor& x, const at::Tensor& residual,
                                                 const at::Tensor& weight, const at::Tensor& bias,
                                                 double eps) {
  check_layer_norm(x, weight, bias);
  check_residual("add_layer_norm", x, residual);
  if (!has_kernels(x) || !has_kernels(weight))
    return reference::add_layer_norm(x, residual, weight, bias, eps);
  const variable_list outputs = LayerNormFunction::apply(x, std::optional(residual), weight, bias, eps);
  return {outputs[1], outputs[0]};
}

at::Tensor gelu(const at::Tensor& x, Gelu form) {
  if (!has_kernels(x)) return reference::gelu(x, form);
  return GeluFunction::apply(x, form == Gelu::kTanh);
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  check_devices("swiglu", gate, {up});
  if (gate.sizes() != up.sizes() || gate.scalar_type() != up.scalar_type()) {
    throw StateError("swiglu: gate ", gate.sizes(), " ", gate.scalar_type(), " and up ", up.sizes(), " ",
                     up.scalar_type(), " differ");
  }
  if (!has_kernels(gate)) return reference::swiglu(gate, up);
  return SwigluFunction::apply(gate, up);
}

at::Tensor apply_rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                        const at::Tensor& position_ids) {
  check_rotary(x, cos, sin, position_ids);
  if (!has_kernels(x)) return reference::apply_rotary(x, cos, sin, position_ids);
  std::optional<at::Tensor> positions;
  if (position_ids.defined()) positions = position_ids.contiguous();
  // On a GPU positions are not read back: the models make tables as long as their longest segment.
  if (x.is_cpu() || !positions) check_positions(positions.value_or(at::Tensor()), x.size(0), cos.size(0));
  return RotaryFunction::apply(x, cos.to(at::kFloat).contiguous(), sin.to(at::kFloat).contiguous(),
                               positions);
}

at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::vector<std::int32_t>& boundaries, double scale, bool causal) {
  check_attention(q, k, v, boundaries);
  if (!has_kernels(q) || k.scalar_type() != q.scalar_type() || v.scalar_type() != q.scalar_type())
    return reference::packed_attention(q, k, v, boundaries, scale, causal);
  if (q.is_cuda()) return cuda_attention(q, k, v, boundaries, scale, causal);
  return AttentionFunction::apply(q, k, v,
                                  AttentionCall{.boundaries = boundaries, .scale = scale, .causal = causal});
}

at::Tensor dropout(const at::Tensor& x, double p, const DropoutKey& key, std::uint64_t stream) {
  const std::int64_t threshold = std::lround(p * 65536);
  if (!(p >= 0) || threshold >= 65536) throw ConfigError("dropout must lie in [0, 1), not ", p);
  if (threshold == 0 || x.numel() == 0) return x;
  if (!has_kernels(x)) return reference::dropout(x, p, key, stream);
  const auto block =
      philox4x32(stream_key(key.seed, "dropout"), static_cast<std::uint64_t>(key.step), stream);
  return DropoutFunction::apply(x, Draws{.key = static_cast<std::uint64_t>(block[1]) << 32U | block[0],
                                         .first_token = key.first_token,
                                         .threshold = static_cast<std::uint32_t>(threshold)});
}

at::Tensor embedding(const at::Tensor& weight, const at::Tensor& ids) {
  check_devices("embedding", weight, {ids});
  if (weight.dim() != 2 || ids.dim() != 1 || ids.scalar_type() != at::kLong) {
    throw StateError("embedding: needs a table [rows, dim] and int64 ids [tokens], not ", weight.sizes(),
                     " and ", ids.sizes(), " ", ids.scalar_type());
  }
  const at::Tensor packed = ids.contiguous();
  if (ids.device().is_cpu()) {
    const auto* id = packed.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < packed.size(0); ++i) {
      if (id[i] < 0 || id[i] >= weight.size(0)) {
        throw DataError("token id ", id[i], " at position ", i, " is outside the table of ", weight.size(0),
                        " rows: does the tokenizer belong to this model?");
      }
    }
  }
  if (!has_kernels(weight)) return reference::embedding(weight, packed);
  return EmbeddingFunction::apply(weight, packed);
}

}  // namespace bitrain::nn
