#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/models/sentence_encoder.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::eval {

struct EncodeOptions {
  std::int64_t max_length = 512;         ///< Tokens a text is cut to, special tokens included.
  std::int64_t tokens_per_batch = 4096;  ///< Changes no result.
  std::string prompt;                    ///< Put before every text.
  bool include_prompt = true;            ///< Whether the tokens of the prompt take part in pooling.
  std::int64_t truncate_dim = 0;         ///< Leading features of each embedding that are kept; 0: all.
  std::int32_t language = -1;            ///< Of all texts: an index into EncoderModel::set_languages.
  /// Optional: called after each batch with the texts done so far.
  std::function<void(std::int64_t done)> progress;
};

/// The embeddings of texts, [n, D] float32 on the CPU, in their order, without gradients; D is truncate_dim
/// where that is set, and such rows are not brought to length 1 again. Texts of like
/// length share a batch, so that attention's work is even; there is no padding. Throws as
/// SentenceEncoder::forward, ConfigError when max_length leaves no room for text or truncate_dim is wider
/// than the model, and UnsupportedError for a prompt that is left out of a position-weighted mean.
[[nodiscard]] at::Tensor encode_texts(models::SentenceEncoder& model, const text::Tokenizer& tokenizer,
                                      const std::vector<std::string>& texts,
                                      const EncodeOptions& options = {});

}  // namespace bitrain::eval
