#include <bitrain/text/spm_model.h>

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file.h>
#include <bitrain/text/wire.h>

namespace bitrain::text {
namespace {

// Field numbers of sentencepiece_model.proto.
enum ModelField : std::uint32_t { kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3 };
enum PieceField : std::uint32_t { kText = 1, kScore = 2, kType = 3 };
enum TrainerField : std::uint32_t {
  kModelType = 3,
  kVocabSize = 4,
  kWhitespaceAsSuffix = 24,
  kByteFallback = 35,
  kUnkSurface = 44,
  kBosPiece = 46,
  kEosPiece = 47,
  kPadPiece = 48,
};
enum NormalizerField : std::uint32_t { kCharsmap = 2, kDummyPrefix = 3, kRemoveExtra = 4, kEscape = 5 };

constexpr std::size_t kMostPieces = std::size_t{1} << 24;
constexpr std::size_t kMostPieceBytes = 4096;  // The trainer's limit is 512 characters.

SpmPiece read_piece(std::string_view bytes, const std::string& name) {
  SpmPiece piece;
  WireReader reader(bytes, name);
  for (WireField field; reader.next(field);) {
    if (field.number == kText && field.type == WireField::kBytes) {
      piece.text = std::string(field.bytes);
    } else if (field.number == kScore && field.type == WireField::kFixed32) {
      piece.score = field.as_float();
    } else if (field.number == kType && field.type == WireField::kVarint) {
      if (field.value < 1 || field.value > 6)
        throw FormatError(name, ": the piece '", piece.text, "' has the unknown type ", field.value);
      piece.type = static_cast<PieceType>(field.value);
    } else {
      piece.unknown_fields += field.raw;
    }
  }
  return piece;
}

void read_trainer(SpmModel& model, std::string_view bytes, const std::string& name) {
  WireReader reader(bytes, name);
  for (WireField field; reader.next(field);) {
    if (field.type == WireField::kBytes) {
      if (field.number == kUnkSurface) model.unk_surface = std::string(field.bytes);
      if (field.number == kBosPiece) model.bos_piece = std::string(field.bytes);
      if (field.number == kEosPiece) model.eos_piece = std::string(field.bytes);
      if (field.number == kPadPiece) model.pad_piece = std::string(field.bytes);
    } else if (field.type == WireField::kVarint) {
      if (field.number == kModelType) {
        if (field.value < 1 || field.value > 4)
          throw FormatError(name, ": the unknown model type ", field.value);
        model.type = static_cast<SpmType>(field.value);
      }
      if (field.number == kWhitespaceAsSuffix) model.treat_whitespace_as_suffix = field.value != 0;
      if (field.number == kByteFallback) model.byte_fallback = field.value != 0;
    }
  }
  model.trainer_spec += bytes;
}

void read_normalizer(SpmModel& model, std::string_view bytes, const std::string& name) {
  WireReader reader(bytes, name);
  for (WireField field; reader.next(field);) {
    if (field.number == kCharsmap && field.type == WireField::kBytes)
      model.precompiled_charsmap = std::string(field.bytes);
    if (field.type != WireField::kVarint) continue;
    if (field.number == kDummyPrefix) model.add_dummy_prefix = field.value != 0;
    if (field.number == kRemoveExtra) model.remove_extra_whitespaces = field.value != 0;
    if (field.number == kEscape) model.escape_whitespaces = field.value != 0;
  }
  model.normalizer_spec += bytes;
}

void check(const SpmModel& model, const std::string& name) {
  if (model.pieces.empty()) throw FormatError(name, ": not a SentencePiece model: it has no pieces");
  for (const std::string* text : {&model.unk_surface, &model.bos_piece, &model.eos_piece, &model.pad_piece}) {
    if (find_invalid_utf8(*text) != std::string_view::npos)
      throw FormatError(name, ": the spelling of a special piece is not UTF-8");
  }
  std::unordered_set<std::string_view> seen;
  std::size_t unknown = 0;
  std::size_t bytes = 0;
  for (const SpmPiece& piece : model.pieces) {
    const auto id = static_cast<std::size_t>(&piece - model.pieces.data());
    if (piece.text.empty()) throw FormatError(name, ": the piece ", id, " is empty");
    if (piece.text.size() > kMostPieceBytes)
      throw FormatError(name, ": the piece ", id, " has ", piece.text.size(), " bytes");
    if (find_invalid_utf8(piece.text) != std::string_view::npos)
      throw FormatError(name, ": the piece ", id, " is not UTF-8");
    if (!std::isfinite(piece.score))
      throw FormatError(name, ": the score of the piece ", id, ", '", piece.text, "', is not finite");
    if (!seen.insert(piece.text).second)
      throw FormatError(name, ": the piece '", piece.text, "' occurs twice, the second time with id ", id);
    if (piece.type == PieceType::kByte && !byte_of_piece(piece.text))
      throw FormatError(name, ": the byte piece ", id, ", '", piece.text, "', names no byte");
    unknown += piece.type == PieceType::kUnknown;
    bytes += piece.type == PieceType::kByte;
  }
  if (unknown != 1) throw FormatError(name, ": ", unknown, " unknown pieces instead of one");
  if (model.byte_fallback && bytes != 256)
    throw FormatError(name, ": byte fallback with ", bytes, " byte pieces instead of 256");
}

}  // namespace

SpmModel SpmModel::parse(std::string_view bytes, const std::string& name) {
  SpmModel model;
  WireReader reader(bytes, name);
  for (WireField field; reader.next(field);) {
    if (field.type != WireField::kBytes || field.number < kPieces || field.number > kNormalizerSpec) {
      model.other_fields += field.raw;
    } else if (field.number == kPieces) {
      if (model.pieces.size() == kMostPieces) throw FormatError(name, ": more than ", kMostPieces, " pieces");
      model.pieces.push_back(read_piece(field.bytes, name));
    } else if (field.number == kTrainerSpec) {
      read_trainer(model, field.bytes, name);
    } else {
      read_normalizer(model, field.bytes, name);
    }
  }
  check(model, name);
  return model;
}

SpmModel SpmModel::load(const std::filesystem::path& path) {
  return parse(io::read_file(path), path.string());
}

std::string SpmModel::serialize() const {
  WireWriter model;
  for (const SpmPiece& piece : pieces) {
    WireWriter one;
    one.bytes(kText, piece.text);
    one.real(kScore, piece.score);
    if (piece.type != PieceType::kNormal) one.number(kType, static_cast<std::uint64_t>(piece.type));
    one.raw(piece.unknown_fields);
    model.bytes(kPieces, one.message());
  }
  WireWriter trainer;
  const std::string name = "trainer specification";
  WireReader reader(trainer_spec, name);
  bool sized = false;
  for (WireField field; reader.next(field);) {
    if (field.number != kVocabSize) {
      trainer.raw(field.raw);
    } else if (!sized) {
      trainer.number(kVocabSize, pieces.size());
      sized = true;
    }
  }
  if (!sized) trainer.number(kVocabSize, pieces.size());
  model.bytes(kTrainerSpec, trainer.message());
  model.bytes(kNormalizerSpec, normalizer_spec);
  model.raw(other_fields);
  return model.message();
}

void SpmModel::append(const std::vector<SpmPiece>& more) {
  std::unordered_set<std::string_view> seen;
  for (const SpmPiece& piece : pieces) seen.insert(piece.text);
  for (const SpmPiece& piece : more) {
    if (piece.text.empty() || find_invalid_utf8(piece.text) != std::string_view::npos)
      throw StateError("a piece to append is empty or not UTF-8");
    if (!seen.insert(piece.text).second)
      throw StateError("the piece '", piece.text, "' exists already and cannot be appended");
  }
  pieces.insert(pieces.end(), more.begin(), more.end());
}

float SpmModel::lowest_score() const {
  float lowest = 0;
  bool any = false;
  for (const SpmPiece& piece : pieces) {
    if (piece.type != PieceType::kNormal) continue;
    lowest = any ? std::min(lowest, piece.score) : piece.score;
    any = true;
  }
  return lowest;
}

std::string byte_piece(std::uint8_t byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  return {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
}

std::optional<std::uint8_t> byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>') return std::nullopt;
  std::uint32_t value = 0;
  for (const char c : piece.substr(3, 2)) {
    if (c >= '0' && c <= '9')
      value = value * 16 + static_cast<std::uint32_t>(c - '0');
    else if (c >= 'A' && c <= 'F')
      value = value * 16 + static_cast<std::uint32_t>(c - 'A' + 10);
    else
      return std::nullopt;
  }
  return static_cast<std::uint8_t>(value);
}

}  // namespace bitrain::text
