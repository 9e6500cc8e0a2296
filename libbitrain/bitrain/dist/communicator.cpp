#include <bitrain/dist/communicator.h>

#include <chrono>
#include <numeric>

#include <ATen/ops/empty.h>

#include <bitrain/base/error.h>

namespace bitrain::dist {
namespace {

[[noreturn]] void no_backend() {
  throw StateError("a communicator of several ranks has no backend for this collective");
}

std::string name_of(const char* collective, const std::string& what) {
  return what.empty() ? std::string(collective) : to_text(collective, " of ", what);
}

void check_contiguous(const char* collective, const at::Tensor& tensor) {
  if (!tensor.is_contiguous()) throw StateError(collective, " needs contiguous tensors");
}

/// `tensor` with another number of rows, not filled.
at::Tensor with_rows(const at::Tensor& tensor, std::int64_t rows) {
  std::vector<std::int64_t> sizes = tensor.sizes().vec();
  sizes[0] = rows;
  return at::empty(sizes, tensor.options().requires_grad(false));
}

}  // namespace

void Pending::wait() {
  if (!operation_) return;
  const std::unique_ptr<Operation> operation = std::move(operation_);
  const auto begin = std::chrono::steady_clock::now();
  operation->wait();
  traffic_->seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

Communicator::Communicator(std::int64_t rank, std::int64_t size) : rank_(rank), size_(size) {
  if (size < 1 || rank < 0 || rank >= size) throw StateError("there is no rank ", rank, " among ", size);
}

Pending Communicator::start_all_gather(at::Tensor all, const at::Tensor& rows, const std::string& what) {
  check_contiguous("all_gather", all);
  check_contiguous("all_gather", rows);
  if (all.numel() != size_ * rows.numel() || all.scalar_type() != rows.scalar_type())
    throw StateError("all_gather over ", size_, " ranks of ", rows.sizes(), " into ", all.sizes());
  if (size_ == 1) {
    all.view_as(rows).copy_(rows);
    return {};
  }
  return count("all_gather", all, gather(all, rows, name_of("all_gather", what)));
}

Pending Communicator::start_reduce_scatter(at::Tensor own, const at::Tensor& rows, const std::string& what) {
  check_contiguous("reduce_scatter", own);
  check_contiguous("reduce_scatter", rows);
  if (rows.numel() != size_ * own.numel() || own.scalar_type() != rows.scalar_type())
    throw StateError("reduce_scatter over ", size_, " ranks of ", rows.sizes(), " into ", own.sizes());
  if (size_ == 1) {
    own.copy_(rows.view_as(own));
    return {};
  }
  return count("reduce_scatter", rows, scatter_sum(own, rows, name_of("reduce_scatter", what)));
}

Pending Communicator::start_all_reduce(at::Tensor tensor, const std::string& what) {
  check_contiguous("all_reduce", tensor);
  if (size_ == 1) return {};
  return count("all_reduce", tensor, sum_in_place(tensor, name_of("all_reduce", what)));
}

at::Tensor Communicator::all_gather(const at::Tensor& rows, const std::string& what) {
  if (rows.dim() < 1) throw StateError("all_gather needs rows, not a scalar");
  at::Tensor all = with_rows(rows, size_ * rows.size(0));
  start_all_gather(all, rows.detach().contiguous(), what).wait();
  return all;
}

at::Tensor Communicator::reduce_scatter(const at::Tensor& rows, const std::string& what) {
  if (rows.dim() < 1 || rows.size(0) % size_ != 0)
    throw StateError("reduce_scatter over ", size_, " ranks of rows ", rows.sizes());
  at::Tensor own = with_rows(rows, rows.size(0) / size_);
  start_reduce_scatter(own, rows.detach().contiguous(), what).wait();
  return own;
}

void Communicator::all_reduce(at::Tensor& tensor, const std::string& what) {
  start_all_reduce(tensor, what).wait();
}

void Communicator::broadcast(at::Tensor& tensor, std::int64_t root, const std::string& what) {
  if (root < 0 || root >= size_) throw StateError("broadcast from rank ", root, " of ", size_);
  if (size_ == 1) return;
  check_contiguous("broadcast", tensor);
  count("broadcast", tensor, copy_from(tensor, root, name_of("broadcast", what))).wait();
}

at::Tensor Communicator::all_to_all(const at::Tensor& rows, const std::vector<std::int64_t>& given,
                                    const std::vector<std::int64_t>& taken, const std::string& what) {
  const auto sum = [](const std::vector<std::int64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  };
  if (rows.dim() < 1 || static_cast<std::int64_t>(given.size()) != size_ || given.size() != taken.size() ||
      sum(given) != rows.size(0))
    throw StateError("all_to_all over ", size_, " ranks of rows ", rows.sizes(), " as ", given, " and ",
                     taken);
  if (size_ == 1) return rows.detach().clone();
  at::Tensor own = with_rows(rows, sum(taken));
  count("all_to_all", own.numel() > rows.numel() ? own : rows,
        exchange(own, rows.detach().contiguous(), taken, given, name_of("all_to_all", what)))
      .wait();
  return own;
}

void Communicator::barrier(const std::string& what) {
  if (size_ == 1) return;
  if (const Operation operation = wait_for_all(name_of("barrier", what))) operation->wait();
}

void Communicator::await(std::int64_t root, const std::string& what) {
  if (root < 0 || root >= size_) throw StateError("waiting for rank ", root, " of ", size_);
  if (size_ > 1) wait_for_one(root, what);
}

std::unique_ptr<Communicator> Communicator::split(std::int64_t group_size) {
  if (group_size < 1 || size_ % group_size != 0)
    throw ConfigError("groups of ", group_size, " ranks cannot be made of ", size_, " ranks");
  if (group_size == 1) return std::make_unique<Communicator>();
  return subgroup(rank_ - rank_ % group_size, 1, group_size);
}

std::unique_ptr<Communicator> Communicator::across(std::int64_t group_size) {
  if (group_size < 1 || size_ % group_size != 0)
    throw ConfigError("groups of ", group_size, " ranks cannot be made of ", size_, " ranks");
  if (group_size == size_) return std::make_unique<Communicator>();
  return subgroup(rank_ % group_size, group_size, size_ / group_size);
}

Pending Communicator::count(const std::string& collective, const at::Tensor& larger, Operation operation) {
  Traffic& traffic = traffic_[collective];
  ++traffic.calls;
  traffic.bytes += static_cast<std::int64_t>(larger.nbytes());
  return {std::move(operation), traffic};
}

Communicator::Operation Communicator::gather(at::Tensor /*all*/, const at::Tensor& /*rows*/,
                                             const std::string& /*name*/) {
  no_backend();
}
Communicator::Operation Communicator::scatter_sum(at::Tensor /*own*/, const at::Tensor& /*rows*/,
                                                  const std::string& /*name*/) {
  no_backend();
}
Communicator::Operation Communicator::sum_in_place(at::Tensor /*tensor*/, const std::string& /*name*/) {
  no_backend();
}
Communicator::Operation Communicator::copy_from(at::Tensor /*tensor*/, std::int64_t /*root*/,
                                                const std::string& /*name*/) {
  no_backend();
}
Communicator::Operation Communicator::exchange(at::Tensor /*taken*/, const at::Tensor& /*given*/,
                                               const std::vector<std::int64_t>& /*taken_rows*/,
                                               const std::vector<std::int64_t>& /*given_rows*/,
                                               const std::string& /*name*/) {
  no_backend();
}
Communicator::Operation Communicator::wait_for_all(const std::string& /*name*/) {
  no_backend();
}
void Communicator::wait_for_one(std::int64_t /*root*/, const std::string& /*name*/) {
  no_backend();
}
std::unique_ptr<Communicator> Communicator::subgroup(std::int64_t /*first*/, std::int64_t /*stride*/,
                                                     std::int64_t /*size*/) {
  no_backend();
}

}  // namespace bitrain::dist
