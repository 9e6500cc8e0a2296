#include <bitrain/nn/layer_norm.h>

#include <ATen/ops/empty.h>

namespace bitrain::nn {

LayerNorm::LayerNorm(std::int64_t width, double epsilon, at::TensorOptions options)
    : eps(epsilon), weight(at::empty({width}, options)), bias(at::empty({width}, options)) {
  register_tensor("weight", weight);
  register_tensor("bias", bias);
}

}  // namespace bitrain::nn
