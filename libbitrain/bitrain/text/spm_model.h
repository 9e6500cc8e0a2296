#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitrain/text/tokenizer.h>

namespace bitrain::text {

/// Kind of a SentencePiece piece, with the numbers of its format.
enum class PieceType : int {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

/// How a SentencePiece model segments, with the numbers of its format.
enum class SpmType : int { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };

struct SpmPiece {
  std::string text;  ///< With "▁" (U+2581) for a space.
  float score = 0;   ///< BPE: the higher, the earlier the merge. Unigram: log probability.
  PieceType type = PieceType::kNormal;
  std::string unknown_fields;  ///< Fields this reader does not know, kept as they came.
};

/// A SentencePiece model (tokenizer.model): the id of a piece is its index. Reads and writes the protobuf
/// without protobuf; whatever it does not interpret is kept.
struct SpmModel {
  std::vector<SpmPiece> pieces;
  SpmType type = SpmType::kUnigram;
  bool byte_fallback = false;  ///< Characters without a piece become byte pieces "<0x..>".
  bool treat_whitespace_as_suffix = false;
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";
  std::string pad_piece = "<pad>";
  std::string unk_surface = " \xE2\x81\x87 ";  ///< What the unknown piece decodes to.

  // Of the normaliser.
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  std::string precompiled_charsmap;  ///< Empty means identity.

  // The specifications as they were read; serialize() writes them with vocab_size brought up to date.
  std::string trainer_spec;
  std::string normalizer_spec;
  std::string other_fields;  ///< Self-test data, denormaliser and unknown fields, with their tags.

  /// Reads a model; `name` is for messages. Throws FormatError for damage: truncation, wrong wire types, bad
  /// UTF-8, empty or repeated pieces, no or several unknown pieces, byte fallback without its 256 pieces.
  [[nodiscard]] static SpmModel parse(std::string_view bytes, const std::string& name);
  /// As parse, of a file. Throws IoError too.
  [[nodiscard]] static SpmModel load(const std::filesystem::path& path);
  [[nodiscard]] std::string serialize() const;

  /// Appends normal pieces after the old ones, whose ids stay. Throws StateError when a piece exists already.
  void append(const std::vector<SpmPiece>& more);
  /// The smallest score of the normal pieces, 0 when there are none.
  [[nodiscard]] float lowest_score() const;
};

/// "<0x0A>" for 10.
[[nodiscard]] std::string byte_piece(std::uint8_t byte);
/// The byte a piece of that form names.
[[nodiscard]] std::optional<std::uint8_t> byte_of_piece(std::string_view piece);

}  // namespace bitrain::text
