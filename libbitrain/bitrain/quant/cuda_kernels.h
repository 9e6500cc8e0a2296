#pragma once

#include <cstdint>

#include <c10/core/Device.h>

#include <bitrain/kernels/nf4.h>

/// FourBitKernels on CUDA: the functions of libbitrain_cuda.so on LibTorch's current stream of `device`.
/// Pointers are device memory. They throw UnsupportedError where CUDA is missing (base/cuda_library.h) and
/// StateError when a launch fails.
namespace bitrain::quant::cuda {

/// Waits for the result.
[[nodiscard]] std::int64_t quantize(c10::Device device, kernels::FourBitType type, kernels::FloatType x_type,
                                    const void* x, std::int64_t n, std::int64_t block_size,
                                    std::uint8_t* codes, float* absmax);

/// Needs codes aligned to 4 bytes and y to 16.
void dequantize(c10::Device device, kernels::FourBitType type, const std::uint8_t* codes,
                const kernels::BlockScales& scales, std::int64_t n, std::int64_t block_size,
                kernels::FloatType y_type, void* y);

/// `offset` is one float in device memory.
void quantize_absmax(c10::Device device, const float* absmax, std::int64_t n, const float* offset,
                     std::uint8_t* codes, float* nested_absmax);

}  // namespace bitrain::quant::cuda
