#pragma once

#include <string>

#include <bitrain/text/tokenizer_folder.h>
#include <bitrain/text/tokenizer_rules.h>

namespace bitrain::text {

/// vocab.txt, a token a line, as BertTokenizer reads it: white space at the end of a line is no part of the
/// token, an empty line counts, of two equal lines the later one does. Throws FormatError for bytes that are
/// not UTF-8 and for a byte order mark, which would be part of the first token.
[[nodiscard]] TokenizerVocabulary read_vocab_txt(const TokenizerFolder& folder);

/// vocab.json and merges.txt, GPT-2's. Throws IoError when one is missing, FormatError for damage.
[[nodiscard]] TokenizerVocabulary read_vocab_json(const TokenizerFolder& folder);

/// sentencepiece.bpe.model with the ids of fairseq. XLM-R's: bos, pad, eos, unk, the pieces from the fourth
/// on, mask; CamemBERT's: "<s>NOTUSED", pad, "</s>NOTUSED", unk, "<unk>NOTUSED", those from the second on,
/// mask.
[[nodiscard]] TokenizerVocabulary fairseq_vocabulary(TokenizerRule rule, const SpmModel& model,
                                                     const TokenizerArguments& arguments);

}  // namespace bitrain::text
