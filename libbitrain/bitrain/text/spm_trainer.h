#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>
#include <bitrain/text/spm_model.h>
#include <bitrain/text/training_text.h>

namespace bitrain::text {

/// How a SentencePiece vocabulary is learned. The defaults are those of Llama 2's tokenizer.
struct TrainOptions {
  std::int64_t vocab_size = 8000;
  std::string model_type = "bpe";
  double character_coverage = 0.9995;
  bool byte_fallback = true;
  bool split_digits = true;
  std::string normalization = "identity";
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = false;
  bool allow_whitespace_only_pieces = true;
  std::int64_t max_piece_length = 16;
  std::int64_t max_line_bytes = 65536;
  std::vector<std::string> control_symbols;
  bool pad = false;
  bool exact_vocab_size = true;
};
template <class Visitor>
void visit_fields(Visitor& v, TrainOptions& o) {
  v.field("vocab_size", o.vocab_size, at_least(8), "Number of pieces, special and byte pieces included.");
  v.field("model_type", o.model_type, one_of({"bpe", "unigram"}), "How text is segmented.");
  v.field("character_coverage", o.character_coverage, in_range(0.98, 1.0),
          "Share of the characters of the text that get a piece of their own; the rest become bytes.");
  v.field("byte_fallback", o.byte_fallback, any(), "Add 256 byte pieces, so that no text is unknown.");
  v.field("split_digits", o.split_digits, any(), "Every digit is a piece of its own.");
  v.field("normalization", o.normalization,
          one_of({"identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"}),
          "Unicode normalisation before segmentation; identity gives text back unchanged.");
  v.field("add_dummy_prefix", o.add_dummy_prefix, any(),
          "Put a space before the text, so that its first word is a word like others.");
  v.field("remove_extra_whitespaces", o.remove_extra_whitespaces, any(),
          "Drop leading and trailing spaces and make runs of spaces one.");
  v.field("allow_whitespace_only_pieces", o.allow_whitespace_only_pieces, any(),
          "Allow pieces of several spaces.");
  v.field("max_piece_length", o.max_piece_length, in_range(1, 512), "Longest piece in characters.");
  v.field("max_line_bytes", o.max_line_bytes, in_range(16, 1000000000),
          "Longer lines are cut, at spaces where there are.");
  v.field("control_symbols", o.control_symbols, any(),
          "More special tokens, such as chat markers; they never come out of text.");
  v.field("pad", o.pad, any(), "Add a '<pad>' piece, id 3.");
  v.field("exact_vocab_size", o.exact_vocab_size, any(),
          "Refuse a text that is too small for vocab_size, instead of learning fewer pieces.");
}

/// Learns a model from the lines, by libsentencepiece's trainer on one thread: the same lines give the same
/// bytes. Ids: <unk> 0, <s> 1, </s> 2, <pad> 3 if asked for. Lines that the trainer would pass over are cut
/// first (TrainingText); a message says how many. Throws DataError for no usable lines or a line that is not
/// UTF-8 (with its number), ConfigError for an option that breaks its rule, for control symbols that cannot
/// be, and with the largest possible size when the text is too small for vocab_size.
[[nodiscard]] SpmModel train_sentencepiece(const NextLine& lines, const TrainOptions& options);

}  // namespace bitrain::text
