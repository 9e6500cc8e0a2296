#pragma once

#include <cstddef>
#include <cstdint>

#include <bitrain/text/aligned_text.h>

namespace bitrain::text {

/// A Unicode normalisation form: NFC and NFKC compose, NFKC and NFKD are `compatible`.
struct NormalForm {
  bool compose = false;
  bool compatible = false;

  /// Rewrites `text` in this form, as `tokenizers` does, which knows decompositions of Unicode 11. What
  /// changes is aligned with the whole run of a character and its marks. Time is linear but for sorting
  /// marks.
  void apply(AlignedText& text) const;
};

/// The canonical decomposition of `code`, or with `compatible` that of compatibility, in at most 32 codes; as
/// many as returned. Characters newer than `tokenizers` knows stay.
[[nodiscard]] std::size_t decompose(std::uint32_t code, bool compatible, std::uint32_t (&codes)[32]);

/// Where a mark stands among others behind a character; 0 for what is no such mark.
[[nodiscard]] std::int32_t combining_class(std::uint32_t code);

}  // namespace bitrain::text
