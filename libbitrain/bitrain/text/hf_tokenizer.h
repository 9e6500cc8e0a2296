#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <bitrain/io/json.h>
#include <bitrain/text/added_tokens.h>
#include <bitrain/text/auto_tokenizer.h>
#include <bitrain/text/tokenizer.h>
#include <bitrain/text/wordpiece.h>

namespace bitrain::text {

/// A tokenizer from a tokenizer.json of Hugging Face's `tokenizers`, with the same ids: BPE (with byte
/// fallback, or byte-level as in GPT-2, Llama 3 and Qwen2), Unigram (with SentencePiece's normaliser, as in
/// XLM-R) and WordPiece (BERT). The offsets of WordPiece and XLM-R are the same too, in bytes; those of
/// byte-level tokens tile the text. `truncation` and `padding` are settings of the caller and ignored.
class HfTokenizer final : public Tokenizer {
 public:
  /// `config` is the content of tokenizer_config.json (or special_tokens_map.json), from which the special
  /// tokens come; null when there is none. `name` is for messages. Throws FormatError for damage,
  /// UnsupportedError naming a component that is not known.
  HfTokenizer(std::string_view tokenizer_json, const io::Json& config, const std::string& name);
  /// What AutoTokenizer makes of a folder; save() writes the folder's files again. null for no folder.
  HfTokenizer(AutoTokenizer made, std::shared_ptr<const TokenizerFolder> folder);
  ~HfTokenizer() override;

  [[nodiscard]] std::int64_t vocab_size() const override;
  [[nodiscard]] std::vector<TokenId> encode(std::string_view text) const override;
  [[nodiscard]] Encoding encode_with_offsets(std::string_view text) const override;
  [[nodiscard]] Encoding encode_markup(std::string_view text,
                                       const std::vector<Offset>& markup) const override;
  [[nodiscard]] std::string decode(const std::vector<TokenId>& ids) const override;
  [[nodiscard]] std::string id_to_piece(TokenId id) const override;
  [[nodiscard]] std::optional<TokenId> piece_to_id(std::string_view piece) const override;
  [[nodiscard]] const SpecialTokens& special_tokens() const override;
  [[nodiscard]] const InputTemplate& input_template() const override;
  void save(const std::filesystem::path& dir) const override;

  /// The tokens beside the model's vocabulary, and those of it that are cut out of texts.
  [[nodiscard]] const std::vector<AddedToken>& added_tokens() const;
  /// Its tokenizer.json.
  [[nodiscard]] const std::string& json() const;
  /// The words of a text as the model gets them: normalised and pre-tokenised, without added tokens.
  [[nodiscard]] std::vector<std::string> words(std::string_view text) const;
  /// How the tokenizer.model of its folder differs from it; "" where there is none.
  [[nodiscard]] std::string model_difference() const;
  /// The WordPiece model, null where the model is of another kind.
  [[nodiscard]] const WordPieceModel* wordpiece() const;
  /// This WordPiece tokenizer with more pieces, whose ids go on from vocab_size(). Throws UnsupportedError
  /// for another model, DataError for a piece that is there already.
  [[nodiscard]] std::shared_ptr<const HfTokenizer> with_pieces(const std::vector<std::string>& pieces) const;
  /// This tokenizer with the normaliser Lowercase before its others, unless it is among them
  /// (sentence-transformers' do_lower_case).
  [[nodiscard]] std::shared_ptr<const HfTokenizer> lower_cased() const;

 private:
  /// This tokenizer with another tokenizer.json, which its class would not build from flags if `generic`.
  [[nodiscard]] std::shared_ptr<const HfTokenizer> changed(io::Json json, bool generic) const;

  struct State;
  std::unique_ptr<State> state_;  ///< Not changed once the tokenizer is made.
};

[[nodiscard]] std::shared_ptr<const HfTokenizer> make_hf_tokenizer(std::string_view tokenizer_json,
                                                                   const io::Json& config,
                                                                   const std::string& name);

/// The same from a folder as AutoTokenizer opens it (open_tokenizer), also where it has a tokenizer.model.
[[nodiscard]] std::shared_ptr<const HfTokenizer> open_hf_tokenizer(const std::filesystem::path& dir);

}  // namespace bitrain::text
