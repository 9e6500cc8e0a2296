#include <bitrain/objectives/context_prediction.h>

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/models/initialise.h>

namespace bitrain::objectives {
namespace {

constexpr const char* kMean = "projection_head.norm.running_mean";
constexpr const char* kVariance = "projection_head.norm.running_var";
constexpr const char* kSteps = "context_prediction.steps";
constexpr const char* kBank = "memory_bank.";

/// The language of each pair of a step. Centres and contexts are alternating rows.
std::vector<std::int32_t> languages_of(const std::vector<Batch>& micro_batches) {
  std::vector<std::int32_t> languages;
  for (const Batch& batch : micro_batches) {
    const auto segments = static_cast<std::size_t>(batch.segments());
    if (segments % 2 != 0 || batch.language_ids.size() != segments)
      throw StateError("context prediction: a batch of ", segments, " sentences with ",
                       batch.language_ids.size(), " languages is none of pairs");
    for (std::size_t s = 0; s < segments; s += 2) languages.push_back(batch.language_ids[s]);
  }
  return languages;
}

/// Random draws [n, n] -> a random rotation: their Q, with the signs that make all rotations as likely.
void make_rotation(at::Tensor& weight) {
  const at::NoGradGuard no_grad;
  const auto [q, r] = at::linalg_qr(weight.to(at::kCPU, at::kDouble));
  weight.copy_(q * r.diagonal().sign());
}

}  // namespace

ContextPrediction::ContextPrediction(std::shared_ptr<const text::Tokenizer> tokenizer,
                                     std::vector<std::string> languages, std::int64_t width,
                                     std::uint64_t seed, ContextPredictionOptions options,
                                     at::TensorOptions tensors)
    : tokenizer_(std::move(tokenizer)),
      languages_(std::move(languages)),
      options_(std::move(options)),
      head_(width, width, width, tensors),
      bank_(options_.bank == "shared" ? 1 : static_cast<std::int64_t>(languages_.size()), options_.bank_size,
            width, tensors) {
  models::initialise(head_, 1, seed);
  // Begins as rotations, so that what is learned from first is how near the encoder has two sentences.
  make_rotation(head_.in_proj.weight);
  make_rotation(head_.out_proj.weight);
  head_.visit_tensors([](const std::string& name, at::Tensor& tensor) {
    const bool statistics = ends_with(name, "running_mean") || ends_with(name, "running_var");
    tensor.set_requires_grad(!statistics);
  });
}

std::int32_t ContextPrediction::language_id(const std::string& language) const {
  const auto found = std::find(languages_.begin(), languages_.end(), language);
  return found == languages_.end() ? -1 : static_cast<std::int32_t>(found - languages_.begin());
}

std::int32_t ContextPrediction::bank_of(std::int32_t language) const {
  if (language < 0 || static_cast<std::size_t>(language) >= languages_.size())
    throw DataError("context prediction: there is no bank for language ", language, "; there are ",
                    languages_.size(), ": ", join(languages_, ", "));
  return options_.bank == "shared" ? 0 : language;
}

data::TokenSequence ContextPrediction::encode(const data::Example& example) const {
  const auto place = [&] { return data::row_name(example); };
  if (example.pair_text.empty() && (!example.messages.empty() || !example.text.empty()))
    throw DataError(place(), " is not a sentence beside its context");
  if (example.text.empty() || example.text == example.pair_text) return {};
  if (example.pair_language != example.language)
    throw DataError(place(), " is of two languages, '", example.language, "' and '", example.pair_language,
                    "'; a context is of its sentence's language");
  const std::int32_t language = language_id(example.language);
  if (language < 0)
    throw DataError(place(), " is of language '", example.language,
                    "', which no bank is for; there are: ", join(languages_, ", "));
  data::TokenSequence sequence;
  for (const std::string* text : {&example.text, &example.pair_text}) {
    const std::vector<text::TokenId> ids = text::encode_framed(*tokenizer_, *text, options_.max_length);
    sequence.ids.insert(sequence.ids.end(), ids.begin(), ids.end());
    sequence.parts.push_back({static_cast<std::int32_t>(sequence.ids.size()), language});
  }
  sequence.labels.assign(sequence.ids.size(), static_cast<std::int32_t>(kIgnoreIndex));
  return sequence;
}

EmbeddingLoss ContextPrediction::loss(models::SentenceEncoder& model) {
  EmbeddingLoss loss;
  loss.embed = [&model](const Batch& batch, const nn::ForwardContext& context) {
    return model.forward(batch, context);
  };
  loss.loss = [this](const at::Tensor& embedded, const at::Tensor&, const std::vector<Batch>& micro_batches) {
    return loss_of(embedded, micro_batches);
  };
  return loss;
}

ContextPrediction::Sides ContextPrediction::project(const at::Tensor& centres, const at::Tensor& contexts) {
  nn::ForwardContext context;
  context.training = true;
  // Running statistics begin as those of the first batch, and as the mean of the first few.
  head_.norm.momentum = std::max(0.1, 1.0 / static_cast<double>(steps_ + 1));
  const bool swapped = steps_ % 2 == 1;
  const at::Tensor& batch_side = swapped ? contexts : centres;
  const at::Tensor& running_side = swapped ? centres : contexts;
  at::Tensor running;
  // What the running side reads must not hold this batch; only the first has nothing else to read.
  if (steps_ > 0) running = head_.forward(running_side, nn::BatchStatistics::kRunning, context);
  const at::Tensor batch = head_.forward(batch_side, nn::BatchStatistics::kBatch, context);
  if (steps_ == 0) running = head_.forward(running_side, nn::BatchStatistics::kRunning, context);
  return swapped ? Sides{running, batch} : Sides{batch, running};
}

LossSum ContextPrediction::loss_of(const at::Tensor& embedded, const std::vector<Batch>& micro_batches) {
  const std::vector<std::int32_t> languages = languages_of(micro_batches);
  const auto pairs = static_cast<std::int64_t>(languages.size());
  if (embedded.dim() != 2 || embedded.size(0) != 2 * pairs)
    throw StateError("context prediction: ", embedded.sizes(), " are not the embeddings of ", pairs,
                     " pairs");
  if (pairs < 2)
    throw DataError(
        "context prediction: a step of one pair has no other sentence to tell a context from; raise "
        "rows_per_step");
  std::vector<std::vector<std::int64_t>> rows_of(languages_.size());
  std::vector<std::int32_t> banks;
  for (std::size_t i = 0; i < languages.size(); ++i) {
    banks.push_back(bank_of(languages[i]));
    rows_of[static_cast<std::size_t>(banks.back())].push_back(static_cast<std::int64_t>(i));
  }

  const at::Tensor mean = head_.norm.running_mean.clone();
  const at::Tensor variance = head_.norm.running_var.clone();
  const Sides sides = project(embedded.slice(0, 0, 2 * pairs, 2), embedded.slice(0, 1, 2 * pairs, 2));
  LossSum result;
  result.weight = static_cast<double>(pairs);
  for (std::size_t b = 0; b < rows_of.size(); ++b) {
    if (rows_of[b].empty()) continue;
    const auto bank = static_cast<std::int32_t>(b);
    if (rows_of[b].size() == 1 && bank_.size(bank) == 0)
      throw DataError(
          "context prediction: language '", languages_[b],
          "' has one pair in the step and nothing in its bank yet: there is no other sentence to tell "
          "its context from; raise rows_per_step or the language's share");
    const at::Tensor index = at::tensor(rows_of[b]).to(embedded.device());
    const at::Tensor centres = sides.centres.index_select(0, index);
    const at::Tensor contexts = sides.contexts.index_select(0, index);
    const at::Tensor earlier = bank_.candidates(bank);
    const at::Tensor there = losses::info_nce(centres, at::cat({contexts, earlier}), options_.info_nce).sum;
    const at::Tensor back = losses::info_nce(contexts, at::cat({centres, earlier}), options_.info_nce).sum;
    const at::Tensor sum = (there + back) / 2;
    result.sum = result.sum.defined() ? result.sum + sum : sum;
    const std::string name = options_.bank == "shared" ? "language/all" : "language/" + languages_[b];
    result.parts[name] = {sum.item<double>(), static_cast<double>(rows_of[b].size())};
  }
  if (std::isfinite(result.sum.item<double>())) {
    if (options_.bank != "none") {
      bank_.push(sides.centres, banks);
      bank_.push(sides.contexts, banks);
    }
    ++steps_;
  } else {  // The trainer stops or skips the step: nothing of it may stay.
    head_.norm.running_mean.copy_(mean);
    head_.norm.running_var.copy_(variance);
  }
  return result;
}

std::vector<std::pair<std::string, at::Tensor>> ContextPrediction::state() const {
  std::vector<std::pair<std::string, at::Tensor>> state = {
      {kMean, head_.norm.running_mean},
      {kVariance, head_.norm.running_var},
      {kSteps, at::full({1}, steps_, at::TensorOptions().dtype(at::kLong))}};
  for (const auto& [name, tensor] : bank_.state()) state.emplace_back(kBank + name, tensor);
  return state;
}

void ContextPrediction::load_state(const losses::LanguageMemoryBank::Lookup& lookup) {
  const at::NoGradGuard no_grad;
  const auto need = [&](const char* name) {
    std::optional<at::Tensor> tensor = lookup(name);
    if (!tensor) throw StateError("context prediction: the state to go on from has no '", name, "'");
    return *tensor;
  };
  const at::Tensor mean = need(kMean);
  const at::Tensor variance = need(kVariance);
  const std::int64_t steps = need(kSteps).item<std::int64_t>();
  if (mean.sizes() != head_.norm.running_mean.sizes() || variance.sizes() != head_.norm.running_var.sizes())
    throw StateError("context prediction: the saved running statistics ", mean.sizes(),
                     " do not fit a head of width ", head_.norm.running_mean.size(0));
  bank_.load_state([&](const std::string& name) { return lookup(kBank + name); });
  head_.norm.running_mean.copy_(mean);
  head_.norm.running_var.copy_(variance);
  steps_ = steps;
}

}  // namespace bitrain::objectives
