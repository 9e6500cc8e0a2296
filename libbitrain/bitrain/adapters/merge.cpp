#include <bitrain/adapters/merge.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <functional>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/models/llama/config.h>
#include <bitrain/quant/matmul_4bit.h>

namespace bitrain::adapters {
namespace {

at::ScalarType parse_dtype(const std::string& name) {
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  throw ConfigError("merge: dtype '", name, "' is not supported; there are: float32, bfloat16, float16");
}

template <class Module>
bool changes(const Module& module) {
  bool result = module.trainable_rows.has_value();
  for (const nn::LowRank& adapter : module.adapters) result = result || adapter.enabled;
  return result;
}

/// Folds the adapters of `linear` into its own weight.
void merge_linear(nn::Linear& linear, const MergeOptions& options) {
  if (linear.quantized && changes(linear)) {
    if (options.requantize) {
      const quant::QuantizedTensor& old = *linear.quantized;
      quant::QuantizedTensor merged = quant::quantize(
          linear.merged_weight(at::kFloat),
          {.type = old.type, .block_size = old.block_size, .double_quant = old.double_quant()});
      merged.dtype = old.dtype;
      linear.quantized = std::move(merged);
    } else {
      linear.weight = linear.merged_weight(parse_dtype(options.dtype));
      linear.quantized.reset();
    }
  } else if (linear.quantized && !options.requantize) {
    linear.weight = linear.dense_weight(parse_dtype(options.dtype));
    linear.quantized.reset();
  } else if (changes(linear)) {
    linear.weight = linear.merged_weight(linear.weight.scalar_type());
  }
}

/// Runs the tasks on all threads; the first error, in the order of the tasks, is thrown.
void run_parallel(const std::vector<std::function<void()>>& tasks) {
  std::vector<std::exception_ptr> errors(tasks.size());
  at::parallel_for(0, static_cast<std::int64_t>(tasks.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard no_grad;
    for (std::int64_t i = begin; i < end; ++i) {
      try {
        tasks[static_cast<std::size_t>(i)]();
      } catch (...) {
        errors[static_cast<std::size_t>(i)] = std::current_exception();
      }
    }
  });
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

/// Whether the two sides of a tied embedding will differ: then the head needs a weight of its own.
bool must_untie(models::LanguageModel& model) {
  if (!model.tied()) return false;
  const nn::Embedding& embedding = model.input_embeddings();
  const nn::Linear& head = model.output_head();
  const auto adapted = [](const std::vector<nn::LowRank>& adapters) {
    return std::any_of(adapters.begin(), adapters.end(),
                       [](const nn::LowRank& adapter) { return adapter.enabled; });
  };
  if (adapted(embedding.adapters) || adapted(head.adapters)) return true;
  const bool rows = embedding.trainable_rows.has_value();
  if (rows != head.trainable_rows.has_value()) return true;
  return rows && !embedding.trainable_rows->rows.is_same(head.trainable_rows->rows);
}

}  // namespace

void merge(nn::Module& model, const MergeOptions& options) {
  static_cast<void>(parse_dtype(options.dtype));
  const at::NoGradGuard no_grad;
  auto* language_model = dynamic_cast<models::LanguageModel*>(&model);
  const bool untie = language_model != nullptr && must_untie(*language_model);
  if (untie) {
    language_model->config().tie_word_embeddings = false;
    language_model->output_head().shares_weight = false;
  }
  std::vector<std::function<void()>> tasks;
  model.visit_modules([&](const std::string&, nn::Module& module) {
    auto* linear = dynamic_cast<nn::Linear*>(&module);
    auto* embedding = dynamic_cast<nn::Embedding*>(&module);
    if (linear && !linear->shares_weight)
      tasks.emplace_back([linear, &options] { merge_linear(*linear, options); });
    if (embedding && changes(*embedding))
      tasks.emplace_back(
          [embedding] { embedding->weight = embedding->merged_weight(embedding->weight.scalar_type()); });
  });
  run_parallel(tasks);
  if (untie) {
    nn::Linear& head = language_model->output_head();
    if (head.weight.is_same(language_model->input_embeddings().weight)) head.weight = head.weight.clone();
  }
  detach(model);
  freeze(model);
  // A head that is still tied takes the merged embedding.
  if (language_model != nullptr) static_cast<void>(language_model->output_head());
}

LogitDifference compare_logits(const at::Tensor& before, const at::Tensor& after) {
  if (before.sizes() != after.sizes())
    throw StateError("logits of shapes ", before.sizes(), " and ", after.sizes(), " cannot be compared");
  const at::NoGradGuard no_grad;
  // In parts: in float64, with their logarithms, logits would take a multiple of a small model's memory.
  constexpr std::int64_t kTokens = 64;
  const at::Tensor rows_before = before.reshape({-1, before.size(-1)});
  const at::Tensor rows_after = after.reshape({-1, after.size(-1)});
  const std::int64_t tokens = rows_before.size(0);
  LogitDifference sum{.top1_agreement = 0};
  for (std::int64_t first = 0; first < tokens; first += kTokens) {
    const std::int64_t count = std::min(kTokens, tokens - first);
    const at::Tensor left = rows_before.narrow(0, first, count).to(at::kDouble);
    const at::Tensor right = rows_after.narrow(0, first, count).to(at::kDouble);
    const at::Tensor gap = (left - right).abs();
    const at::Tensor log_left = at::log_softmax(left, -1);
    const at::Tensor log_right = at::log_softmax(right, -1);
    const double largest = gap.max().item<double>();
    sum.max_absolute = largest > sum.max_absolute || std::isnan(largest) ? largest : sum.max_absolute;
    sum.mean_absolute += gap.sum().item<double>();
    sum.mean_kl += (log_left.exp() * (log_left - log_right)).sum().item<double>();
    sum.top1_agreement += left.argmax(-1).eq(right.argmax(-1)).sum().item<double>();
  }
  sum.mean_absolute /= static_cast<double>(rows_before.numel());
  sum.mean_kl /= static_cast<double>(tokens);
  sum.top1_agreement /= static_cast<double>(tokens);
  return sum;
}

at::Tensor logits(models::LanguageModel& model, const Batch& batch) {
  const at::NoGradGuard no_grad;
  const nn::ForwardContext context;
  const at::Tensor hidden = model.forward(batch, context).hidden;
  return model.output_head().forward(hidden, context).to(at::kFloat);
}

LogitDifference merge_and_compare(models::LanguageModel& model, const Batch& batch,
                                  const MergeOptions& options) {
  const at::Tensor before = logits(model, batch);
  merge(model, options);
  return compare_logits(before, logits(model, batch));
}

}  // namespace bitrain::adapters
