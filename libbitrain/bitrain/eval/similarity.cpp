#include <bitrain/eval/similarity.h>

#include <ATen/TensorOperators.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/check_embeddings.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/nn/unit_rows.h>

namespace bitrain::eval {

double score_similarity(const at::Tensor& left, const at::Tensor& right, const std::vector<double>& scores) {
  check_embeddings(left, "similarity: the first texts");
  check_embeddings(right, "similarity: the second texts");
  if (left.sizes() != right.sizes() || left.size(0) != static_cast<std::int64_t>(scores.size()))
    throw StateError("similarity: ", left.sizes(), " and ", right.sizes(), " with ", scores.size(),
                     " scores do not fit");
  const at::Tensor cosines = (nn::unit_rows(left) * nn::unit_rows(right)).sum(1).cpu().contiguous();
  const auto* first = cosines.const_data_ptr<float>();
  return spearman(std::vector<double>(first, first + cosines.numel()), scores);
}

}  // namespace bitrain::eval
