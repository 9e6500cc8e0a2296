#include <ATen/ops/empty_like.h>
#include <ATen/ops/randn.h>

#include <bitrain/quant/quantized_tensor.h>

#include "case.h"

namespace bitrain::benchmarks {

/// NF4 with double quantisation of 4096 x 4096 weights; dequantise writes into one tensor again and again.
void bench_nf4() {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor weight = at::randn({4096, 4096}).to(dtype);
    quant::QuantizedTensor packed;
    const Timing quantise = time_calls(10, [&] { packed = quant::quantize(weight); });
    const at::Tensor out = at::empty_like(weight);
    const Timing dequantise = time_calls(20, [&] { quant::dequantize(packed, dtype, out); });
    report(dtype == at::kFloat ? "nf4/float32" : "nf4/bfloat16",
           {{"quantise_mweights_per_second", static_cast<double>(weight.numel()) / quantise.best / 1e6},
            {"dequantise_gb_per_second", static_cast<double>(weight.nbytes()) / dequantise.best / 1e9}});
  }
}

}  // namespace bitrain::benchmarks
