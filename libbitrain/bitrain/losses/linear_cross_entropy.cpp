#include <bitrain/losses/linear_cross_entropy.h>

#include <algorithm>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <bitrain/base/batch.h>
#include <bitrain/base/error.h>
#include <bitrain/base/matmul.h>
#include <bitrain/losses/cross_entropy.h>
#include <bitrain/nn/functional.h>
#include <bitrain/quant/matmul_4bit.h>

namespace bitrain::losses {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int kNone = -1;

/// One call: which positions, and where each part of the head lies among the Function's differentiable
/// inputs.
struct Call {
  struct Adapter {
    int a = kNone;
    int b = kNone;
    int x = kNone;  ///< Its input, where dropout makes that another than `hidden`.
    double scale = 1;
  };

  const nn::Linear* head = nullptr;
  int weight = kNone;
  int bias = kNone;
  int rows = kNone;
  std::vector<Adapter> adapters;
  at::Tensor positions;  ///< [n] int64 of the supervised positions; undefined: all of them.
  at::Tensor labels;     ///< [n] int64
  at::Tensor weights;    ///< [n] float32, or undefined.
  std::int64_t chunk = 0;
  bool gradients = false;  ///< Whether anything will be differentiated.
};

// hidden is the Function's first input.
constexpr int kHidden = 0;

/// Runs over the chunks and collects losses and gradients.
class ChunkedHead {
 public:
  ChunkedHead(at::TensorList inputs, const Call& call)
      : call_(call), dtype_(inputs[kHidden].scalar_type()), gradients_(inputs.size()) {
    hidden_ = selected(inputs[kHidden]);
    make_weight(inputs);
    if (call.bias != kNone) bias_ = inputs[call.bias].to(dtype_);
    for (const Call::Adapter& adapter : call.adapters) {
      adapters_.push_back({.a = inputs[adapter.a].to(dtype_),
                           .b = without_replaced_rows(inputs[adapter.b].detach().to(dtype_)),
                           .x = adapter.x == kNone ? hidden_ : selected(inputs[adapter.x])});
    }
    const at::ScalarType wide = dtype_ == at::kDouble ? at::kDouble : at::kFloat;
    losses_ = at::empty({call.labels.size(0)}, hidden_.options().dtype(wide));
    for (std::size_t i = 0; call.gradients && i < inputs.size(); ++i) {
      if (inputs[i].requires_grad()) allocate_gradient(static_cast<int>(i), inputs[i]);
    }
  }

  void run() {
    const std::int64_t count = hidden_.size(0);
    logits_ = at::empty({std::min(call_.chunk, count), weight_.size(0)}, hidden_.options());
    for (std::int64_t begin = 0; begin < count; begin += call_.chunk) {
      chunk(begin, std::min(call_.chunk, count - begin));
    }
    logits_.reset();
  }

  [[nodiscard]] const at::Tensor& losses() const { return losses_; }

  /// Gradients of the inputs in their shapes and dtypes; undefined where none is wanted.
  [[nodiscard]] variable_list take_gradients(at::TensorList inputs) {
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
      at::Tensor& gradient = gradients_[i];
      if (!gradient.defined()) continue;
      if (gradient.sizes() != inputs[i].sizes()) {  // Rows of the supervised positions.
        gradient = at::zeros(inputs[i].sizes(), gradient.options()).index_copy_(0, call_.positions, gradient);
      }
      gradient = gradient.to(inputs[i].scalar_type());
    }
    if (call_.rows != kNone) {
      const auto forget_rows = [&](int input) {
        if (input != kNone && gradients_[input].defined()) {
          gradients_[input].index_fill_(0, call_.head->trainable_rows->indices, 0);
        }
      };
      forget_rows(call_.weight);
      for (const Call::Adapter& adapter : call_.adapters) forget_rows(adapter.b);
    }
    return std::move(gradients_);
  }

 private:
  struct Adapter {
    at::Tensor a, b, x;
  };

  [[nodiscard]] at::Tensor selected(const at::Tensor& rows) const {
    return call_.positions.defined() ? rows.index_select(0, call_.positions) : rows.contiguous();
  }

  // Trainable rows stand for the whole map: neither the base nor an adapter reaches their outputs.
  [[nodiscard]] at::Tensor without_replaced_rows(const at::Tensor& b) const {
    return call_.rows == kNone ? b : b.index_fill(0, call_.head->trainable_rows->indices, 0);
  }

  void make_weight(at::TensorList inputs) {
    if (call_.weight == kNone && dtype_ == at::kDouble) {  // For gradient checks.
      weight_ = quant::dequantize(*call_.head->quantized, at::kFloat).to(dtype_);
    } else if (call_.weight == kNone) {
      decoded_.emplace(*call_.head->quantized, dtype_);
      weight_ = decoded_->tensor();
    } else {
      weight_ = inputs[call_.weight].detach().to(dtype_);
    }
    if (call_.rows == kNone) return;
    if (call_.weight != kNone) weight_ = weight_.clone();
    weight_.index_copy_(0, call_.head->trainable_rows->indices, inputs[call_.rows].detach().to(dtype_));
  }

  void allocate_gradient(int input, const at::Tensor& like) {
    const bool rows = input == kHidden || is_adapter_input(input);
    at::Tensor& gradient = gradients_[input];
    if (rows) {
      gradient = at::empty_like(hidden_);
    } else if (input == call_.bias) {
      gradient = at::zeros(like.sizes(), losses_.options());
    } else {
      gradient = at::empty(like.sizes(), hidden_.options());
    }
    if (hidden_.size(0) == 0) gradient.zero_();
  }

  [[nodiscard]] bool is_adapter_input(int input) const {
    return std::any_of(call_.adapters.begin(), call_.adapters.end(),
                       [&](const Call::Adapter& adapter) { return adapter.x == input; });
  }

  // Gradient of input `input` += a b; the first chunk writes.
  void accumulate(int input, const at::Tensor& a, const at::Tensor& b, bool first) {
    if (input == kNone || !gradients_[input].defined()) return;
    at::Tensor& sum = gradients_[input];
    if (first) {
      product_into(sum, a, b);
    } else {
      add_product(sum, a, b);
    }
  }

  void chunk(std::int64_t begin, std::int64_t rows) {
    at::Tensor logits = logits_.narrow(0, 0, rows);
    const at::Tensor hidden = hidden_.narrow(0, begin, rows);
    product_into(logits, hidden, weight_.t(), bias_);
    std::vector<at::Tensor> inner;  // scale A x, [rows, r]
    for (std::size_t i = 0; i < adapters_.size(); ++i) {
      inner.push_back(
          product(adapters_[i].x.narrow(0, begin, rows), adapters_[i].a.t()).mul_(call_.adapters[i].scale));
      add_product(logits, inner.back(), adapters_[i].b.t());
    }
    const at::Tensor weights = call_.weights.defined() ? call_.weights.narrow(0, begin, rows) : at::Tensor();
    cross_entropy_in_place(logits, call_.labels.narrow(0, begin, rows), weights, call_.gradients,
                           losses_.narrow(0, begin, rows));
    if (call_.gradients) differentiate(logits, hidden, inner, begin);
  }

  // `slope` [rows, V] is the gradient of the chunk's logits.
  void differentiate(const at::Tensor& slope, const at::Tensor& hidden, const std::vector<at::Tensor>& inner,
                     std::int64_t begin) {
    const std::int64_t rows = slope.size(0);
    const bool first = begin == 0;
    at::Tensor hidden_gradient;
    if (gradients_[kHidden].defined()) {
      hidden_gradient = gradients_[kHidden].narrow(0, begin, rows);
      product_into(hidden_gradient, slope, weight_);
    }
    accumulate(call_.weight, slope.t(), hidden, first);
    if (call_.bias != kNone && gradients_[call_.bias].defined()) {
      gradients_[call_.bias].add_(slope.sum(0, false, losses_.scalar_type()));
    }
    if (call_.rows != kNone && gradients_[call_.rows].defined()) {
      accumulate(call_.rows, slope.index_select(1, call_.head->trainable_rows->indices).t(), hidden, first);
    }
    for (std::size_t i = 0; i < adapters_.size(); ++i) {
      const Call::Adapter& place = call_.adapters[i];
      const Adapter& adapter = adapters_[i];
      accumulate(place.b, slope.t(), inner[i], first);
      const at::Tensor inner_slope = product(slope, adapter.b).mul_(place.scale);
      accumulate(place.a, inner_slope.t(), adapter.x.narrow(0, begin, rows), first);
      if (place.x != kNone && gradients_[place.x].defined()) {
        at::Tensor x_gradient = gradients_[place.x].narrow(0, begin, rows);
        product_into(x_gradient, inner_slope, adapter.a);
      } else if (place.x == kNone && hidden_gradient.defined()) {
        add_product(hidden_gradient, inner_slope, adapter.a);
      }
    }
  }

  const Call& call_;
  at::ScalarType dtype_;
  at::Tensor hidden_;  ///< [n, D], the supervised positions.
  std::optional<quant::ScratchWeight> decoded_;
  at::Tensor weight_;  ///< [V, D], with trainable rows in place.
  at::Tensor bias_;
  std::vector<Adapter> adapters_;
  at::Tensor logits_;  ///< [chunk, V]
  at::Tensor losses_;  ///< [n]
  variable_list gradients_;
};

class LinearCrossEntropyFunction : public torch::autograd::Function<LinearCrossEntropyFunction> {
 public:
  // Returns {weighted sum [], losses of the supervised positions [n]}.
  static variable_list forward(AutogradContext* context, at::TensorList inputs, const Call& call) {
    ChunkedHead head(inputs, call);
    head.run();
    const at::Tensor& losses = head.losses();
    const at::Tensor weighted = call.weights.defined() ? losses * call.weights : losses;
    at::Tensor sum = weighted.sum(at::kDouble).to(losses.scalar_type());
    if (call.gradients) context->saved_data["gradients"] = head.take_gradients(inputs);
    context->mark_non_differentiable({losses});
    return {sum, losses};
  }

  static variable_list backward(AutogradContext* context, variable_list slopes) {
    const auto saved = context->saved_data.find("gradients");
    if (saved == context->saved_data.end())
      throw StateError("linear_cross_entropy: backward can run only once");
    auto gradients = saved->second.toTensorVector();
    context->saved_data.erase(saved);  // So that accumulation may take the tensors as they are.
    const at::Tensor& slope = slopes[0];
    if (!slope.device().is_cpu() || slope.item<double>() != 1.0) {
      for (at::Tensor& gradient : gradients) {
        if (gradient.defined()) gradient.mul_(slope);
      }
    }
    gradients.emplace_back();  // For `call`.
    return gradients;
  }
};

void check(const at::Tensor& hidden, const nn::Linear& head, const at::Tensor& labels,
           const at::Tensor& weights, const CrossEntropyOptions& options) {
  if (options.chunk_tokens < 1)
    throw ConfigError("chunk_tokens must be at least 1, not ", options.chunk_tokens);
  if (hidden.dim() != 2 || hidden.size(1) != head.in_features) {
    throw StateError("linear_cross_entropy: hidden ", hidden.sizes(), " does not fit a head with ",
                     head.in_features, " inputs");
  }
  if (labels.dim() != 1 || labels.size(0) != hidden.size(0) || labels.scalar_type() != at::kLong) {
    throw StateError("linear_cross_entropy: labels must be int64 [", hidden.size(0), "], not ",
                     labels.scalar_type(), " ", labels.sizes());
  }
  if (weights.defined() && (weights.dim() != 1 || weights.size(0) != hidden.size(0))) {
    throw StateError("linear_cross_entropy: token_weights ", weights.sizes(), " do not fit ", hidden.size(0),
                     " positions");
  }
}

// The supervised positions of labels (on the CPU).
std::vector<std::int64_t> supervised_positions(const at::Tensor& labels, std::int64_t vocab) {
  const auto* label = labels.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> positions;
  for (std::int64_t i = 0; i < labels.size(0); ++i) {
    if (label[i] == kIgnoreIndex) continue;
    if (label[i] < 0 || label[i] >= vocab) {
      throw DataError("label ", label[i], " at position ", i, " is outside the vocabulary of ", vocab,
                      " rows: does the tokenizer belong to this model?");
    }
    positions.push_back(i);
  }
  return positions;
}

// The differentiable inputs in order, noting in `call` where each lies.
std::vector<at::Tensor> gather_inputs(const at::Tensor& hidden, const nn::Linear& head,
                                      const nn::ForwardContext& context, Call& call) {
  std::vector<at::Tensor> inputs = {hidden};
  const auto add = [&](const at::Tensor& tensor) {
    inputs.push_back(tensor);
    return static_cast<int>(inputs.size()) - 1;
  };
  if (!head.is_quantized()) call.weight = add(head.weight);
  if (head.bias.defined()) call.bias = add(head.bias);
  if (head.trainable_rows) call.rows = add(head.trainable_rows->rows);
  for (const nn::LowRank& adapter : head.adapters) {
    if (!adapter.enabled) continue;
    Call::Adapter place{.a = add(adapter.a), .b = add(adapter.b), .scale = adapter.scale};
    if (context.training && adapter.dropout > 0) {
      place.x = add(nn::dropout(hidden, adapter.dropout, context.dropout, adapter.dropout_stream));
    }
    call.adapters.push_back(place);
  }
  return inputs;
}

}  // namespace

TokenLosses linear_cross_entropy(const at::Tensor& hidden, const nn::Linear& head, const at::Tensor& labels,
                                 const nn::ForwardContext& context, const at::Tensor& token_weights,
                                 const CrossEntropyOptions& options) {
  check(hidden, head, labels, token_weights, options);
  Call call;
  call.head = &head;
  call.chunk = options.chunk_tokens;
  const std::vector<std::int64_t> positions =
      supervised_positions(labels.cpu().contiguous(), head.out_features);
  const auto count = static_cast<std::int64_t>(positions.size());
  call.labels = labels.contiguous();
  if (token_weights.defined()) call.weights = token_weights.to(at::kFloat).contiguous();
  if (count != labels.size(0)) {
    call.positions = at::empty({count}, at::TensorOptions().dtype(at::kLong));
    std::copy(positions.begin(), positions.end(), call.positions.mutable_data_ptr<std::int64_t>());
    call.positions = call.positions.to(labels.device());
    call.labels = call.labels.index_select(0, call.positions);
    if (call.weights.defined()) call.weights = call.weights.index_select(0, call.positions);
  }
  const std::vector<at::Tensor> inputs = gather_inputs(hidden, head, context, call);
  call.gradients =
      at::GradMode::is_enabled() &&
      std::any_of(inputs.begin(), inputs.end(), [](const at::Tensor& x) { return x.requires_grad(); });
  const nn::Use in_use(head);  // Backward only scales.
  const variable_list outputs = LinearCrossEntropyFunction::apply(at::TensorList(inputs), call);
  at::Tensor per_token = outputs[1].detach();
  if (call.positions.defined()) {
    per_token = at::zeros({labels.size(0)}, per_token.options()).index_copy_(0, call.positions, per_token);
  }
  return {.sum = outputs[0], .per_token = per_token, .count = static_cast<double>(count)};
}

}  // namespace bitrain::losses
