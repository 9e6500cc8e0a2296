#include <string>

#include <ATen/TensorOperators.h>
#include <torch/csrc/utils/pybind.h>

#include <bitrain/losses/distillation.h>
#include <bitrain/losses/info_nce.h>

#include "bind.h"

namespace bitrain::python {
namespace {

at::Tensor optional(const py::object& tensor) {
  return tensor.is_none() ? at::Tensor() : tensor.cast<at::Tensor>();
}

at::Tensor info_nce(const at::Tensor& queries, const at::Tensor& candidates, double scale,
                    const std::string& similarity, const py::object& positives, const py::object& labels,
                    const py::object& candidate_labels, bool labels_are_positives, bool exclude_self) {
  losses::InfoNceOptions options;
  options.scale = scale;
  options.similarity = similarity;
  losses::CandidateRules rules;
  rules.positives = optional(positives);
  rules.query_labels = optional(labels);
  rules.candidate_labels = optional(candidate_labels);
  if (labels_are_positives) rules.same_label = losses::CandidateRules::SameLabel::kPositive;
  rules.exclude_self = exclude_self;
  const losses::ContrastiveLoss loss = losses::info_nce(queries, candidates, options, rules);
  return loss.sum / loss.count;
}

}  // namespace

void bind_losses(py::module_& module) {
  module.def(
      "info_nce", &info_nce, py::arg("queries"), py::arg("candidates"), py::kw_only(),
      py::arg("scale") = 20.0, py::arg("similarity") = "cosine", py::arg("positives") = py::none(),
      py::arg("labels") = py::none(), py::arg("candidate_labels") = py::none(),
      py::arg("labels_are_positives") = false, py::arg("exclude_self") = false,
      "Mean InfoNCE of queries [B, D] over candidates [M, D] (float32 or float64), without the B x M matrix; "
      "differentiable once. The positive of row i is column i, or positives[i]. Candidates with the label of "
      "a "
      "query are left out, or are positives too (SupCon).");
  module.def(
      "cosine_regression",
      [](const at::Tensor& a, const at::Tensor& b, const at::Tensor& target) {
        return losses::cosine_regression(a, b, target).mean();
      },
      py::arg("a"), py::arg("b"), py::arg("target"),
      "Mean of (cos(a_i, b_i) - target_i)^2 for embeddings [B, D] and targets [B] in [-1, 1]; "
      "differentiable.");
}

}  // namespace bitrain::python
