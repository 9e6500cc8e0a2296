#include <bitrain/losses/grouped_info_nce.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>

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

}  // namespace bitrain::losses
