#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <bitrain/io/json.h>

namespace bitrain::text {

/// BertTokenizer's special tokens where its configuration names none.
inline constexpr std::pair<const char*, const char*> kBertSpecialTokens[] = {{"pad_token", "[PAD]"},
                                                                             {"unk_token", "[UNK]"},
                                                                             {"cls_token", "[CLS]"},
                                                                             {"sep_token", "[SEP]"},
                                                                             {"mask_token", "[MASK]"}};

/// The tokenizer.json of a BERT folder that has only a vocab.txt, one token a line, as transformers'
/// BertTokenizer builds it: `config` is its tokenizer_config.json, of which do_lower_case (true),
/// tokenize_chinese_chars (true), strip_accents (null) and the special tokens' spellings count. Throws
/// FormatError for an empty line, a token that occurs twice, or a special token that is not there;
/// UnsupportedError for another tokenizer_class and for do_basic_tokenize: false.
[[nodiscard]] io::Json bert_tokenizer_json(std::string_view vocab_txt, const io::Json& config,
                                           const std::string& name);

}  // namespace bitrain::text
