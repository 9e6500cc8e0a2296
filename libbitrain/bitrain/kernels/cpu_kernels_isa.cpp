#include <bitrain/kernels/isa_support.h>

#define BITRAIN_TEXT_OF(name) #name
#define BITRAIN_TEXT(name) BITRAIN_TEXT_OF(name)

namespace bitrain::kernels::BITRAIN_ISA {

const Kernels& table() {
  static const Kernels kernels = {
      BITRAIN_TEXT(BITRAIN_ISA),
      rms_norm,
      rms_norm_backward,
      layer_norm,
      layer_norm_backward,
      rotary,
      swiglu,
      swiglu_backward,
      gelu,
      gelu_backward,
      cross_entropy,
      adamw,
      sum_of_squares,
      dropout,
      gather,
      gather_mean,
      scatter_add,
      segment_sum,
      segment_sum_backward,
      segment_max,
      segment_max_backward,
      attention,
      attention_backward,
  };
  return kernels;
}

}  // namespace bitrain::kernels::BITRAIN_ISA
