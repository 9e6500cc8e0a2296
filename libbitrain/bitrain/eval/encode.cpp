#include <bitrain/eval/encode.h>

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/finite_scores.h>
#include <bitrain/eval/length_batches.h>

namespace bitrain::eval {
namespace {

/// Tokens before the text: those of the prompt and the special ones in front of it; 0: none is left out.
std::int64_t tokens_left_out(const models::SentenceEncoder& model, const text::Tokenizer& tokenizer,
                             const EncodeOptions& options) {
  if (options.include_prompt || options.prompt.empty()) return 0;
  const std::vector<nn::Pooling>& modes = model.options().pooling;
  if (std::find(modes.begin(), modes.end(), nn::Pooling::kWeightedMean) != modes.end())
    throw UnsupportedError("a prompt cannot be left out of the pooling mode weightedmean");
  const auto& items = tokenizer.input_template().single;
  const auto place = std::find_if(items.begin(), items.end(), [](const text::InputTemplate::Item& item) {
    return item.kind == text::InputTemplate::Kind::kFirst;
  });
  return place - items.begin() + static_cast<std::int64_t>(tokenizer.encode(options.prompt).size());
}

/// Embeddings of what is behind the first `left_out` tokens of each segment, at least its last.
at::Tensor embed_rest(models::SentenceEncoder& model, const Batch& batch, std::int64_t left_out) {
  const at::Tensor hidden = model.encoder().forward(batch, {}).hidden;
  std::vector<at::Tensor> rows;
  std::vector<std::int32_t> boundaries = {0};
  for (std::size_t s = 0; s + 1 < batch.boundaries.size(); ++s) {
    const std::int64_t end = batch.boundaries[s + 1];
    rows.push_back(hidden.slice(0, std::min(batch.boundaries[s] + left_out, end - 1), end));
    boundaries.push_back(boundaries.back() + static_cast<std::int32_t>(rows.back().size(0)));
  }
  return model.embed(at::cat(rows), boundaries, {});
}

}  // namespace

at::Tensor encode_texts(models::SentenceEncoder& model, const text::Tokenizer& tokenizer,
                        const std::vector<std::string>& texts, const EncodeOptions& options) {
  const at::NoGradGuard no_grad;
  const auto count = static_cast<std::int64_t>(texts.size());
  const at::Device device = model.encoder().input_embeddings().weight.device();
  const std::int64_t longest = std::min(options.max_length, model.encoder().max_tokens());
  if (options.truncate_dim < 0 || options.truncate_dim > model.dimension())
    throw ConfigError("truncate_dim is ", options.truncate_dim, "; embeddings have ", model.dimension(),
                      " features");
  const std::int64_t width = options.truncate_dim > 0 ? options.truncate_dim : model.dimension();
  const std::int64_t left_out = tokens_left_out(model, tokenizer, options);
  std::vector<std::vector<text::TokenId>> ids;
  ids.reserve(texts.size());
  for (const std::string& text : texts)
    ids.push_back(text::encode_framed(tokenizer, options.prompt + text, longest));
  at::Tensor embeddings = at::empty({count, width}, at::TensorOptions().dtype(at::kFloat));
  std::int64_t done = 0;
  run_by_length(ids, options.tokens_per_batch, options.language,
                [&](const std::vector<std::int64_t>& chosen, const Batch& batch) {
                  const Batch moved = batch.to(device);
                  const at::Tensor rows =
                      (left_out > 0 ? embed_rest(model, moved, left_out) : model.forward(moved, {}))
                          .narrow(1, 0, width)
                          .cpu();
                  check_finite(rows, "embeddings of texts");
                  for (std::size_t i = 0; i < chosen.size(); ++i)
                    embeddings.select(0, chosen[i]).copy_(rows.select(0, static_cast<std::int64_t>(i)));
                  done += static_cast<std::int64_t>(chosen.size());
                  if (options.progress) options.progress(done);
                });
  return embeddings;
}

}  // namespace bitrain::eval
