#include <bitrain/nn/activation.h>

#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>

#include <bitrain/nn/functional.h>

namespace bitrain::nn {

at::Tensor activate(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kGelu: return gelu(x, Gelu::kErf);
    case Activation::kGeluTanh: return gelu(x, Gelu::kTanh);
    case Activation::kRelu: return at::relu(x);
    case Activation::kTanh: return at::tanh(x);
    case Activation::kSigmoid: return at::sigmoid(x);
    case Activation::kIdentity: break;
  }
  return x;
}

}  // namespace bitrain::nn
