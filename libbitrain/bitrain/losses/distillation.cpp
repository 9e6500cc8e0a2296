#include <bitrain/losses/distillation.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <bitrain/base/error.h>
#include <bitrain/losses/symmetric_tiles.h>
#include <bitrain/nn/unit_rows.h>

namespace bitrain::losses {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check_matrix(const char* loss, const char* what, const at::Tensor& x) {
  if (!x.defined() || x.dim() != 2 || !x.is_floating_point())
    throw StateError(loss, ": ", what, " must be a floating-point matrix",
                     x.defined() ? to_text(", not ", x.scalar_type(), " ", x.sizes()) : ", not undefined");
}

void check_pair(const char* loss, const char* first, const at::Tensor& a, const char* second,
                const at::Tensor& b) {
  check_matrix(loss, first, a);
  check_matrix(loss, second, b);
  if (a.sizes() != b.sizes() || a.device() != b.device())
    throw StateError(loss, ": ", first, " ", a.sizes(), " on ", a.device().str(), " and ", second, " ",
                     b.sizes(), " on ", b.device().str(), " do not fit");
}

void check_scores(const char* loss, const at::Tensor& student, const at::Tensor& teacher) {
  check_pair(loss, "student scores", student, "teacher scores", teacher);
  if (student.size(1) < 2)
    throw DataError(loss, ": ", student.size(1),
                    " candidates for an example; it needs a positive and a negative");
}

at::Tensor wide(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

/// cos(s_i, s_j) - cos(t_i, t_j) of a tile, 0 for i = j.
at::Tensor difference(const at::Tensor& s, const at::Tensor& t, const SymmetricTile& tile) {
  const auto similarities = [&tile](const at::Tensor& unit) {
    return at::mm(unit.narrow(0, tile.row, tile.rows), unit.narrow(0, tile.column, tile.columns).t());
  };
  at::Tensor values = similarities(s).sub_(similarities(t));
  if (tile.on_diagonal()) values.diagonal().zero_();
  return values;
}

/// For unit rows s and t: [B] sums over j of squared differences.
class SquaredDifferencesFunction : public torch::autograd::Function<SquaredDifferencesFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& s, const at::Tensor& t) {
    at::Tensor sums = at::zeros({s.size(0)}, s.options());
    for_each_symmetric_tile(s.size(0), [&](const SymmetricTile& tile) {
      const at::Tensor squares = difference(s, t, tile).square_();
      sums.narrow(0, tile.row, tile.rows).add_(squares.sum(1));
      if (!tile.on_diagonal()) sums.narrow(0, tile.column, tile.columns).add_(squares.sum(0));
    });
    context->save_for_backward({s, t});
    return sums;
  }

  static variable_list backward(AutogradContext* context, variable_list slopes) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& s = saved[0];
    const at::Tensor& slope = slopes[0];
    at::Tensor gradient = at::zeros_like(s);
    for_each_symmetric_tile(s.size(0), [&](const SymmetricTile& tile) {
      const at::Tensor rows = s.narrow(0, tile.row, tile.rows);
      const at::Tensor columns = s.narrow(0, tile.column, tile.columns);
      // Difference ij stands in the sums of both i and j.
      const at::Tensor pair = slope.narrow(0, tile.row, tile.rows).unsqueeze(1) +
                              slope.narrow(0, tile.column, tile.columns).unsqueeze(0);
      const at::Tensor factors = difference(s, saved[1], tile).mul_(pair).mul_(2);
      gradient.narrow(0, tile.row, tile.rows).addmm_(factors, columns);
      if (!tile.on_diagonal()) gradient.narrow(0, tile.column, tile.columns).addmm_(factors.t(), rows);
    });
    return {gradient, {}};
  }
};

}  // namespace

at::Tensor cosine_regression(const at::Tensor& a, const at::Tensor& b, const at::Tensor& target) {
  check_pair("cosine_regression", "a", a, "b", b);
  if (!target.defined() || target.dim() != 1 || target.size(0) != a.size(0))
    throw StateError("cosine_regression: target must be [", a.size(0), "]");
  const at::Tensor wanted = target.detach().to(wide(a).scalar_type());
  const at::Tensor inside = wanted.abs().le(1);
  if (!inside.all().item<bool>()) {
    const auto row = inside.logical_not().to(at::kByte).argmax().item<std::int64_t>();
    throw DataError("cosine_regression: target ", row, " is ", wanted[row].item<double>(),
                    "; a cosine lies in [-1, 1] (divide scores of 0 to 5 by 5)");
  }
  const at::Tensor cosine = (nn::unit_rows(wide(a)) * nn::unit_rows(wide(b))).sum(1);
  return (cosine - wanted).square();
}

at::Tensor embedding_mse(const at::Tensor& student, const at::Tensor& teacher) {
  check_pair("embedding_mse", "student", student, "teacher", teacher);
  return (wide(student) - wide(teacher.detach())).square().mean(1);
}

at::Tensor kl_distillation(const at::Tensor& student_scores, const at::Tensor& teacher_scores,
                           double temperature) {
  check_scores("kl_distillation", student_scores, teacher_scores);
  if (!(temperature > 0))
    throw ConfigError("kl_distillation: temperature must be above 0, not ", temperature);
  const at::Tensor student = at::log_softmax(wide(student_scores) / temperature, 1);
  const at::Tensor teacher = at::log_softmax(wide(teacher_scores.detach()) / temperature, 1);
  return (teacher.exp() * (teacher - student)).sum(1) * (temperature * temperature);
}

at::Tensor margin_mse(const at::Tensor& student_scores, const at::Tensor& teacher_scores) {
  check_scores("margin_mse", student_scores, teacher_scores);
  const at::Tensor difference = wide(student_scores) - wide(teacher_scores.detach());
  const std::int64_t negatives = difference.size(1) - 1;
  return (difference.narrow(1, 0, 1) - difference.narrow(1, 1, negatives)).square().mean(1);
}

at::Tensor similarity_distillation(const at::Tensor& student, const at::Tensor& teacher) {
  check_matrix("similarity_distillation", "student", student);
  check_matrix("similarity_distillation", "teacher", teacher);
  if (student.size(0) != teacher.size(0) || student.device() != teacher.device())
    throw StateError("similarity_distillation: student ", student.sizes(), " on ", student.device().str(),
                     " and teacher ", teacher.sizes(), " on ", teacher.device().str(), " do not fit");
  const std::int64_t batch = student.size(0);
  if (batch < 2)
    throw DataError("similarity_distillation: a batch of ", batch, " has no pair of texts to compare");
  const at::Tensor s = nn::unit_rows(wide(student));
  const at::Tensor t = nn::unit_rows(wide(teacher.detach())).to(s.scalar_type());
  return SquaredDifferencesFunction::apply(s, t) / static_cast<double>(batch - 1);
}

}  // namespace bitrain::losses
