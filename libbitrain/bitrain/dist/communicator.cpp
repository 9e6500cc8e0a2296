#include <bitrain/dist/communicator.h>

#include <bitrain/base/error.h>

namespace bitrain::dist {
namespace {

[[noreturn]] void no_backend() {
  throw StateError("a communicator of several ranks has no backend for this collective");
}

}  // namespace

Communicator::Communicator(std::int64_t rank, std::int64_t size) : rank_(rank), size_(size) {
  if (size < 1 || rank < 0 || rank >= size) throw StateError("there is no rank ", rank, " among ", size);
}

at::Tensor Communicator::all_gather(const at::Tensor& rows) {
  if (rows.dim() < 1) throw StateError("all_gather needs rows, not a scalar");
  if (size_ == 1) return rows.clone();
  at::Tensor all = gather(rows.contiguous());
  count("all_gather", all);
  return all;
}

at::Tensor Communicator::reduce_scatter(const at::Tensor& rows) {
  if (rows.dim() < 1 || rows.size(0) % size_ != 0)
    throw StateError("reduce_scatter over ", size_, " ranks of rows ", rows.sizes());
  if (size_ == 1) return rows.clone();
  at::Tensor own = scatter_sum(rows.contiguous());
  count("reduce_scatter", rows);
  return own;
}

void Communicator::all_reduce(at::Tensor& tensor) {
  if (size_ == 1) return;
  if (!tensor.is_contiguous()) throw StateError("all_reduce needs a contiguous tensor");
  sum_in_place(tensor);
  count("all_reduce", tensor);
}

void Communicator::broadcast(at::Tensor& tensor, std::int64_t root) {
  if (root < 0 || root >= size_) throw StateError("broadcast from rank ", root, " of ", size_);
  if (size_ == 1) return;
  if (!tensor.is_contiguous()) throw StateError("broadcast needs a contiguous tensor");
  copy_from(tensor, root);
  count("broadcast", tensor);
}

void Communicator::barrier() {
  if (size_ > 1) wait_for_all();
}

std::unique_ptr<Communicator> Communicator::split(std::int64_t group_size) {
  if (group_size < 1 || size_ % group_size != 0)
    throw ConfigError("groups of ", group_size, " ranks cannot be made of ", size_, " ranks");
  if (group_size == 1) return std::make_unique<Communicator>();
  return subgroup(group_size);
}

void Communicator::count(const std::string& collective, const at::Tensor& larger) {
  Traffic& traffic = traffic_[collective];
  ++traffic.calls;
  traffic.bytes += static_cast<std::int64_t>(larger.nbytes());
}

at::Tensor Communicator::gather(const at::Tensor& /*rows*/) {
  no_backend();
}
at::Tensor Communicator::scatter_sum(const at::Tensor& /*rows*/) {
  no_backend();
}
void Communicator::sum_in_place(at::Tensor& /*tensor*/) {
  no_backend();
}
void Communicator::copy_from(at::Tensor& /*tensor*/, std::int64_t /*root*/) {
  no_backend();
}
void Communicator::wait_for_all() {
  no_backend();
}
std::unique_ptr<Communicator> Communicator::subgroup(std::int64_t /*group_size*/) {
  no_backend();
}

}  // namespace bitrain::dist
