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
};

/// Ids of the tokens with a role; empty where the tokenizer has none.
struct SpecialTokens {
  std::optional<TokenId> bos, eos, unk, pad;
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
  /// Text of `ids`; control tokens give nothing, byte pieces are joined into UTF-8.
  [[nodiscard]] virtual std::string decode(const std::vector<TokenId>& ids) const = 0;
  /// Raw piece, for example "▁casa" or "<0xC3>". Throws DataError outside [0, vocab_size).
  [[nodiscard]] virtual std::string id_to_piece(TokenId id) const = 0;
  [[nodiscard]] virtual std::optional<TokenId> piece_to_id(std::string_view piece) const = 0;
  [[nodiscard]] virtual const SpecialTokens& special_tokens() const = 0;
  /// Writes the tokenizer's files into the existing folder `dir`: tokenizer.json, tokenizer_config.json,
  /// special_tokens_map.json, and tokenizer.model where there is one, so that AutoTokenizer gives the same
  /// ids.
  virtual void save(const std::filesystem::path& dir) const = 0;
};

/// Opens the tokenizer of a Hugging Face folder: tokenizer.model where there is one, else tokenizer.json; the
/// latter too where it has added tokens behind the pieces of the former.
/// Throws IoError when neither exists, FormatError when one is damaged, UnsupportedError naming an unknown
/// component.
[[nodiscard]] std::shared_ptr<const Tokenizer> open_tokenizer(const std::filesystem::path& dir);

}  // namespace bitrain::text
