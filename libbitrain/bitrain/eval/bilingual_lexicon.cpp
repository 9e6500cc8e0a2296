#include <bitrain/eval/bilingual_lexicon.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/check_embeddings.h>

namespace bitrain::eval {
namespace {

void check_ids(const at::Tensor& ids, std::int64_t rows, const char* what) {
  if (!ids.defined() || ids.dim() != 1 || ids.scalar_type() != at::kLong)
    throw StateError("lexicon: the ", what, " are not rows [P] int64");
  if (ids.numel() == 0) throw DataError("lexicon: there are no ", what);
  if (ids.min().item<std::int64_t>() < 0 || ids.max().item<std::int64_t>() >= rows)
    throw DataError("lexicon: ", what, " name rows ", ids.min().item<std::int64_t>(), " to ",
                    ids.max().item<std::int64_t>(), "; there are ", rows);
}

/// Of rows that are not zero.
at::Tensor unit_rows(const at::Tensor& x) {
  return x / at::linalg_vector_norm(x, 2, {1}, true);
}

}  // namespace

Neighbours translate_words(const at::Tensor& sources, const at::Tensor& targets, const at::Tensor& queries,
                           const LexiconOptions& options) {
  const at::NoGradGuard no_grad;
  check_embeddings(sources, "lexicon: the source words");
  check_embeddings(targets, "lexicon: the target words");
  check_ids(queries, sources.size(0), "source words");
  if (options.csls_neighbours < 0)
    throw ConfigError("lexicon: csls_neighbours is ", options.csls_neighbours, "; 0 is the least");
  const at::Tensor asked = sources.index_select(0, queries);
  if (options.csls_neighbours == 0) return search(asked, targets, {.k = options.cutoff});
  const at::Tensor of_targets = search(targets, sources, {.k = options.csls_neighbours}).scores.mean(1, true);
  const at::Tensor of_queries = search(asked, targets, {.k = options.csls_neighbours}).scores.mean(1, true);
  // One more dimension takes the targets' penalty into the product: (x, 1) . (y, -r(y) / 2).
  const at::Tensor left = at::cat({unit_rows(asked), at::ones({asked.size(0), 1}, asked.options())}, 1);
  const at::Tensor right = at::cat({unit_rows(targets), of_targets * -0.5}, 1);
  Neighbours found = search(left, right, {.k = options.cutoff, .similarity = "dot"});
  found.scores = found.scores * 2 - of_queries;
  return found;
}

LexiconScores score_lexicon(const at::Tensor& sources, const at::Tensor& targets, const Lexicon& lexicon,
                            const LexiconOptions& options) {
  check_ids(lexicon.sources, sources.dim() == 2 ? sources.size(0) : 0, "source words");
  check_ids(lexicon.targets, targets.dim() == 2 ? targets.size(0) : 0, "target words");
  if (lexicon.sources.size(0) != lexicon.targets.size(0))
    throw StateError("lexicon: ", lexicon.sources.size(0), " source words and ", lexicon.targets.size(0),
                     " target words are not pairs");
  if (options.cutoff < 5) throw ConfigError("lexicon: cutoff is ", options.cutoff, "; 5 is the least");
  const at::Tensor left = lexicon.sources.cpu().contiguous();
  const at::Tensor right = lexicon.targets.cpu().contiguous();
  std::map<std::int64_t, std::set<std::int64_t>> translations;
  for (std::int64_t i = 0; i < left.size(0); ++i)
    translations[left.const_data_ptr<std::int64_t>()[i]].insert(right.const_data_ptr<std::int64_t>()[i]);
  std::vector<std::int64_t> asked;
  asked.reserve(translations.size());
  for (const auto& [word, right_ones] : translations) asked.push_back(word);
  const at::Tensor queries = at::tensor(asked).to(sources.device());
  const at::Tensor found = translate_words(sources, targets, queries, options).rows.cpu().contiguous();
  LexiconScores scores;
  const auto* row = found.const_data_ptr<std::int64_t>();
  for (const auto& [word, right_ones] : translations) {
    const auto* end = row + found.size(1);
    const auto* hit =
        std::find_if(row, end, [&known = right_ones](std::int64_t id) { return known.count(id) > 0; });
    if (hit != end) {
      scores.precision_at_1 += hit == row ? 1 : 0;
      scores.precision_at_5 += hit - row < 5 ? 1 : 0;
      scores.mrr += 1 / static_cast<double>(hit - row + 1);
    }
    row = end;
  }
  scores.words = static_cast<std::int64_t>(asked.size());
  const auto words = static_cast<double>(scores.words);
  scores.precision_at_1 /= words;
  scores.precision_at_5 /= words;
  scores.mrr /= words;
  scores.coverage = lexicon.coverage();
  return scores;
}

}  // namespace bitrain::eval
