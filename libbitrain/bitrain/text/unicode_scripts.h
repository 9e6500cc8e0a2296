#pragma once

#include <cstdint>

namespace bitrain::text {

/// A number for the script of a character as the pre-tokenizer UnicodeScripts of Hugging Face's `tokenizers`
/// has it: tables of an older Unicode, as SentencePiece cuts words (kana with ideographs); negative for
/// a space and for characters of no script, which go with any.
[[nodiscard]] int script_of(std::uint32_t code);

}  // namespace bitrain::text
