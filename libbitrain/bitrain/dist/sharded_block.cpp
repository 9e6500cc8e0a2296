#include <bitrain/dist/sharded_block.h>

#include <algorithm>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>

namespace bitrain::dist {
namespace {

constexpr std::int64_t kAlignment = 64;  // bytes

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

FlatLayout lay_out(const std::vector<at::Tensor>& tensors, std::int64_t ranks) {
  FlatLayout layout;
  for (const at::Tensor& tensor : tensors) {
    layout.offsets.push_back(round_up(layout.end, kAlignment / tensor.element_size()));
    layout.end = layout.offsets.back() + tensor.numel();
  }
  layout.numel = round_up(layout.end, ranks);
  return layout;
}

at::Tensor BlockPool::take(std::int64_t bytes, at::Device device) {
  const auto fits = [&](const at::Tensor& memory) {
    return memory.device() == device && memory.numel() >= bytes;
  };
  auto best = free_.end();
  for (auto it = free_.begin(); it != free_.end(); ++it)
    if (fits(*it) && (best == free_.end() || it->numel() < best->numel())) best = it;
  if (best == free_.end()) return at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
  at::Tensor memory = std::move(*best);
  free_.erase(best);
  return memory;
}

ShardedBlock::ShardedBlock(std::vector<at::Tensor> tensors, std::shared_ptr<Communicator> ranks,
                           std::string name)
    : ranks_(std::move(ranks)),
      name_(std::move(name)),
      layout_(lay_out(tensors, ranks_->size())),
      tensors_(std::move(tensors)) {
  const at::NoGradGuard no_grad;
  whole_ = at::zeros({layout_.numel}, tensors_.front().options().requires_grad(false));
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    at::Tensor& tensor = tensors_[i];
    const at::Tensor home = whole_.narrow(0, layout_.offsets[i], tensor.numel()).view(tensor.sizes());
    home.copy_(tensor);
    tensor.set_data(home);
  }
  const std::int64_t part = layout_.numel / ranks_->size();
  own_ = whole_.narrow(0, ranks_->rank() * part, part);
}

std::pair<std::int64_t, std::int64_t> ShardedBlock::owned_of(std::size_t index) const {
  const std::int64_t first = ranks_->rank() * own_.numel() - layout_.offsets[index];
  const std::int64_t numel = tensors_[index].numel();
  const std::int64_t begin = std::clamp<std::int64_t>(first, 0, numel);
  return {begin, std::clamp<std::int64_t>(first + own_.numel(), begin, numel)};
}

void ShardedBlock::keep_share(std::shared_ptr<BlockPool> pool) {
  const at::NoGradGuard no_grad;
  own_ = own_.clone();
  pool_ = std::move(pool);
  nowhere_ = c10::Storage(c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), whole_.nbytes(), at::DataPtr(nullptr, whole_.device()),
      /*allocator=*/nullptr, /*resizable=*/false));
  nowhere_.unsafeGetStorageImpl()->release_data_and_set_meta_custom_data_ptr_error_msg_(
      to_text("this weight is not here: ranks hold shares of it (", name_, ")"));
  drop();
}

void ShardedBlock::start_gather() {
  if (present_) return;
  const at::NoGradGuard no_grad;
  if (pool_) {
    memory_ = pool_->take(layout_.numel * whole_.element_size(), whole_.device());
    whole_.storage().unsafeGetStorageImpl()->set_data_ptr_noswap(
        at::DataPtr(memory_.mutable_data_ptr(), whole_.device()));
    move_tensors(whole_.storage());
  }
  pending_ = ranks_->start_all_gather(whole_, pool_ ? own_ : own_.clone(), name_);
  present_ = true;
}

void ShardedBlock::drop() {
  if (!pool_ || !present_) return;
  pending_.wait();
  move_tensors(nowhere_);
  whole_.storage().unsafeGetStorageImpl()->set_data_ptr_noswap(at::DataPtr(nullptr, whole_.device()));
  if (memory_.defined()) pool_->give_back(std::exchange(memory_, at::Tensor()));
  present_ = false;
}

/// They keep their shapes, and where they begin.
void ShardedBlock::move_tensors(const c10::Storage& storage) {
  for (const at::Tensor& tensor : tensors_) tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(storage);
}

void ShardedBlock::parts_changed() {
  if (pool_)
    drop();
  else
    present_ = false;
}

}  // namespace bitrain::dist
