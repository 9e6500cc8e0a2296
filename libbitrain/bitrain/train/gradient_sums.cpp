#include <bitrain/train/gradient_sums.h>

#include <utility>

#include <ATen/core/grad_mode.h>

namespace bitrain::train {
namespace {

bool is_16_bit(const at::Tensor& tensor) {
  return tensor.element_size() == 2;
}

class LocalSums : public GradientSums {
 public:
  LocalSums(optim::AdamW& optimizer, bool accumulate_in_float32)
      : optimizer_(optimizer), accumulate_in_float32_(accumulate_in_float32) {}

  void begin(std::size_t micro_batches) override {
    optimizer_.zero_grad();
    in_float32_ = accumulate_in_float32_ && micro_batches > 1;
    sums_.assign(optimizer_.parameters().size(), {});
  }

  /// Moves what the pass left into the sums; the others sum where autograd puts them.
  void after_backward() override {
    if (!in_float32_) return;
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      at::Tensor parameter = optimizer_.parameters()[i].tensor;
      at::Tensor& gradient = parameter.mutable_grad();
      if (!gradient.defined() || !is_16_bit(gradient)) continue;
      if (sums_[i].defined()) {
        sums_[i].add_(gradient);
      } else {
        sums_[i] = gradient.to(at::kFloat);
      }
      gradient.reset();
    }
  }

  void finish() override {
    if (!in_float32_) return;
    for (std::size_t i = 0; i < sums_.size(); ++i)
      if (!sums_[i].defined()) sums_[i] = optimizer_.parameters()[i].tensor.grad();
    optimizer_.set_gradients(std::move(sums_));
  }

 private:
  optim::AdamW& optimizer_;
  bool accumulate_in_float32_;
  bool in_float32_ = false;
  std::vector<at::Tensor> sums_;
};

}  // namespace

std::unique_ptr<GradientSums> make_local_sums(optim::AdamW& optimizer, bool accumulate_in_float32) {
  return std::make_unique<LocalSums>(optimizer, accumulate_in_float32);
}

}  // namespace bitrain::train
