#pragma once

#include <filesystem>
#include <fstream>

#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/text/hf_tokenizer.h>

#include "support/tiny_bert.h"

namespace bitrain::testing {

/// Writes a sentence-transformers folder of a tiny random BERT whose WordPiece vocabulary is the letters,
/// into `folder`; beside it, a folder of the vocabulary.
inline void write_letters_encoder(const std::filesystem::path& folder, std::int64_t positions = 34) {
  const std::filesystem::path vocabulary = folder.string() + "-vocabulary";
  std::filesystem::create_directories(vocabulary);
  std::ofstream file(vocabulary / "vocab.txt");
  for (const char* special : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) file << special << "\n";
  for (char c = 'a'; c <= 'z'; ++c) file << c << "\n##" << c << "\n";
  file.close();
  std::ofstream(vocabulary / "tokenizer_config.json") << R"({"tokenizer_class": "BertTokenizer"})";
  const auto tokenizer = text::open_hf_tokenizer(vocabulary);
  models::BertConfig config = tiny_bert_config();
  config.vocab_size = tokenizer->vocab_size();
  config.max_position_embeddings = positions;
  models::SentenceEncoder model(tiny_bert(at::kFloat, config), {{nn::Pooling::kMean}, true});
  hub::save_sentence_encoder(folder, model, tokenizer.get(), {});
}

}  // namespace bitrain::testing
