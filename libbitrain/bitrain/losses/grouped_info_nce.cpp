#include <bitrain/losses/grouped_info_nce.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/roll.h>
#include <ATen/ops/stack.h>

#include <bitrain/base/error.h>
#include <bitrain/dist/gather_rows.h>

namespace bitrain::losses {
namespace {

/// The positives of a rank's queries among the group's candidates.
CandidateRules own_rows(const dist::GatheredRows& gathered, std::int64_t rows) {
  CandidateRules rules;
  rules.positives = at::arange(gathered.offset, gathered.offset + rows,
                               at::TensorOptions().dtype(at::kLong).device(gathered.rows.device()));
  return rules;
}

/// The rows of the group, this rank's first.
at::Tensor own_first(const at::Tensor& rows, dist::Communicator& group) {
  const dist::GatheredRows all = dist::gather_rows(rows, group);
  return all.offset == 0 ? all.rows : at::roll(all.rows, -all.offset, 0);
}

}  // namespace

ContrastiveLoss grouped_info_nce(const at::Tensor& queries, const at::Tensor& positives,
                                 const at::Tensor& hard_negatives, bool symmetric,
                                 const InfoNceOptions& options, dist::Communicator& group) {
  if (queries.sizes() != positives.sizes())
    throw StateError("grouped_info_nce: queries ", queries.sizes(), " and positives ", positives.sizes(),
                     " are no pairs");
  const dist::GatheredRows all_positives = dist::gather_rows(positives, group);
  at::Tensor candidates = all_positives.rows;
  if (hard_negatives.defined())
    candidates = at::cat({candidates, dist::gather_rows(hard_negatives, group).rows});
  ContrastiveLoss loss = info_nce(queries, candidates, options, own_rows(all_positives, queries.size(0)));
  if (!symmetric) return loss;
  const dist::GatheredRows all_queries = dist::gather_rows(queries, group);
  const ContrastiveLoss back =
      info_nce(positives, all_queries.rows, options, own_rows(all_queries, queries.size(0)));
  loss.sum = (loss.sum + back.sum) / 2;
  loss.per_query = (loss.per_query + back.per_query) / 2;
  return loss;
}

ContrastiveLoss grouped_nt_xent(const at::Tensor& texts, const at::Tensor& pairs,
                                const at::Tensor& hard_negatives, const at::Tensor& labels,
                                const InfoNceOptions& options, dist::Communicator& group) {
  if (texts.dim() != 2 || texts.sizes() != pairs.sizes())
    throw StateError("grouped_nt_xent: texts ", texts.sizes(), " and ", pairs.sizes(), " are no pairs");
  if (labels.defined() && labels.numel() != texts.size(0))
    throw StateError("grouped_nt_xent: ", labels.numel(), " labels for ", texts.size(0), " pairs");
  // Side by side, so that a pair's rows are neighbours whatever other ranks have.
  const at::Tensor own = at::stack({texts, pairs}, 1).flatten(0, 1);
  at::Tensor candidates = own_first(own, group);
  const std::int64_t paired = candidates.size(0);
  if (hard_negatives.defined())
    candidates = at::cat({candidates, dist::gather_rows(hard_negatives, group).rows});
  CandidateRules rules;
  rules.exclude_self = true;
  if (labels.defined()) {
    const at::Tensor all = own_first(labels, group).repeat_interleave(2);
    const at::Tensor none = at::full({candidates.size(0) - paired}, -1, all.options());
    rules.query_labels = labels.repeat_interleave(2);
    rules.candidate_labels = at::cat({all, none});
    rules.same_label = CandidateRules::SameLabel::kPositive;
  } else {
    const at::Tensor rows = at::arange(own.size(0), at::TensorOptions().dtype(at::kLong));
    rules.positives = rows.view({-1, 2}).flip(1).flatten();  // 1, 0, 3, 2, ...
  }
  return info_nce(own, candidates, options, rules);
}

}  // namespace bitrain::losses
