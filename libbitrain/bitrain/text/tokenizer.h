#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bitrain::text {

using TokenId = std::int32_t;

/// The bytes [begin, end) of the input text that a token stands for.
struct Offset {
  std::int32_t begin = 0;
  std::int32_t end = 0;
};

struct Encoding {
  std::vector<TokenId> ids;
  std::vector<Offset> offsets;  ///< As long as `ids`.
  std::vector<std::int32_t>
      type_ids;  ///< The segment of each id, where an InputTemplate framed it; else empty.
};

/// Ids of the tokens with a role; empty where the tokenizer has none.
struct SpecialTokens {
  std::optional<TokenId> bos, eos, unk, pad, cls, sep, mask;
};

/// How a model wants its input framed: "[CLS] text [SEP]", and "[CLS] text [SEP] second text [SEP]" for two.
struct InputTemplate {
  enum class Kind { kSpecial, kFirst, kSecond };
  /// A special token, or where the first or second text stands.
  struct Item {
    Kind kind = Kind::kFirst;
    TokenId id = 0;  ///< Of a special token.
    std::int32_t type_id = 0;
  };
  std::vector<Item> single = {{Kind::kFirst, 0, 0}};
  std::vector<Item> pair = {{Kind::kFirst, 0, 0}, {Kind::kSecond, 0, 1}};

  /// Number of special tokens beside one text, or two: what is left for text in a context.
  [[nodiscard]] std::int64_t special_count(bool two_texts = false) const;
  /// Those of a pair that stand before the second text.
  [[nodiscard]] std::int64_t special_count_before_second() const;
  /// The ids of a text, framed.
  [[nodiscard]] std::vector<TokenId> frame(const std::vector<TokenId>& ids) const;
  /// The same with offsets, (0, 0) for special tokens, and type_ids.
  [[nodiscard]] Encoding frame(const Encoding& text) const;
  /// Two texts; the offsets of each count from its own beginning.
  [[nodiscard]] Encoding frame(const Encoding& first, const Encoding& second) const;
};

/// Text to ids and back. Implementations are immutable after loading, so any thread may use one.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Number of ids, specials and byte pieces included. A model's vocabulary may be larger (padded rows).
  [[nodiscard]] virtual std::int64_t vocab_size() const = 0;
  /// Ids of `text` without BOS or EOS. Special-token spellings inside `text` are plain text.
  [[nodiscard]] virtual std::vector<TokenId> encode(std::string_view text) const = 0;
  /// The same with the bytes of `text` behind each id; needed to supervise spans.
  [[nodiscard]] virtual Encoding encode_with_offsets(std::string_view text) const = 0;
  /// The same, but a spelling of a special token that lies inside one of `markup` (ranges of bytes of `text`,
  /// ascending, apart) is that token, as a chat template means it. Elsewhere it stays plain text, so that
  /// what a user wrote cannot end a turn. With the whole text as markup the ids are AutoTokenizer's without
  /// its template. A tokenizer without special tokens need not override it.
  [[nodiscard]] virtual Encoding encode_markup(std::string_view text,
                                               const std::vector<Offset>& markup) const;
  /// Text of `ids`; control tokens give nothing, byte pieces are joined into UTF-8.
  [[nodiscard]] virtual std::string decode(const std::vector<TokenId>& ids) const = 0;
  /// Raw piece, for example "▁casa" or "<0xC3>". Throws DataError outside [0, vocab_size).
  [[nodiscard]] virtual std::string id_to_piece(TokenId id) const = 0;
  [[nodiscard]] virtual std::optional<TokenId> piece_to_id(std::string_view piece) const = 0;
  [[nodiscard]] virtual const SpecialTokens& special_tokens() const = 0;
  /// The special tokens that the tokenizer's files put around texts; none unless overridden. Framing is the
  /// caller's, after truncation: input_template().frame(encode(text)).
  [[nodiscard]] virtual const InputTemplate& input_template() const;
  /// Writes the tokenizer's files into the existing folder `dir`, so that AutoTokenizer gives the same ids,
  /// special tokens and settings: those of the folder that it was read from, as they were (saved_folder.h
  /// says what is changed on purpose), or tokenizer.json, tokenizer_config.json, special_tokens_map.json, and
  /// tokenizer.model or WordPiece's vocab.txt where there is one.
  virtual void save(const std::filesystem::path& dir) const = 0;
};

/// The ids of `text`, cut to at most `max_length` with its special tokens, and framed: what an encoder reads.
/// Throws ConfigError when max_length leaves no room for text.
[[nodiscard]] std::vector<TokenId> encode_framed(const Tokenizer& tokenizer, std::string_view text,
                                                 std::int64_t max_length);

/// Cuts both to `room` tokens together, the longer one first, exactly as `tokenizers` does (longest_first): a
/// text of at most half the room stays whole.
void cut_longest_first(Encoding& first, Encoding& second, std::int64_t room);

/// Two texts as an encoder reads them together.
struct FramedPair {
  std::vector<TokenId> ids;
  std::vector<std::int32_t> type_ids;  ///< As long as `ids`.
  std::size_t second = 0;              ///< Where the second text begins.
};

/// Two texts, cut by cut_longest_first to at most `max_length` with their special tokens, and framed: what a
/// cross-encoder reads. Throws ConfigError when max_length leaves no room for a token of each.
[[nodiscard]] FramedPair encode_pair_framed(const Tokenizer& tokenizer, std::string_view first,
                                            std::string_view second, std::int64_t max_length);

/// Opens the tokenizer of a Hugging Face folder with the ids that AutoTokenizer of transformers 5.23 gives:
/// tokenizer.json, or without one the vocabulary that the folder's class reads (tokenizer.model, vocab.txt,
/// vocab.json with merges.txt, sentencepiece.bpe.model), with the added tokens, special tokens and flags of
/// the other files. A tokenizer.model is used where it is shown to be the same tokenizer, or where no file
/// names a class; a SentencePieceTokenizer comes back then, else an HfTokenizer. docs/formats.md has the rules.
/// Throws IoError when there is none, FormatError for a damaged file, ConfigError where two files disagree,
/// UnsupportedError naming an unknown component or class.
[[nodiscard]] std::shared_ptr<const Tokenizer> open_tokenizer(const std::filesystem::path& dir);

}  // namespace bitrain::text
