#pragma once

#include <cstdint>
#include <fstream>
#include <memory>

#include <bitrain/models/late_interaction_encoder.h>
#include <bitrain/text/hf_tokenizer.h>

#include "support/temporary_directory.h"

namespace bitrain::test {

/// BERT's WordPiece over letters, digits and punctuation, with [CLS], [SEP] and [MASK].
inline std::shared_ptr<const text::Tokenizer> letter_tokenizer() {
  const TemporaryDirectory folder;
  std::ofstream vocabulary(folder.path() / "vocab.txt");
  for (const char* special : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]"})
    vocabulary << special << "\n";
  for (char c = 'a'; c <= 'z'; ++c) vocabulary << c << "\n##" << c << "\n";
  for (const char* mark : {".", ",", "!", "?", "'", "-"}) vocabulary << mark << "\n";
  vocabulary.close();
  std::ofstream(folder.path() / "tokenizer_config.json") << R"({"tokenizer_class": "BertTokenizer"})";
  return text::open_hf_tokenizer(folder.path());
}

/// Lengths of queries and documents; the rest as it is by default.
inline models::LateInteractionOptions late_options(std::int64_t query_length, std::int64_t document_length) {
  models::LateInteractionOptions options;
  options.query_length = query_length;
  options.document_length = document_length;
  return options;
}

}  // namespace bitrain::test
