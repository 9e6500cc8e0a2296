#include <bitrain/nn/pooling.h>

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/max.h>
#include <ATen/ops/stack.h>
#include <torch/csrc/autograd/custom_function.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/kernel_table.h>

namespace bitrain::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Boundaries = std::vector<std::int32_t>;

struct Named {
  Pooling mode;
  const char* name;
};
constexpr Named kNames[] = {{Pooling::kCls, "cls"},
                            {Pooling::kMax, "max"},
                            {Pooling::kMean, "mean"},
                            {Pooling::kMeanSqrtLenTokens, "mean_sqrt_len_tokens"},
                            {Pooling::kWeightedMean, "weightedmean"},
                            {Pooling::kLastToken, "lasttoken"}};

std::int64_t segment_count(const Boundaries& boundaries) {
  return static_cast<std::int64_t>(boundaries.size()) - 1;
}

void check(const at::Tensor& hidden, const Boundaries& boundaries, const std::vector<Pooling>& modes) {
  if (modes.empty()) throw StateError("pool_segments: no pooling mode");
  if (hidden.dim() != 2 || boundaries.empty() || boundaries.front() != 0 ||
      boundaries.back() != hidden.size(0)) {
    throw StateError("pool_segments: boundaries must rise from 0 to the number of tokens of hidden ",
                     hidden.sizes());
  }
  for (std::size_t s = 0; s + 1 < boundaries.size(); ++s) {
    if (boundaries[s + 1] <= boundaries[s])
      throw StateError("pool_segments: segment ", s, " is empty, or the boundaries do not rise");
  }
}

/// What each token counts in the sum of its segment: every mode but the largest is such a sum. [N] float64 on
/// the CPU.
at::Tensor token_weights(Pooling mode, const Boundaries& boundaries) {
  at::Tensor weights = at::empty({boundaries.back()}, at::TensorOptions().dtype(at::kDouble));
  auto* values = weights.mutable_data_ptr<double>();
  for (std::size_t s = 0; s + 1 < boundaries.size(); ++s) {
    const double length = boundaries[s + 1] - boundaries[s];
    for (std::int32_t t = boundaries[s]; t < boundaries[s + 1]; ++t) {
      const double place = t - boundaries[s] + 1;
      values[t] = mode == Pooling::kMean                ? 1 / length
                  : mode == Pooling::kMeanSqrtLenTokens ? 1 / std::sqrt(length)
                                                        : 2 * place / (length * (length + 1));
    }
  }
  return weights;
}

/// The first or last token of each segment.
at::Tensor edge_tokens(const at::Tensor& hidden, const Boundaries& boundaries, bool last) {
  const at::Tensor index = at::empty({segment_count(boundaries)}, at::TensorOptions().dtype(at::kLong));
  auto* tokens = index.mutable_data_ptr<std::int64_t>();
  for (std::size_t s = 0; s + 1 < boundaries.size(); ++s)
    tokens[s] = last ? boundaries[s + 1] - 1 : boundaries[s];
  const at::Tensor rows = at::index_select(hidden, 0, index.to(hidden.device()));
  return hidden.scalar_type() == at::kDouble ? rows : rows.to(at::kFloat);
}

class SegmentSumFunction : public torch::autograd::Function<SegmentSumFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& hidden, const at::Tensor& weights,
                            const at::Tensor& boundaries) {
    const at::Tensor x = hidden.contiguous();
    const std::int64_t segments = boundaries.size(0) - 1;
    at::Tensor y = at::empty({segments, x.size(1)}, x.options().dtype(at::kFloat));
    kernels_on(x).segment_sum(kernel_type(x), {x.const_data_ptr(), x.size(1)},
                              weights.const_data_ptr<float>(), boundaries.const_data_ptr<std::int32_t>(),
                              segments, x.size(1), y.mutable_data_ptr<float>());
    context->save_for_backward({weights, boundaries});
    context->saved_data["dtype"] = static_cast<std::int64_t>(x.scalar_type());
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto dtype = static_cast<at::ScalarType>(context->saved_data["dtype"].toInt());
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor dx = at::empty({saved[0].size(0), dy.size(1)}, dy.options().dtype(dtype));
    kernels_on(dx).segment_sum_backward(
        kernel_type(dx), dy.const_data_ptr<float>(), saved[0].const_data_ptr<float>(),
        saved[1].const_data_ptr<std::int32_t>(), dy.size(0), dy.size(1), {dx.data_ptr(), dx.size(1)});
    return {dx, {}, {}};
  }
};

class SegmentMaxFunction : public torch::autograd::Function<SegmentMaxFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& hidden,
                            const at::Tensor& boundaries) {
    const at::Tensor x = hidden.contiguous();
    const std::int64_t segments = boundaries.size(0) - 1;
    at::Tensor y = at::empty({segments, x.size(1)}, x.options().dtype(at::kFloat));
    const at::Tensor where = at::empty(y.sizes(), y.options().dtype(at::kInt));
    kernels_on(x).segment_max(kernel_type(x), {x.const_data_ptr(), x.size(1)},
                              boundaries.const_data_ptr<std::int32_t>(), segments, x.size(1),
                              y.mutable_data_ptr<float>(), where.mutable_data_ptr<std::int32_t>());
    context->save_for_backward({where, boundaries});
    context->saved_data["dtype"] = static_cast<std::int64_t>(x.scalar_type());
    context->saved_data["tokens"] = x.size(0);
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto dtype = static_cast<at::ScalarType>(context->saved_data["dtype"].toInt());
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor dx = at::empty({context->saved_data["tokens"].toInt(), dy.size(1)}, dy.options().dtype(dtype));
    kernels_on(dx).segment_max_backward(
        kernel_type(dx), dy.const_data_ptr<float>(), saved[0].const_data_ptr<std::int32_t>(),
        saved[1].const_data_ptr<std::int32_t>(), dy.size(0), dy.size(1), {dx.data_ptr(), dx.size(1)});
    return {dx, {}};
  }
};

/// `ends`: the boundaries as a tensor on the device of `hidden`.
at::Tensor pool(const at::Tensor& hidden, const Boundaries& boundaries, const at::Tensor& ends,
                Pooling mode) {
  switch (mode) {
    case Pooling::kCls: return edge_tokens(hidden, boundaries, /*last=*/false);
    case Pooling::kLastToken: return edge_tokens(hidden, boundaries, /*last=*/true);
    case Pooling::kMax: return SegmentMaxFunction::apply(hidden, ends);
    default:
      return SegmentSumFunction::apply(
          hidden, token_weights(mode, boundaries).to(at::kFloat).to(hidden.device()), ends);
  }
}

at::Tensor joined(std::vector<at::Tensor> parts) {
  return parts.size() == 1 ? std::move(parts.front()) : at::cat(parts, 1);
}

}  // namespace

const char* pooling_name(Pooling mode) {
  return kNames[static_cast<std::size_t>(mode)].name;
}

std::optional<Pooling> pooling_named(const std::string& name) {
  for (const Named& known : kNames)
    if (name == known.name) return known.mode;
  return std::nullopt;
}

const std::vector<Pooling>& pooling_modes() {
  static const std::vector<Pooling> kModes = [] {
    std::vector<Pooling> modes;
    for (const Named& known : kNames) modes.push_back(known.mode);
    return modes;
  }();
  return kModes;
}

at::Tensor pool_segments(const at::Tensor& hidden, const Boundaries& boundaries,
                         const std::vector<Pooling>& modes) {
  check(hidden, boundaries, modes);
  if (!has_kernels(hidden)) return reference::pool_segments(hidden, boundaries, modes);
  const at::Tensor ends =
      at::empty({static_cast<std::int64_t>(boundaries.size())}, at::TensorOptions().dtype(at::kInt));
  std::copy(boundaries.begin(), boundaries.end(), ends.mutable_data_ptr<std::int32_t>());
  const at::Tensor placed = ends.to(hidden.device());
  std::vector<at::Tensor> parts;
  parts.reserve(modes.size());
  for (const Pooling mode : modes) parts.push_back(pool(hidden, boundaries, placed, mode));
  return joined(std::move(parts));
}

at::Tensor reference::pool_segments(const at::Tensor& hidden, const Boundaries& boundaries,
                                    const std::vector<Pooling>& modes) {
  check(hidden, boundaries, modes);
  const at::Tensor wide = hidden.scalar_type() == at::kDouble ? hidden : hidden.to(at::kFloat);
  std::vector<at::Tensor> parts;
  for (const Pooling mode : modes) {
    if (mode == Pooling::kCls || mode == Pooling::kLastToken) {
      parts.push_back(edge_tokens(hidden, boundaries, mode == Pooling::kLastToken));
      continue;
    }
    const at::Tensor weighted =
        mode == Pooling::kMax ? wide : wide * token_weights(mode, boundaries).to(wide.options()).unsqueeze(1);
    std::vector<at::Tensor> rows;
    for (std::size_t s = 0; s + 1 < boundaries.size(); ++s) {
      const at::Tensor segment = weighted.narrow(0, boundaries[s], boundaries[s + 1] - boundaries[s]);
      rows.push_back(mode == Pooling::kMax ? std::get<0>(at::max(segment, 0)) : segment.sum(0));
    }
    parts.push_back(at::stack(rows));
  }
  return joined(std::move(parts));
}

}  // namespace bitrain::nn
