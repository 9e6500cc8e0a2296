#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/base/strings.h>
#include <bitrain/models/llama/model.h>

namespace bitrain::models {
namespace {

void fill_normal(at::Tensor& weight, double deviation, std::uint64_t key) {
  const std::int64_t rows = weight.size(0);
  const std::int64_t width = weight.numel() / rows;
  const at::Tensor draws = at::empty(weight.sizes(), at::TensorOptions().dtype(at::kFloat));
  auto* values = draws.mutable_data_ptr<float>();
  at::parallel_for(0, rows, 1 + 16384 / width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      RandomStream stream(key, static_cast<std::uint64_t>(row));
      float* out = values + row * width;
      for (std::int64_t i = 0; i < width; ++i) out[i] = static_cast<float>(deviation * stream.normal());
    }
  });
  weight.copy_(draws);
}

}  // namespace

void initialise(LanguageModel& model, std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  const double deviation = model.config().initializer_range;
  model.visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    if (ends_with(name, ".bias")) {
      tensor.zero_();
    } else if (tensor.dim() == 1) {
      tensor.fill_(1);
    } else {
      fill_normal(tensor, deviation, stream_key(seed, "initialise " + name));
    }
  });
}

}  // namespace bitrain::models
