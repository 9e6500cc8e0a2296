#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>
#include <bitrain/text/sentencepiece_tokenizer.h>
#include <bitrain/text/spm_trainer.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::vocab {

/// How the pieces of another language are learned and merged into a tokenizer.
struct ExtensionOptions {
  std::int64_t pieces = 4000;
  std::string method = "continue";
  double character_coverage = 0.9995;
  std::int64_t min_frequency = 3;
  std::int64_t max_piece_length = 16;
  bool split_digits = true;
};
template <class Visitor>
void visit_fields(Visitor& v, ExtensionOptions& o) {
  v.field("pieces", o.pieces, at_least(1), "Most pieces to add; fewer where the text gives fewer.");
  v.field("method", o.method, one_of({"continue", "merge"}),
          "continue: go on with byte-pair merging where the old tokenizer stops, so that every new piece is "
          "reached. merge: learn a separate vocabulary and append its pieces that are new and reached, as "
          "Chinese-LLaMA and Bailong do. A unigram tokenizer is always extended by merge.");
  v.field("character_coverage", o.character_coverage, in_range(0.9, 1.0),
          "Share of the characters of the text that must have a piece of their own.");
  v.field("min_frequency", o.min_frequency, at_least(1), "A piece must occur this often in the text.");
  v.field("max_piece_length", o.max_piece_length, in_range(1, 512), "Longest piece in characters.");
  v.field("split_digits", o.split_digits, any(), "Never join digits.");
}

/// A piece the old tokenizer does not have.
struct NewPiece {
  std::string text;                   ///< With "▁" for a space.
  text::TokenId id = 0;               ///< In the extended tokenizer.
  std::vector<text::TokenId> source;  ///< Old ids of its text: what initialisers start from. Never empty.
  std::int64_t uses = 0;              ///< Times the extended tokenizer gives it on the text learned from.
};

/// A learned piece that was not taken.
struct DroppedPiece {
  std::string text;
  /// "exists" in the old tokenizer, "unreachable" (the extended tokenizer cuts its text otherwise), "rare",
  /// or "surplus" (more than were asked for).
  std::string reason;
};

/// What extending a tokenizer will change. Ids of old pieces stay.
struct ExtensionPlan {
  std::shared_ptr<const text::SentencePieceTokenizer> base;
  std::shared_ptr<const text::SentencePieceTokenizer> tokenizer;  ///< The extended one.
  std::vector<NewPiece> pieces;                                   ///< By id, from base->vocab_size() up.
  std::vector<DroppedPiece> dropped;

  [[nodiscard]] std::int64_t old_vocab_size() const { return base->vocab_size(); }
  [[nodiscard]] std::int64_t vocab_size() const { return tokenizer->vocab_size(); }
  /// Number of dropped pieces by reason.
  [[nodiscard]] std::map<std::string, std::int64_t> dropped_counts() const;
};

/// Learns pieces on the lines of the target language and merges them into `base`. New BPE pieces are scored
/// below every old one, so that old merges come first and text of the old language changes as little as can
/// be; new unigram scores are aligned with the old by the pieces both have. A pure function of its arguments.
/// Throws UnsupportedError when `base` is not a SentencePiece tokenizer, DataError for no lines, for a line
/// that is not UTF-8, and when nothing new is found.
[[nodiscard]] ExtensionPlan plan_extension(const std::shared_ptr<const text::Tokenizer>& base,
                                           const text::NextLine& lines, const ExtensionOptions& options);

/// The plan that leads from `base` to a tokenizer extended before or elsewhere. Throws StateError naming the
/// first piece of `base` that has another id or spelling in `extended`.
[[nodiscard]] ExtensionPlan plan_between(const std::shared_ptr<const text::Tokenizer>& base,
                                         const std::shared_ptr<const text::Tokenizer>& extended);

/// How much of a text is segmented differently.
struct SegmentationChange {
  std::int64_t lines = 0;
  std::int64_t changed_lines = 0;
  std::int64_t tokens = 0;          ///< Of the old tokenizer.
  std::int64_t changed_tokens = 0;  ///< Those of them that the new one does not give at their place.

  [[nodiscard]] double line_share() const {
    return lines == 0 ? 0.0 : static_cast<double>(changed_lines) / static_cast<double>(lines);
  }
  [[nodiscard]] double token_share() const {
    return tokens == 0 ? 0.0 : static_cast<double>(changed_tokens) / static_cast<double>(tokens);
  }
};
[[nodiscard]] SegmentationChange segmentation_change(const text::Tokenizer& before,
                                                     const text::Tokenizer& after,
                                                     const text::NextLine& lines);

}  // namespace bitrain::vocab
