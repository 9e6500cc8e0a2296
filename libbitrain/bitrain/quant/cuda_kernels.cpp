#include <bitrain/quant/cuda_kernels.h>

#include <cstdint>
#include <limits>

#include <ATen/ops/full.h>
#include <c10/core/DeviceGuard.h>

#include <bitrain/base/cuda_library.h>
#include <bitrain/base/error.h>
#include <bitrain/kernels/nf4_cuda.h>

namespace bitrain::quant::cuda {
namespace {

void check_alignment(const void* address, std::uintptr_t alignment, const char* what) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0)
    throw StateError(what, " on CUDA start at an address that is no multiple of ", alignment,
                     " bytes: pass a tensor of its own, no slice");
}

}  // namespace

std::int64_t quantize(c10::Device device, kernels::FourBitType type, kernels::FloatType x_type, const void* x,
                      std::int64_t n, std::int64_t block_size, std::uint8_t* codes, float* absmax) {
  static auto* const launch =
      cuda_function<decltype(bitrain_cuda_quantize_4bit)>("bitrain_cuda_quantize_4bit");
  constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();
  const c10::DeviceGuard guard(device);
  const at::Tensor bad_block = at::full({1}, kNone, at::TensorOptions().dtype(at::kLong).device(device));
  check_cuda(launch(&kernels::four_bit_codebook(type), static_cast<std::int32_t>(x_type), x, n, block_size,
                    codes, absmax, bad_block.mutable_data_ptr<std::int64_t>(), current_cuda_stream()),
             "quantise a weight to 4 bits");
  const std::int64_t bad = bad_block.item<std::int64_t>();
  return bad == kNone ? -1 : bad;
}

void dequantize(c10::Device device, kernels::FourBitType type, const std::uint8_t* codes,
                const kernels::BlockScales& scales, std::int64_t n, std::int64_t block_size,
                kernels::FloatType y_type, void* y) {
  static auto* const launch =
      cuda_function<decltype(bitrain_cuda_dequantize_4bit)>("bitrain_cuda_dequantize_4bit");
  check_alignment(codes, 4, "the codes of a 4-bit weight");
  check_alignment(y, 16, "the decoded weights");
  const c10::DeviceGuard guard(device);
  check_cuda(launch(&kernels::four_bit_codebook(type), kernels::dynamic_map(), codes, &scales, n, block_size,
                    static_cast<std::int32_t>(y_type), y, current_cuda_stream()),
             "decode a 4-bit weight");
}

void quantize_absmax(c10::Device device, const float* absmax, std::int64_t n, const float* offset,
                     std::uint8_t* codes, float* nested_absmax) {
  static auto* const launch =
      cuda_function<decltype(bitrain_cuda_quantize_absmax)>("bitrain_cuda_quantize_absmax");
  const c10::DeviceGuard guard(device);
  check_cuda(launch(kernels::dynamic_map(), absmax, n, offset, codes, nested_absmax, current_cuda_stream()),
             "quantise block maxima");
}

}  // namespace bitrain::quant::cuda
