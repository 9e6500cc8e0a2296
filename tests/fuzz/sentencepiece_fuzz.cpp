#include <bitrain/base/error.h>
#include <bitrain/text/sentencepiece_tokenizer.h>
#include <bitrain/text/tokenizer_json.h>

#include "driver.h"

namespace bitrain::fuzz {
namespace {

text::SpmModel small_model(text::SpmType type, bool byte_fallback) {
  text::SpmModel model;
  model.type = type;
  model.byte_fallback = byte_fallback;
  model.pieces = {{"<unk>", 0, text::PieceType::kUnknown, {}},
                  {"<s>", 0, text::PieceType::kControl, {}},
                  {"</s>", 0, text::PieceType::kControl, {}},
                  {"<sep>", 0, text::PieceType::kUserDefined, {}}};
  for (int byte = 0; byte_fallback && byte < 256; ++byte)
    model.pieces.push_back(
        {text::byte_piece(static_cast<std::uint8_t>(byte)), 0, text::PieceType::kByte, {}});
  float score = 0;
  for (const char* piece : {"▁", "a", "b", "é", "ab", "▁a", "▁ab", "aa", "日本"})
    model.pieces.push_back({piece, score -= 1, text::PieceType::kNormal, {}});
  // trainer_spec: model_type (field 3), vocab_size (4), byte_fallback (35).
  model.trainer_spec = std::string("\x18", 1) + static_cast<char>(type) + std::string("\x20\x64\x98\x02", 4) +
                       static_cast<char>(byte_fallback);
  return model;
}

}  // namespace

void fuzz_one(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  try {
    const text::SpmModel model = text::SpmModel::parse(input, "fuzz");
    static_cast<void>(text::SpmModel::parse(model.serialize(), "again"));
    const text::SentencePieceTokenizer tokenizer(model);
    for (const std::string& text : {std::string("ab aab  <sep>é 日本 \xF0\x9F\x98\x80 "),
                                    std::string(300, 'a'), std::string(input.substr(0, 200))}) {
      const text::Encoding encoding = tokenizer.encode_with_offsets(text);
      if (encoding.ids != tokenizer.encode(text)) __builtin_trap();
      for (const text::Offset& offset : encoding.offsets) {
        if (offset.begin < 0 || offset.begin > offset.end ||
            offset.end > static_cast<std::int32_t>(text.size()))
          __builtin_trap();
      }
      static_cast<void>(tokenizer.decode(encoding.ids));
    }
    static_cast<void>(text::tokenizer_json(model).dump());
  } catch (const Error&) {
  }
}

std::vector<std::string> seeds() {
  text::SpmModel normalised = small_model(text::SpmType::kUnigram, false);
  // A double array of one entry, "a" to "b": the root's children begin at unit 64.
  std::string units(256 * 4, '\0');
  const auto put = [&](std::size_t unit, std::uint32_t value) {
    for (std::size_t i = 0; i < 4; ++i) units[unit * 4 + i] = static_cast<char>(value >> (8 * i));
  };
  put(0, 64U << 10);
  put(64 ^ 'a', 'a' | 1U << 8 | 1U << 10);
  put(64 ^ 'a' ^ 1, 1U << 31);
  normalised.precompiled_charsmap = std::string("\0\x04\0\0", 4) + units + std::string("b\0", 2);
  normalised.normalizer_spec =
      std::string("\x12", 1) + static_cast<char>((normalised.precompiled_charsmap.size() & 0x7F) | 0x80) +
      static_cast<char>(normalised.precompiled_charsmap.size() >> 7) + normalised.precompiled_charsmap;
  return {small_model(text::SpmType::kBpe, true).serialize(),
          small_model(text::SpmType::kUnigram, true).serialize(),
          small_model(text::SpmType::kBpe, false).serialize(), normalised.serialize()};
}

}  // namespace bitrain::fuzz
