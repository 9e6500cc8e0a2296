#include <bitrain/nn/linear.h>

#include <memory>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_copy.h>
#include <torch/csrc/autograd/custom_function.h>

#include <bitrain/base/error.h>
#include <bitrain/base/matmul.h>
#include <bitrain/nn/functional.h>
#include <bitrain/quant/matmul_4bit.h>

namespace bitrain::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// One adapter of a call: what is not a tensor.
struct AdapterCall {
  double scale = 1;
  double dropout = 0;
  std::uint64_t stream = 0;
};

/// Everything of a call but the tensors autograd follows.
struct Call : torch::CustomClassHolder {
  std::optional<quant::QuantizedTensor> quantized;
  std::vector<AdapterCall> adapters;
  DropoutKey dropout;

  /// The adapter's input; the same draws in forward and backward.
  [[nodiscard]] at::Tensor dropped(const at::Tensor& x, const AdapterCall& adapter) const {
    return adapter.dropout > 0 ? nn::dropout(x, adapter.dropout, dropout, adapter.stream) : x;
  }
};

/// The base weight for as long as this object lives: itself, or decoded into scratch memory.
class BaseWeight {
 public:
  /// `x` [N, in] is to be multiplied by the transpose, or [N, out] by the weight itself.
  BaseWeight(const Call& call, const at::Tensor& dense, const at::Tensor& x) {
    const at::ScalarType dtype = x.scalar_type();
    if (!call.quantized) {
      tensor_ = dense.scalar_type() == dtype ? dense : dense.to(dtype);
    } else if (dtype == at::kDouble) {  // For gradient checks.
      tensor_ = quant::dequantize(*call.quantized, at::kFloat).to(dtype);
    } else {
      const std::vector<std::int64_t>& shape = call.quantized->shape;
      const bool wide = computes_wide(x, x.size(1) == shape[1] ? shape[0] : shape[1]);
      scratch_.emplace(*call.quantized, wide ? at::kFloat : dtype);
      tensor_ = scratch_->tensor();
    }
  }
  [[nodiscard]] const at::Tensor& get() const { return tensor_; }

 private:
  std::optional<quant::ScratchWeight> scratch_;
  at::Tensor tensor_;
};

/// y = x W^T + bias + sum of scale (dropout(x) A^T) B^T in as few products as there are, with nothing kept
/// for backward but x, the weights and the narrow x A^T.
class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  /// x [N, in]; `pairs` holds A and B of each adapter in turn, in x's dtype.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
                            at::TensorList pairs, const c10::intrusive_ptr<Call>& call) {
    const at::Tensor dense = weight.value_or(at::Tensor());
    at::Tensor y;
    {
      const BaseWeight base(*call, dense, x);
      y = product(x, base.get().t(), bias ? bias->to(x.scalar_type()) : at::Tensor());
    }
    variable_list saved{x, dense};
    for (std::size_t i = 0; i < call->adapters.size(); ++i) {
      const AdapterCall& adapter = call->adapters[i];
      at::Tensor inner = product(call->dropped(x, adapter), pairs[2 * i].t());
      add_product(y, inner, pairs[2 * i + 1].t(), adapter.scale);
      saved.insert(saved.end(), {pairs[2 * i], pairs[2 * i + 1], std::move(inner)});
    }
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    context->saved_data["has_bias"] = bias.has_value();
    context->save_for_backward(std::move(saved));
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor dy = gradients[0].contiguous();
    const auto call = c10::static_intrusive_pointer_cast<Call>(context->saved_data["call"].toCapsule());
    const bool has_bias = context->saved_data["has_bias"].toBool();
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    // Positions among the inputs: x, weight and bias where there are any, then the pairs.
    std::size_t next = 0;
    const bool want_x = context->needs_input_grad(next++);
    const bool has_weight = saved[1].defined();
    const bool want_weight = has_weight && context->needs_input_grad(next++);
    const bool want_bias = has_bias && context->needs_input_grad(next++);

    variable_list result(3);
    if (want_x) {
      const BaseWeight base(*call, saved[1], dy);
      result[0] = product(dy, base.get());
    }
    if (want_weight) result[1] = product(dy.t(), x);
    if (want_bias) result[2] = dy.sum(0);
    for (std::size_t i = 0; i < call->adapters.size(); ++i) {
      const AdapterCall& adapter = call->adapters[i];
      const at::Tensor& a = saved[2 + 3 * i];
      const at::Tensor& b = saved[3 + 3 * i];
      const at::Tensor& inner = saved[4 + 3 * i];
      at::Tensor da;
      at::Tensor db;
      const at::Tensor narrow = product(dy, b).mul_(adapter.scale);
      if (context->needs_input_grad(next++)) da = product(narrow.t(), call->dropped(x, adapter));
      if (context->needs_input_grad(next++)) db = product(dy.t(), inner).mul_(adapter.scale);
      if (want_x) {
        if (adapter.dropout > 0)  // The mask is its own transpose.
          result[0].add_(call->dropped(product(narrow, a), adapter));
        else
          add_product(result[0], narrow, a);
      }
      result.push_back(std::move(da));
      result.push_back(std::move(db));
    }
    result.emplace_back();  // call
    return result;
  }
};

void add_adapters(at::Tensor& weight, const std::vector<LowRank>& adapters) {
  for (const LowRank& adapter : adapters)
    if (adapter.enabled)
      add_product(weight, adapter.b.to(at::kFloat), adapter.a.to(at::kFloat), adapter.scale);
}

}  // namespace

Linear::Linear(std::int64_t in, std::int64_t out, bool with_bias, at::TensorOptions options)
    : in_features(in), out_features(out), weight(at::empty({out, in}, options)) {
  if (with_bias) bias = at::empty({out}, options);
}

at::Tensor Linear::forward(const at::Tensor& x, const ForwardContext& context) const {
  if (x.size(-1) != in_features)
    throw StateError("a linear map from ", in_features, " to ", out_features, " features got ", x.size(-1));
  const at::ScalarType dtype = x.scalar_type();
  auto call = c10::make_intrusive<Call>();
  call->quantized = quantized;
  call->dropout = context.dropout;
  variable_list pairs;
  for (const LowRank& adapter : adapters) {
    if (!adapter.enabled) continue;
    call->adapters.push_back(
        {adapter.scale, context.training ? adapter.dropout : 0.0, adapter.dropout_stream});
    pairs.push_back(adapter.a.to(dtype));
    pairs.push_back(adapter.b.to(dtype));
  }
  at::Tensor flat = x.dim() == 2 ? x : x.reshape({-1, in_features});
  enter({&flat});
  at::Tensor y = LinearFunction::apply(
      flat, weight.defined() ? std::optional<at::Tensor>(weight) : std::nullopt,
      bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt, at::TensorList(pairs), call);
  if (trainable_rows)
    y = at::index_copy(y, 1, trainable_rows->indices, product(flat, trainable_rows->rows.to(dtype).t()));
  leave({&y});
  if (x.dim() == 2) return y;
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = out_features;
  return y.view(shape);
}

void Linear::quantize(const quant::QuantizeOptions& options) {
  if (!weight.defined()) throw StateError("this linear map is quantised already");
  quantized = quant::quantize(weight.detach(), options);
  weight = at::Tensor();
}

at::Tensor Linear::dense_weight(at::ScalarType dtype) const {
  return quantized ? quant::dequantize(*quantized, dtype) : weight.detach().to(dtype);
}

at::Tensor Linear::merged_weight(at::ScalarType dtype) const {
  bool changes = trainable_rows.has_value();
  for (const LowRank& adapter : adapters) changes = changes || adapter.enabled;
  if (!changes) return dense_weight(dtype);
  const at::NoGradGuard no_grad;
  at::Tensor sum = quantized ? quant::dequantize(*quantized, at::kFloat) : weight.to(at::kFloat, false, true);
  add_adapters(sum, adapters);
  if (trainable_rows) sum.index_copy_(0, trainable_rows->indices, trainable_rows->rows.to(at::kFloat));
  return sum.to(dtype);
}

void Linear::visit_own_tensors(const TensorVisitor& visit) {
  if (weight.defined() && !shares_weight) visit("weight", weight);
  if (bias.defined()) visit("bias", bias);
}

void Linear::visit_own_parts(const PartVisitor& visit) {
  if (quantized)
    for (at::Tensor* part :
         {&quantized->codes, &quantized->absmax, &quantized->absmax_codes, &quantized->nested_absmax})
      if (part->defined()) visit(*part);
  visit_parts(adapters, trainable_rows, visit);
}

}  // namespace bitrain::nn
