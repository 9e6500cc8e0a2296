#include <bitrain/quant/matmul_4bit.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <torch/csrc/autograd/custom_function.h>

#include <bitrain/base/error.h>
#include <bitrain/base/matmul.h>

namespace bitrain::quant {
namespace {

// CPU buffers that are not in use. Few weights are decoded at a time, so the list stays short.
class ScratchPool {
 public:
  // The smallest free buffer that is large enough, or a new one. A smaller free one makes room for it, so
  // that the pool settles at the largest sizes that are used together.
  at::Tensor take(std::int64_t bytes) {
    const std::scoped_lock lock(mutex_);
    const auto fits = [bytes](const at::Tensor& buffer) { return buffer.numel() >= bytes; };
    const auto found = std::find_if(free_.begin(), free_.end(), fits);
    if (found != free_.end()) {
      at::Tensor buffer = std::move(*found);
      free_.erase(found);
      return buffer;
    }
    if (!free_.empty()) free_.pop_back();
    return at::empty({bytes}, at::kByte);
  }

  void give_back(at::Tensor buffer) {
    const std::scoped_lock lock(mutex_);
    const auto larger = [&buffer](const at::Tensor& other) { return other.numel() >= buffer.numel(); };
    const auto place = std::find_if(free_.begin(), free_.end(), larger);
    free_.insert(place, std::move(buffer));
  }

  std::uint64_t release() {
    std::vector<at::Tensor> released;
    {
      const std::scoped_lock lock(mutex_);
      released.swap(free_);
    }
    std::uint64_t bytes = 0;
    for (const at::Tensor& buffer : released) bytes += buffer.nbytes();
    return bytes;
  }

 private:
  std::mutex mutex_;
  std::vector<at::Tensor> free_;  // By size, ascending.
};

// Never destroyed: autograd threads may still give buffers back while the program ends.
ScratchPool& scratch_pool() {
  static auto* const pool = new ScratchPool;
  return *pool;
}

/// x [rows, in] W^T (or x [rows, out] W when `transposed` is false). Its backward is itself with the other
/// form, so that it can be differentiated any number of times.
class Linear4bit : public torch::autograd::Function<Linear4bit> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const QuantizedTensor& weight, bool transposed) {
    // The parts go into the graph one by one: it then notices when one is changed in place.
    context->save_for_backward({weight.codes, weight.absmax, weight.absmax_codes, weight.nested_absmax});
    auto& saved = context->saved_data;
    saved["fp4"] = weight.type == QuantType::kFp4;
    saved["block_size"] = weight.block_size;
    saved["shape"] = weight.shape;
    saved["dtype"] = static_cast<std::int64_t>(weight.dtype);
    saved["nested_offset"] = static_cast<double>(weight.nested_offset);
    saved["transposed"] = transposed;
    const bool wide = computes_wide(x, weight.shape[transposed ? 0 : 1]);
    const ScratchWeight dense(weight, wide ? at::kFloat : x.scalar_type());
    return product(x, transposed ? dense.tensor().t() : dense.tensor());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    if (!gradients[0].defined()) return {{}, {}, {}};
    auto& saved = context->saved_data;
    const auto parts = context->get_saved_variables();
    QuantizedTensor weight;
    weight.type = saved["fp4"].toBool() ? QuantType::kFp4 : QuantType::kNf4;
    weight.block_size = saved["block_size"].toInt();
    weight.shape = saved["shape"].toIntVector();
    weight.dtype = static_cast<at::ScalarType>(saved["dtype"].toInt());
    weight.codes = parts[0];
    weight.absmax = parts[1];
    weight.absmax_codes = parts[2];
    weight.nested_absmax = parts[3];
    weight.nested_offset = static_cast<float>(saved["nested_offset"].toDouble());
    return {apply(gradients[0], weight, !saved["transposed"].toBool()), {}, {}};
  }
};

}  // namespace

ScratchWeight::ScratchWeight(const QuantizedTensor& weight, at::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  const at::ScalarType decoded = dtype == at::kDouble ? at::kFloat : dtype;
  if (weight.codes.defined() && weight.codes.is_cpu()) {
    check(weight);
    const std::int64_t bytes = weight.numel() * static_cast<std::int64_t>(c10::elementSize(decoded));
    buffer_ = scratch_pool().take(bytes);
    tensor_ = at::from_blob(buffer_.mutable_data_ptr(), weight.shape, at::TensorOptions().dtype(decoded));
    dequantize(weight, decoded, tensor_);
  } else {
    tensor_ = dequantize(weight, decoded);
  }
  if (dtype == at::kDouble) tensor_ = tensor_.to(at::kDouble);
}

ScratchWeight::~ScratchWeight() {
  tensor_.reset();
  if (buffer_.defined()) scratch_pool().give_back(std::move(buffer_));
}

std::uint64_t release_scratch() {
  return scratch_pool().release();
}

at::Tensor linear_4bit(const at::Tensor& x, const QuantizedTensor& weight) {
  if (weight.shape.size() != 2)
    throw StateError("4-bit linear map: the weight has ", weight.shape.size(), " dimensions, not 2");
  if (!x.defined() || x.dim() == 0 || x.size(-1) != weight.shape[1])
    throw StateError("4-bit linear map: an input of shape ", x.defined() ? x.sizes() : at::IntArrayRef{},
                     " does not fit a weight of shape ", at::IntArrayRef(weight.shape), " [out, in]");
  if (!x.is_floating_point()) throw StateError("4-bit linear map: an input of dtype ", x.scalar_type());
  if (x.device() != weight.device())
    throw StateError("4-bit linear map: the input is on ", x.device().str(), ", the weight on ",
                     weight.device().str());
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = weight.shape[0];
  // reshape cannot infer the rows of an empty tensor.
  const std::int64_t rows = x.numel() / weight.shape[1];
  return Linear4bit::apply(x.reshape({rows, weight.shape[1]}), weight, true).reshape(shape);
}

}  // namespace bitrain::quant
