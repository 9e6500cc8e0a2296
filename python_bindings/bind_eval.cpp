#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <bitrain/eval/alignment.h>
#include <bitrain/eval/bilingual_lexicon.h>
#include <bitrain/eval/bitext_mining.h>
#include <bitrain/eval/query_fusion.h>
#include <bitrain/eval/rcsls.h>
#include <bitrain/eval/similarity.h>
#include <bitrain/eval/word_vectors.h>

#include "bind.h"
#include "options.h"

namespace bitrain::python {
namespace {

template <class Options>
Options options_from(const py::kwargs& values, const char* where) {
  Options options;
  read_options(values, options, where);
  return options;
}

/// Rows [P, 2] and scores [P], float64.
std::pair<at::Tensor, at::Tensor> as_tensors(const std::vector<eval::MinedPair>& mined) {
  std::vector<std::int64_t> rows;
  std::vector<double> scores;
  for (const eval::MinedPair& pair : mined) {
    rows.insert(rows.end(), {pair.left, pair.right});
    scores.push_back(pair.score);
  }
  return {at::tensor(rows).view({-1, 2}), at::tensor(scores)};
}

void bind_word_vectors(py::module_& module) {
  module.def(
      "read_word_vectors",
      [](const std::filesystem::path& path, const py::kwargs& values) {
        const auto options = options_from<eval::WordVectorOptions>(values, "read_word_vectors");
        py::gil_scoped_release release;
        eval::WordVectors read = eval::read_word_vectors(path, options);
        return std::make_pair(std::move(read.words), std::move(read.vectors));
      },
      py::arg("path"),
      "Words and vectors [N, D] of a fastText or word2vec text file. Options: max_words (200000; 0: all), "
      "duplicates ('first' or 'error').");
  module.def(
      "translate_words",
      [](const at::Tensor& sources, const at::Tensor& targets, const at::Tensor& queries,
         const py::kwargs& values) {
        const auto options = options_from<eval::LexiconOptions>(values, "translate_words");
        py::gil_scoped_release release;
        eval::Neighbours found = eval::translate_words(sources, targets, queries, options);
        return std::make_pair(std::move(found.rows), std::move(found.scores));
      },
      py::arg("sources"), py::arg("targets"), py::arg("queries"),
      "Rows and scores [Q, cutoff] of the targets [M, D] nearest to the rows `queries` of sources [N, D], "
      "already mapped. Options: cutoff (10), csls_neighbours (10; 0: cosine).");
}

void bind_alignment(py::module_& module) {
  module.def("procrustes", &eval::procrustes, py::arg("x"), py::arg("y"),
             py::call_guard<py::gil_scoped_release>(),
             "The orthogonal R [D, D] that brings x R nearest to y, row i to row i.");
  module.def(
      "rcsls_loss",
      [](const at::Tensor& x, const at::Tensor& y, const at::Tensor& sources, const at::Tensor& targets,
         const at::Tensor& map, std::int64_t neighbours) {
        py::gil_scoped_release release;
        eval::RcslsLoss loss = eval::rcsls_loss({x, y, sources, targets}, map, neighbours);
        return std::make_pair(loss.value, std::move(loss.gradient));
      },
      py::arg("x"), py::arg("y"), py::arg("sources"), py::arg("targets"), py::arg("map"),
      py::arg("neighbours") = 10, "The relaxed CSLS loss of a map [D, D], and its gradient.");
  module.def(
      "fit_rcsls",
      [](const at::Tensor& x, const at::Tensor& y, const at::Tensor& sources, const at::Tensor& targets,
         const py::kwargs& values) {
        const auto options = options_from<eval::RcslsOptions>(values, "fit_rcsls");
        py::gil_scoped_release release;
        return eval::fit_rcsls({x, y, sources, targets}, options);
      },
      py::arg("x"), py::arg("y"), py::arg("sources"), py::arg("targets"),
      "The map [D, D] from pairs (x_i, y_i) and the two spaces, unit rows all (Joulin et al. 2018). Options: "
      "iterations, neighbours, negatives, learning_rate, projection ('none', 'spectral', 'orthogonal').");
}

}  // namespace

void bind_eval(py::module_& module) {
  bind_word_vectors(module);
  bind_alignment(module);
  module.def(
      "mine_bitext",
      [](const at::Tensor& left, const at::Tensor& right, const py::kwargs& values) {
        const auto options = options_from<eval::MiningOptions>(values, "mine_bitext");
        py::gil_scoped_release release;
        return as_tensors(eval::mine_bitext(left, right, options));
      },
      py::arg("left"), py::arg("right"),
      "Rows [P, 2] of left [N, D] and right [M, D] that translate each other, best first, and their scores "
      "[P]. Options: margin ('absolute', 'distance', 'ratio'), strategy ('forward', 'backward', "
      "'intersection', 'max'), neighbours (4).");
  module.def("score_similarity", &eval::score_similarity, py::arg("left"), py::arg("right"),
             py::arg("scores"), py::call_guard<py::gil_scoped_release>(),
             "Spearman's correlation of the cosines of rows of left and right [N, D] with scores [N].");
  module.def(
      "fuse_queries",
      [](const at::Tensor& passages, const at::Tensor& queries, const at::Tensor& owners, double weight) {
        py::gil_scoped_release release;
        return eval::fuse_queries(passages, queries, owners, {.weight = weight});
      },
      py::arg("passages"), py::arg("queries"), py::arg("owners"), py::arg("weight") = 0.01,
      "(1 - weight) passages [P, D] + weight times the sum of each one's queries; query i is of passage "
      "owners[i].");
}

}  // namespace bitrain::python
