#include <bitrain/nn/cuda_attention.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include <ATen/ops/_efficient_attention_forward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <bitrain/base/cuda_library.h>

namespace bitrain::nn {
namespace {

constexpr std::int64_t kWidestFlashHead = 256;
constexpr std::int64_t kMostSegments = 65535;   // A limit of the grids of both kernels.
constexpr std::int64_t kCausalFromTopLeft = 1;  // custom_mask_type of the memory-efficient kernel.

/// The boundaries on `device`. All layers of a forward pass ask for the same ones: the last are kept, for the
/// stream that they were copied on.
at::Tensor on_device(const std::vector<std::int32_t>& boundaries, at::Device device) {
  thread_local std::vector<std::int32_t> last;
  thread_local at::Tensor tensor;
  thread_local void* copied_on = nullptr;
  void* const stream = current_cuda_stream();
  if (tensor.defined() && tensor.device() == device && copied_on == stream && last == boundaries &&
      tensor.is_inference() == c10::InferenceMode::is_enabled())
    return tensor;
  copied_on = stream;
  const at::Tensor host =
      at::empty({static_cast<std::int64_t>(boundaries.size())}, at::TensorOptions().dtype(at::kInt));
  std::copy(boundaries.begin(), boundaries.end(), host.mutable_data_ptr<std::int32_t>());
  tensor = host.to(device);
  last = boundaries;
  return tensor;
}

std::int64_t longest_of(const std::vector<std::int32_t>& boundaries) {
  std::int32_t longest = 0;
  for (std::size_t i = 0; i + 1 < boundaries.size(); ++i)
    longest = std::max(longest, boundaries[i + 1] - boundaries[i]);
  return longest;
}

/// Features side by side and a multiple of `unit` of them, the new ones 0: they add nothing to any score.
at::Tensor aligned(const at::Tensor& x, std::int64_t unit) {
  const std::int64_t missing = (unit - x.size(2) % unit) % unit;
  if (missing > 0) return at::constant_pad_nd(x, {0, missing});
  return x.stride(2) == 1 ? x : x.contiguous();
}

/// Heads repeated to as many as the queries have.
at::Tensor repeated(const at::Tensor& x, std::int64_t heads) {
  const std::int64_t times = heads / x.size(1);
  if (times == 1) return x;
  return x.unsqueeze(2).expand({x.size(0), x.size(1), times, x.size(2)}).flatten(1, 2);
}

}  // namespace

at::Tensor cuda_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const std::vector<std::int32_t>& boundaries, double scale, bool causal) {
  if (q.size(0) == 0) return q.clone();
  if (static_cast<std::int64_t>(boundaries.size()) - 1 > kMostSegments) {
    const std::int32_t middle = boundaries[kMostSegments];
    std::vector<std::int32_t> rest;
    for (std::size_t i = kMostSegments; i < boundaries.size(); ++i) rest.push_back(boundaries[i] - middle);
    const auto part = [&](std::int64_t begin, std::int64_t end, const std::vector<std::int32_t>& ends) {
      return cuda_attention(q.slice(0, begin, end), k.slice(0, begin, end), v.slice(0, begin, end), ends,
                            scale, causal);
    };
    const std::vector<std::int32_t> first(boundaries.begin(), boundaries.begin() + kMostSegments + 1);
    return at::cat({part(0, middle, first), part(middle, q.size(0), rest)}, 0);
  }
  const std::int64_t width = q.size(2);
  const std::int64_t longest = longest_of(boundaries);
  const at::Tensor ends = on_device(boundaries, q.device());
  at::Tensor out;
  if (q.scalar_type() != at::kFloat && width <= kWidestFlashHead) {
    out = std::get<0>(at::_flash_attention_forward(aligned(q, 8), aligned(k, 8), aligned(v, 8), ends, ends,
                                                   longest, longest, /*dropout_p=*/0, causal,
                                                   /*return_debug_mask=*/false, scale));
  } else {
    const auto batched = [&](const at::Tensor& x) {
      return aligned(repeated(x, q.size(1)), q.scalar_type() == at::kFloat ? 4 : 8).unsqueeze(0);
    };
    out = std::get<0>(at::_efficient_attention_forward(batched(q), batched(k), batched(v),
                                                       /*bias=*/std::nullopt, ends, ends, longest, longest,
                                                       /*dropout_p=*/0, causal ? kCausalFromTopLeft : 0,
                                                       /*compute_log_sumexp=*/true, scale))
              .squeeze(0);
  }
  return out.size(2) == width ? out : out.narrow(2, 0, width).contiguous();
}

}  // namespace bitrain::nn
