#pragma once

#include <cstdint>

/// Categories of characters as Hugging Face's `tokenizers` sees them: those of Unicode 8 (2015), whatever the
/// version that other libraries know. BERT's tokenizers follow them, and tests hold the tables to the oracle
/// over every character.
namespace bitrain::text::unicode8 {

/// Cc, Cf and Co, which BERT's normaliser drops; not Cn, so unassigned characters stay.
[[nodiscard]] bool is_other(std::uint32_t code);
/// Mn: what BERT's normaliser takes away with accents.
[[nodiscard]] bool is_nonspacing_mark(std::uint32_t code);
/// Mn, Mc and Me, of Unicode 9: what the normaliser StripAccents takes away.
[[nodiscard]] bool is_mark(std::uint32_t code);
/// Pc, Pd, Pe, Pf, Pi, Po, Ps, and the ASCII symbols.
[[nodiscard]] bool is_punctuation(std::uint32_t code);
/// Whether canonical ordering moves the character (its combining class is known and not 0); Unicode 9's.
[[nodiscard]] bool is_reordered(std::uint32_t code);

}  // namespace bitrain::text::unicode8
