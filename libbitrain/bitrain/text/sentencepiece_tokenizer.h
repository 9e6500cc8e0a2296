#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <bitrain/text/spm_model.h>
#include <bitrain/text/tokenizer.h>
#include <bitrain/text/tokenizer_classes.h>
#include <bitrain/text/tokenizer_folder.h>

namespace bitrain::text {

class HfTokenizer;

/// How a tokenizer.model stands in its folder.
struct SentencePieceOrigin {
  std::shared_ptr<const TokenizerFolder> folder;
  /// The same tokenizer as AutoTokenizer makes it (or, `own`, as save() writes it): what cuts texts at added
  /// tokens.
  std::shared_ptr<const HfTokenizer> json;
  TokenizerClass made_by;
  bool own = false;            ///< No file names a class: the ids are SentencePiece's own.
  bool spaces_differ = false;  ///< Texts that begin with a space get the ids of `json`.
  bool as_read = true;         ///< It is the tokenizer that was read from the folder.
};

/// A tokenizer over a SentencePiece model, BPE or unigram: the ids of libsentencepiece, by our own segmenters
/// (which tokenizer.json models use too). Unigram scores are summed in double, as Hugging Face does; where
/// two segmentations tie within float rounding, libsentencepiece may choose the other.
class SentencePieceTokenizer final : public Tokenizer {
 public:
  /// Throws FormatError for a model that cannot segment, UnsupportedError for word and char models and for
  /// whitespace as suffix.
  explicit SentencePieceTokenizer(SpmModel model);
  /// With its folder: special tokens, added tokens and the template are those of `origin`.json, whose added
  /// tokens must be pieces of `model`.
  SentencePieceTokenizer(SpmModel model, SentencePieceOrigin origin);
  ~SentencePieceTokenizer() override;

  [[nodiscard]] std::int64_t vocab_size() const override;
  [[nodiscard]] std::vector<TokenId> encode(std::string_view text) const override;
  /// A byte piece has its own byte as offset, or the bytes that were normalised into its character.
  [[nodiscard]] Encoding encode_with_offsets(std::string_view text) const override;
  [[nodiscard]] Encoding encode_markup(std::string_view text,
                                       const std::vector<Offset>& markup) const override;
  [[nodiscard]] std::string decode(const std::vector<TokenId>& ids) const override;
  [[nodiscard]] std::string id_to_piece(TokenId id) const override;
  [[nodiscard]] std::optional<TokenId> piece_to_id(std::string_view piece) const override;
  [[nodiscard]] const SpecialTokens& special_tokens() const override;
  /// BOS in front of each text, as in the tokenizer.json that save() writes; a folder's where there is one.
  [[nodiscard]] const InputTemplate& input_template() const override;
  void save(const std::filesystem::path& dir) const override;

  [[nodiscard]] const SpmModel& model() const;
  /// The tokenizer of another model, made from this one's by appending pieces, in the same folder.
  [[nodiscard]] std::shared_ptr<const SentencePieceTokenizer> with_model(SpmModel extended) const;
  /// Text as the segmenter sees it: normalised, with "▁" for spaces and the dummy prefix.
  [[nodiscard]] std::string normalize(std::string_view text) const;
  /// Ids of text that is normalised already, such as a piece: "▁casa" gets no further prefix.
  [[nodiscard]] std::vector<TokenId> encode_normalized(std::string_view normalized) const;

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

[[nodiscard]] std::shared_ptr<const SentencePieceTokenizer> make_sentencepiece_tokenizer(SpmModel model);

}  // namespace bitrain::text
