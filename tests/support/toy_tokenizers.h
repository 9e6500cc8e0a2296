#pragma once

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/io/json.h>
#include <bitrain/text/hf_tokenizer.h>

#include "support/temporary_directory.h"

namespace bitrain::testing {

/// BERT's tokenizer: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then `pieces`.
inline std::shared_ptr<const text::HfTokenizer> toy_wordpiece(const std::vector<std::string>& pieces) {
  const test::TemporaryDirectory folder;
  std::ofstream lines(folder.path() / "vocab.txt");
  for (const char* special : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) lines << special << "\n";
  for (const std::string& piece : pieces) lines << piece << "\n";
  lines.close();
  return text::open_hf_tokenizer(folder.path());
}

/// XLM-R's: <s> 0, <pad> 1, </s> 2, <unk> 3, then `pieces`, <mask>.
inline std::shared_ptr<const text::HfTokenizer> toy_unigram(const std::vector<std::string>& pieces) {
  io::Json vocabulary = io::Json::array();
  const auto add = [&](const std::string& piece, double score) {
    vocabulary.push_back(io::Json::array({piece, score}));
  };
  for (const char* piece : {"<s>", "<pad>", "</s>", "<unk>"}) add(piece, 0);
  for (const std::string& piece : pieces) add(piece, -1);
  add("<mask>", 0);
  const auto special = [](const char* token) {
    return io::Json{{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
  };
  const auto sequence = [](const char* name) {
    return io::Json{{"Sequence", {{"id", name}, {"type_id", 0}}}};
  };
  const auto token = [](const char* name, int id) {
    return io::Json{{"id", name}, {"ids", {id}}, {"tokens", {name}}};
  };
  const io::Json json = {
      {"pre_tokenizer",
       {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}, {"split", true}}},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single", io::Json::array({special("<s>"), sequence("A"), special("</s>")})},
        {"pair", io::Json::array({special("<s>"), sequence("A"), special("</s>"), special("</s>"),
                                  sequence("B"), special("</s>")})},
        {"special_tokens", {{"<s>", token("<s>", 0)}, {"</s>", token("</s>", 2)}}}}},
      {"model", {{"type", "Unigram"}, {"unk_id", 3}, {"vocab", vocabulary}}}};
  const io::Json config = {{"bos_token", "<s>"},    {"eos_token", "</s>"},  {"cls_token", "<s>"},
                           {"sep_token", "</s>"},   {"unk_token", "<unk>"}, {"pad_token", "<pad>"},
                           {"mask_token", "<mask>"}};
  return text::make_hf_tokenizer(json.dump(), config, "tokenizer.json");
}

}  // namespace bitrain::testing
