#include <bitrain/eval/encode.h>

#include <algorithm>
#include <numeric>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <bitrain/base/batch.h>

namespace bitrain::eval {
namespace {

Batch batch_of(const std::vector<std::vector<text::TokenId>>& ids, const std::vector<std::int64_t>& chosen,
               std::int32_t language) {
  std::vector<std::vector<std::int32_t>> rows;
  std::vector<std::vector<std::int32_t>> labels;
  for (const std::int64_t i : chosen) {
    rows.push_back(ids[static_cast<std::size_t>(i)]);
    labels.emplace_back(rows.back().size(), static_cast<std::int32_t>(kIgnoreIndex));
  }
  return make_batch(rows, labels, std::vector<std::int32_t>(language < 0 ? 0 : chosen.size(), language));
}

}  // namespace

at::Tensor encode_texts(models::SentenceEncoder& model, const text::Tokenizer& tokenizer,
                        const std::vector<std::string>& texts, const EncodeOptions& options) {
  const at::NoGradGuard no_grad;
  const auto count = static_cast<std::int64_t>(texts.size());
  const at::Device device = model.encoder().input_embeddings().weight.device();
  const std::int64_t longest = std::min(options.max_length, model.encoder().max_tokens());
  std::vector<std::vector<text::TokenId>> ids;
  ids.reserve(texts.size());
  for (const std::string& text : texts)
    ids.push_back(text::encode_framed(tokenizer, options.prompt + text, longest));
  std::vector<std::int64_t> order(texts.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return ids[static_cast<std::size_t>(a)].size() > ids[static_cast<std::size_t>(b)].size();
  });
  at::Tensor embeddings = at::empty({count, model.dimension()}, at::TensorOptions().dtype(at::kFloat));
  std::vector<std::int64_t> chosen;
  std::int64_t tokens = 0;
  std::int64_t done = 0;
  const auto flush = [&] {
    const at::Tensor rows = model.forward(batch_of(ids, chosen, options.language).to(device), {}).cpu();
    for (std::size_t i = 0; i < chosen.size(); ++i)
      embeddings.select(0, chosen[i]).copy_(rows.select(0, static_cast<std::int64_t>(i)));
    done += static_cast<std::int64_t>(chosen.size());
    chosen.clear();
    tokens = 0;
    if (options.progress) options.progress(done);
  };
  for (const std::int64_t i : order) {
    const auto size = static_cast<std::int64_t>(ids[static_cast<std::size_t>(i)].size());
    if (!chosen.empty() && tokens + size > options.tokens_per_batch) flush();
    chosen.push_back(i);
    tokens += size;
  }
  if (!chosen.empty()) flush();
  return embeddings;
}

}  // namespace bitrain::eval
