#pragma once

#include <string>
#include <vector>

#include <bitrain/base/batch.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::data {

struct InspectOptions {
  bool color = false;             ///< ANSI colours: supervised green, ignored grey.
  std::int64_t max_segments = 0;  ///< 0: all.
  bool ids = false;               ///< Show ids beside pieces.
  bool in_place = false;          ///< Labels are those of the token itself (masked LM), not of the next.
};

/// A batch as a person can check it: per segment a heading (number, language, tokens, supervised), then the
/// pieces that the model reads. A piece that the position before it must predict is supervised and stands in
/// [brackets]; other pieces stand as they are. A last target that is not read as input (EOS, or the token
/// after a cut) follows as [->piece]. With `in_place` a token to be told stands as [piece], or as
/// [what is read->piece] where it is hidden. Of examples of several texts (Batch::group_ids) the heading says
/// which a segment is of.
[[nodiscard]] std::string render_batch(const Batch& batch, const text::Tokenizer& tokenizer,
                                       const std::vector<std::string>& languages,
                                       const InspectOptions& options = {});

}  // namespace bitrain::data
