#include <bitrain/eval/finite_scores.h>

#include <cmath>

#include <ATen/ops/isfinite.h>

#include <bitrain/base/error.h>

namespace bitrain::eval {
namespace {

constexpr const char* kWhy =
    ": the model diverged in training, or what it computes outgrows its type (float16 ends at 65504; "
    "bfloat16 "
    "and float32 have room)";

}  // namespace

void check_score(double score, const std::string& what) {
  if (!std::isfinite(score)) throw DivergedError(what, " is ", score, kWhy);
}

void check_finite(const at::Tensor& x, const std::string& what) {
  if (!at::isfinite(x).all().item<bool>()) throw DivergedError(what, " have NaN or infinity", kWhy);
}

}  // namespace bitrain::eval
