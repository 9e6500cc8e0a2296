#pragma once

#include <cstdint>

#include <bitrain/data/source.h>

/// Sources over documents: pairs of sentences within one, and pairs of documents with hard negatives.
namespace bitrain::data {

/// Sentences of `documents` (split_sentences) beside one near them: text is the centre, pair_text its
/// context, as SentenceWindows draws them. A run over the source has every centre 2 * `window` times (32 at
/// most), each time with its context drawn anew, so an epoch of it is that many of SentenceWindows. Reads
/// every document once, for its sentences. Throws as SentenceWindows, and DataError naming the row of a
/// document that is a pair or a conversation.
[[nodiscard]] SourcePtr window_source(SourcePtr documents, std::int64_t window, std::uint64_t seed);

/// `pairs` of documents, each with one hard negative a side: text_negatives of the text and negatives of its
/// pair, from documents at most `neighbourhood` places before or after, drawn evenly and never itself; what
/// stands near is of the same subject (in place of the shared category of HMDE, Galoğlu et al. 2023). A pure
/// function of (seed, index). Throws ConfigError for a neighbourhood below 1, DataError for a single pair.
[[nodiscard]] SourcePtr neighbour_source(SourcePtr pairs, std::int64_t neighbourhood, std::uint64_t seed);

}  // namespace bitrain::data
