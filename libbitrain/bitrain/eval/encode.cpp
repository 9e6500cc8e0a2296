#include <bitrain/eval/encode.h>

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <bitrain/eval/length_batches.h>

namespace bitrain::eval {

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
  at::Tensor embeddings = at::empty({count, model.dimension()}, at::TensorOptions().dtype(at::kFloat));
  std::int64_t done = 0;
  run_by_length(ids, options.tokens_per_batch, options.language,
                [&](const std::vector<std::int64_t>& chosen, const Batch& batch) {
                  const at::Tensor rows = model.forward(batch.to(device), {}).cpu();
                  for (std::size_t i = 0; i < chosen.size(); ++i)
                    embeddings.select(0, chosen[i]).copy_(rows.select(0, static_cast<std::int64_t>(i)));
                  done += static_cast<std::int64_t>(chosen.size());
                  if (options.progress) options.progress(done);
                });
  return embeddings;
}

}  // namespace bitrain::eval
