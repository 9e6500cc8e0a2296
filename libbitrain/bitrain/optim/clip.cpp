#include <bitrain/optim/clip.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include <bitrain/nn/kernel_table.h>

namespace bitrain::optim {
namespace {

/// Sum of squares of tensors of one device and dtype, through ATen.
double sum_of_squares(const std::vector<at::Tensor>& tensors) {
  const at::ScalarType dtype = tensors.front().scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const std::vector<at::Tensor> norms = at::_foreach_norm(tensors, 2, dtype);
  const double norm = at::linalg_vector_norm(at::stack(norms)).item<double>();
  return norm * norm;
}

}  // namespace

double global_norm(const std::vector<at::Tensor>& tensors) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> kept;  // Contiguous copies live as long as the spans.
  std::vector<kernels::ConstSpan> spans;
  std::map<std::pair<std::string, at::ScalarType>, std::vector<at::Tensor>> others;
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.defined() || tensor.numel() == 0) continue;
    if (!tensor.is_cpu() || !nn::has_kernels(tensor)) {
      others[{tensor.device().str(), tensor.scalar_type()}].push_back(tensor);
      continue;
    }
    kept.push_back(tensor.contiguous());
    spans.push_back({kept.back().const_data_ptr(), nn::kernel_type(tensor), tensor.numel()});
  }
  double squares = 0;
  if (!spans.empty()) {
    squares += kernels::cpu_kernels().sum_of_squares(spans.data(), static_cast<std::int64_t>(spans.size()));
  }
  for (const auto& [key, list] : others) squares += sum_of_squares(list);
  return std::sqrt(squares);
}

double clip_factor(double norm, double max_norm) {
  if (max_norm <= 0) return 1.0;
  return std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace bitrain::optim
