#include <bitrain/quant/quantized_tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mean.h>

#include <bitrain/base/error.h>
#include <bitrain/kernels/nf4.h>
#include <bitrain/quant/cuda_kernels.h>

namespace bitrain::quant {
namespace {

kernels::FourBitType kernel_type(QuantType type) {
  return type == QuantType::kNf4 ? kernels::FourBitType::kNf4 : kernels::FourBitType::kFp4;
}

bool is_supported(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf;
}

kernels::FloatType kernel_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return kernels::FloatType::kFloat32;
    case at::kBFloat16: return kernels::FloatType::kBFloat16;
    default: return kernels::FloatType::kFloat16;
  }
}

void check_device(at::Device device) {
  if (!device.is_cpu() && !device.is_cuda())
    throw UnsupportedError("4-bit weights live on the CPU or on CUDA, not on ", device.str());
}

// Throws unless `part` is a contiguous tensor of `size` elements of `dtype`, beside the codes.
void check_part(const QuantizedTensor& weight, const char* what, const at::Tensor& part, at::ScalarType dtype,
                std::int64_t size) {
  if (!part.defined()) throw StateError("4-bit weight: its ", what, " is missing");
  if (part.scalar_type() != dtype)
    throw StateError("4-bit weight: its ", what, " has dtype ", part.scalar_type(), ", not ", dtype);
  if (part.numel() != size)
    throw StateError("4-bit weight of shape ", at::IntArrayRef(weight.shape), ": its ", what, " has ",
                     part.numel(), " elements, not ", size);
  if (!part.is_contiguous()) throw StateError("4-bit weight: its ", what, " is not contiguous");
  if (part.device() != weight.codes.device())
    throw StateError("4-bit weight: its ", what, " is on ", part.device().str(), ", its codes on ",
                     weight.codes.device().str());
}

kernels::BlockScales scales_of(const QuantizedTensor& weight) {
  kernels::BlockScales scales;
  if (weight.double_quant()) {
    scales.absmax_codes = weight.absmax_codes.const_data_ptr<std::uint8_t>();
    scales.nested_absmax = weight.nested_absmax.const_data_ptr<float>();
    scales.nested_offset = weight.nested_offset;
  } else {
    scales.absmax = weight.absmax.const_data_ptr<float>();
  }
  return scales;
}

std::string element_range(std::int64_t block, std::int64_t block_size, std::int64_t n) {
  return to_text("elements ", block * block_size, " to ", std::min((block + 1) * block_size, n) - 1,
                 " of its row-major order");
}

// Quantises into the codes and `absmax`; returns -1, or the first block that is not finite.
std::int64_t quantize_values(const at::Tensor& values, QuantizedTensor& result, at::Tensor& absmax) {
  const kernels::FourBitType type = kernel_type(result.type);
  const kernels::FloatType dtype = kernel_type(values.scalar_type());
  auto* codes = result.codes.mutable_data_ptr<std::uint8_t>();
  auto* maxima = absmax.mutable_data_ptr<float>();
  if (values.is_cuda())
    return cuda::quantize(values.device(), type, dtype, values.const_data_ptr(), values.numel(),
                          result.block_size, codes, maxima);
  return kernels::four_bit_kernels().quantize(type, dtype, values.const_data_ptr(), values.numel(),
                                              result.block_size, codes, maxima);
}

void quantize_statistics(const at::Tensor& absmax, QuantizedTensor& result) {
  const std::int64_t blocks = absmax.numel();
  result.absmax_codes = at::empty({blocks}, absmax.options().dtype(at::kByte));
  result.nested_absmax =
      at::empty({(blocks + kernels::kNestedBlockSize - 1) / kernels::kNestedBlockSize}, absmax.options());
  if (absmax.is_meta()) return;
  // The sum in LibTorch's order: bitsandbytes takes this very mean, and it depends on the order in its last
  // bit.
  const at::Tensor offset = at::mean(absmax);
  result.nested_offset = offset.item<float>();
  if (!std::isfinite(result.nested_offset))
    throw DataError("cannot quantise a weight of shape ", at::IntArrayRef(result.shape),
                    " twice: the sum of its block maxima overflows float32; set double_quant to false");
  auto* codes = result.absmax_codes.mutable_data_ptr<std::uint8_t>();
  auto* nested = result.nested_absmax.mutable_data_ptr<float>();
  if (absmax.is_cuda())
    cuda::quantize_absmax(absmax.device(), absmax.const_data_ptr<float>(), blocks,
                          offset.const_data_ptr<float>(), codes, nested);
  else
    kernels::four_bit_kernels().quantize_absmax(absmax.const_data_ptr<float>(), blocks, result.nested_offset,
                                                codes, nested);
}

}  // namespace

const char* name(QuantType type) noexcept {
  return type == QuantType::kNf4 ? "nf4" : "fp4";
}

std::int64_t QuantizedTensor::numel() const {
  std::int64_t product = 1;
  for (const std::int64_t size : shape) product *= size;
  return product;
}

std::uint64_t QuantizedTensor::nbytes() const {
  std::uint64_t bytes = double_quant() ? sizeof(nested_offset) : 0;
  for (const at::Tensor* part : {&codes, &absmax, &absmax_codes, &nested_absmax})
    if (part->defined()) bytes += part->nbytes();
  return bytes;
}

QuantizedTensor QuantizedTensor::to(at::Device device) const {
  QuantizedTensor moved = *this;
  for (at::Tensor* part : {&moved.codes, &moved.absmax, &moved.absmax_codes, &moved.nested_absmax})
    if (part->defined()) *part = part->to(device);
  return moved;
}

void check_block_size(std::int64_t block_size) {
  if (block_size < 32 || block_size > 4096 || (block_size & (block_size - 1)) != 0)
    throw ConfigError("block_size ", block_size,
                      " of 4-bit quantisation: use a power of two from 32 to 4096");
}

void check(const QuantizedTensor& weight) {
  check_block_size(weight.block_size);
  std::int64_t n = 1;
  for (const std::int64_t size : weight.shape) {
    if (size <= 0 || size > std::numeric_limits<std::int64_t>::max() / 2 / n)
      throw StateError("4-bit weight: ", at::IntArrayRef(weight.shape), " is no shape of a weight");
    n *= size;
  }
  if (!is_supported(weight.dtype))
    throw StateError("4-bit weight: dtype ", weight.dtype,
                     " before quantising; it is float32, bfloat16 or float16");
  check_part(weight, "tensor of codes", weight.codes, at::kByte, (n + 1) / 2);
  check_device(weight.codes.device());
  if (!weight.double_quant()) {
    check_part(weight, "absmax", weight.absmax, at::kFloat, weight.blocks());
    return;
  }
  if (weight.absmax.defined())
    throw StateError("4-bit weight: both plain and double-quantised absmax are set");
  check_part(weight, "quantised absmax", weight.absmax_codes, at::kByte, weight.blocks());
  check_part(weight, "nested absmax", weight.nested_absmax, at::kFloat,
             (weight.blocks() + kernels::kNestedBlockSize - 1) / kernels::kNestedBlockSize);
}

QuantizedTensor quantize(const at::Tensor& weight, const QuantizeOptions& options) {
  check_block_size(options.block_size);
  if (!weight.defined() || weight.numel() == 0) throw StateError("cannot quantise an empty weight");
  if (!is_supported(weight.scalar_type()))
    throw StateError("cannot quantise a weight of dtype ", weight.scalar_type(),
                     ": it must be float32, bfloat16 or float16");
  if (!weight.is_meta()) check_device(weight.device());
  const at::NoGradGuard no_grad;
  const at::Tensor values = weight.detach().contiguous();
  const std::int64_t n = values.numel();

  QuantizedTensor result;
  result.type = options.type;
  result.block_size = options.block_size;
  result.shape = values.sizes().vec();
  result.dtype = values.scalar_type();
  result.codes = at::empty({(n + 1) / 2}, values.options().dtype(at::kByte));
  at::Tensor absmax = at::empty({result.blocks()}, values.options().dtype(at::kFloat));
  const std::int64_t bad = values.is_meta() ? -1 : quantize_values(values, result, absmax);
  if (bad >= 0)
    throw DataError("cannot quantise a weight of shape ", at::IntArrayRef(result.shape),
                    ": NaN or infinity in ", element_range(bad, result.block_size, n));
  if (options.double_quant)
    quantize_statistics(absmax, result);
  else
    result.absmax = absmax;
  return result;
}

at::Tensor dequantize(const QuantizedTensor& weight, at::ScalarType dtype, at::Tensor out) {
  check(weight);
  if (!is_supported(dtype))
    throw StateError("cannot decode a 4-bit weight into ", dtype, ": use float32, bfloat16 or float16");
  const at::TensorOptions options = weight.codes.options().dtype(dtype);
  if (!out.defined()) {
    out = at::empty(weight.shape, options);
  } else if (out.sizes() != at::IntArrayRef(weight.shape) || out.scalar_type() != dtype ||
             out.device() != weight.device() || !out.is_contiguous()) {
    throw StateError("cannot decode a 4-bit weight of shape ", at::IntArrayRef(weight.shape), " as ", dtype,
                     " on ", weight.device().str(), " into a tensor of shape ", out.sizes(), ", ",
                     out.scalar_type(), " on ", out.device().str(),
                     out.is_contiguous() ? "" : ", not contiguous");
  }
  const kernels::FourBitType type = kernel_type(weight.type);
  const auto* codes = weight.codes.const_data_ptr<std::uint8_t>();
  if (weight.codes.is_cuda())
    cuda::dequantize(weight.device(), type, codes, scales_of(weight), weight.numel(), weight.block_size,
                     kernel_type(dtype), out.mutable_data_ptr());
  else
    kernels::four_bit_kernels().dequantize(type, codes, scales_of(weight), weight.numel(), weight.block_size,
                                           kernel_type(dtype), out.mutable_data_ptr());
  return out;
}

}  // namespace bitrain::quant
