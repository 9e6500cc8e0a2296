#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include <bitrain/eval/search.h>
#include <bitrain/eval/word_vectors.h>
#include <bitrain/fields/rule.h>

/// Bilingual lexicon induction: how many words of a dictionary find their translation among all target words.
namespace bitrain::eval {

struct LexiconOptions {
  std::int64_t cutoff = 10;
  std::int64_t csls_neighbours = 10;
};
template <class Visitor>
void visit_fields(Visitor& v, LexiconOptions& o) {
  v.field("cutoff", o.cutoff, at_least(5), "Words found for each; a right one beyond counts as not found.");
  v.field("csls_neighbours", o.csls_neighbours, at_least(0),
          "Neighbours of CSLS, taken from both whole vocabularies; 0: nearest by cosine.");
}

struct LexiconScores {
  double precision_at_1 = 0;  ///< Words whose first is a right translation, any of several.
  double precision_at_5 = 0;  ///< Words with a right translation among the first five.
  double mrr = 0;             ///< Mean of 1 / rank of the first right translation; 0 beyond the cutoff.
  double coverage = 0;        ///< Share of the dictionary's source words that were asked for.
  std::int64_t words = 0;     ///< Source words asked for.
};

/// The `cutoff` best of targets [M, D] for each of the rows `queries` [Q] int64 of sources [N, D]. CSLS
/// (Lample et al. 2018) as in MUSE: 2 cos(x, y) - r(x) - r(y), r(x) the mean cosine of x to its nearest
/// targets, r(y) that of y to its nearest among all sources, asked for or not. Throws StateError for shapes
/// or types that do not fit, DataError as check_embeddings or for rows that are not there.
[[nodiscard]] Neighbours translate_words(const at::Tensor& sources, const at::Tensor& targets,
                                         const at::Tensor& queries, const LexiconOptions& options = {});

/// Sources [N, D] are already mapped into the space of targets [M, D]. Throws as translate_words, DataError
/// for a lexicon without pairs.
[[nodiscard]] LexiconScores score_lexicon(const at::Tensor& sources, const at::Tensor& targets,
                                          const Lexicon& lexicon, const LexiconOptions& options = {});

}  // namespace bitrain::eval
