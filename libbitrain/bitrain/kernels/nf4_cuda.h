#pragma once

#include <cstdint>

#include <bitrain/kernels/nf4.h>

/// The 4-bit part of libbitrain_cuda.so, which is opened at run time (base/cuda_library.h). All pointers but
/// `book`, `map` and `scales` itself are device memory; `stream` is a cudaStream_t of the current device. The
/// launches are asynchronous and return a cudaError_t (0: launched). `book` is four_bit_codebook(type), `map`
/// is dynamic_map(): the library holds no constants of its own. Otherwise the arguments and the bytes written
/// are those of kernels::FourBitKernels.
extern "C" {

/// *bad_block becomes the smaller of itself and the first block that holds NaN or infinity; the caller sets
/// it to INT64_MAX before.
int bitrain_cuda_quantize_4bit(const bitrain::kernels::FourBitCodebook* book, std::int32_t x_type,
                               const void* x, std::int64_t n, std::int64_t block_size, std::uint8_t* codes,
                               float* absmax, std::int64_t* bad_block, void* stream);

int bitrain_cuda_dequantize_4bit(const bitrain::kernels::FourBitCodebook* book, const float* map,
                                 const std::uint8_t* codes, const bitrain::kernels::BlockScales* scales,
                                 std::int64_t n, std::int64_t block_size, std::int32_t y_type, void* y,
                                 void* stream);

/// Rounds to the nearest entry of `map` (the lower one on a tie), as bitsandbytes does on CUDA; its CPU back
/// end goes through a table of bins and differs in rare codes. `offset` is one float in device memory.
int bitrain_cuda_quantize_absmax(const float* map, const float* absmax, std::int64_t n, const float* offset,
                                 std::uint8_t* codes, float* nested_absmax, void* stream);

/// The text of a cudaError_t.
const char* bitrain_cuda_error_string(int error);
}
