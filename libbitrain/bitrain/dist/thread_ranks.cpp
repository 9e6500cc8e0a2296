#include <bitrain/dist/thread_ranks.h>

#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <bitrain/base/error.h>

namespace bitrain::dist {
namespace {

/// Where the ranks of a group lay down what the others take up.
class Exchange {
 public:
  explicit Exchange(std::int64_t size)
      : size_(size), tensors_(static_cast<std::size_t>(size)), calls_(static_cast<std::size_t>(size)) {}

  /// Puts down `mine`, waits for all ranks, lets `read` see all tensors, and waits until all have seen them.
  template <class Read>
  void meet(std::int64_t rank, const std::string& call, const at::Tensor& mine, const Read& read) {
    std::unique_lock lock(mutex_);
    tensors_[static_cast<std::size_t>(rank)] = mine;
    calls_[static_cast<std::size_t>(rank)] = call;
    wait(lock, call);
    const std::string misfit = find_misfit();  // The same on every rank.
    lock.unlock();
    if (misfit.empty()) read(tensors_);
    lock.lock();
    wait(lock, call);
    if (!misfit.empty()) throw StateError(misfit);
  }

  /// A rank has ended: whoever waits for it is told.
  void leave(std::int64_t rank) {
    const std::lock_guard lock(mutex_);
    if (gone_ < 0) gone_ = rank;
    met_.notify_all();
    for (auto& [key, group] : groups_) {
      const auto [group_size, index] = key;
      if (rank / group_size == index) group->leave(rank % group_size);
    }
  }

  std::shared_ptr<Exchange> group(std::int64_t group_size, std::int64_t index) {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<Exchange>& group = groups_[{group_size, index}];
    if (!group) group = std::make_shared<Exchange>(group_size);
    return group;
  }

 private:
  void wait(std::unique_lock<std::mutex>& lock, const std::string& call) {
    const std::int64_t meeting = meetings_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++meetings_;
      met_.notify_all();
      return;
    }
    met_.wait(lock, [&] { return meetings_ != meeting || gone_ >= 0; });
    if (meetings_ == meeting) throw StateError("rank ", gone_, " ended while others were in ", call);
  }

  [[nodiscard]] std::string find_misfit() const {
    for (std::size_t r = 1; r < tensors_.size(); ++r) {
      if (calls_[r] != calls_[0])
        return c10::str("rank ", r, " is in ", calls_[r], " while rank 0 is in ", calls_[0]);
      const at::Tensor& one = tensors_[0];
      const at::Tensor& other = tensors_[r];
      if (one.defined() && (one.sizes() != other.sizes() || one.scalar_type() != other.scalar_type()))
        return c10::str(calls_[r], ": rank ", r, " has ", other.scalar_type(), other.sizes(), ", rank 0 ",
                        one.scalar_type(), one.sizes());
    }
    return {};
  }

  std::mutex mutex_;
  std::condition_variable met_;
  std::int64_t size_;
  std::int64_t arrived_ = 0;
  std::int64_t meetings_ = 0;
  std::int64_t gone_ = -1;
  std::vector<at::Tensor> tensors_;
  std::vector<std::string> calls_;
  std::map<std::pair<std::int64_t, std::int64_t>, std::shared_ptr<Exchange>> groups_;
};

class ThreadRank : public Communicator {
 public:
  ThreadRank(std::int64_t rank, std::int64_t size, std::shared_ptr<Exchange> exchange)
      : Communicator(rank, size), exchange_(std::move(exchange)) {}

 protected:
  at::Tensor gather(const at::Tensor& rows) override {
    const at::NoGradGuard no_grad;
    at::Tensor all;
    exchange_->meet(rank(), "all_gather", rows,
                    [&](const std::vector<at::Tensor>& tensors) { all = at::cat(tensors); });
    return all;
  }

  at::Tensor scatter_sum(const at::Tensor& rows) override {
    const at::NoGradGuard no_grad;
    const std::int64_t own = rows.size(0) / size();
    at::Tensor sum;
    exchange_->meet(rank(), "reduce_scatter", rows, [&](const std::vector<at::Tensor>& tensors) {
      for (const at::Tensor& tensor : tensors) add(sum, tensor.narrow(0, rank() * own, own));
    });
    return sum;
  }

  void sum_in_place(at::Tensor& tensor) override {
    const at::NoGradGuard no_grad;
    at::Tensor sum;
    exchange_->meet(rank(), "all_reduce", tensor, [&](const std::vector<at::Tensor>& tensors) {
      for (const at::Tensor& other : tensors) add(sum, other);
    });
    tensor.copy_(sum);
  }

  void copy_from(at::Tensor& tensor, std::int64_t root) override {
    const at::NoGradGuard no_grad;
    exchange_->meet(rank(), c10::str("broadcast from rank ", root), tensor,
                    [&](const std::vector<at::Tensor>& tensors) {
                      if (rank() != root) tensor.copy_(tensors[static_cast<std::size_t>(root)]);
                    });
  }

  void wait_for_all() override {
    exchange_->meet(rank(), "barrier", {}, [](const std::vector<at::Tensor>&) {});
  }

  std::unique_ptr<Communicator> subgroup(std::int64_t group_size) override {
    return std::make_unique<ThreadRank>(rank() % group_size, group_size,
                                        exchange_->group(group_size, rank() / group_size));
  }

 private:
  static void add(at::Tensor& sum, const at::Tensor& other) {
    if (sum.defined()) {
      sum.add_(other);
    } else {
      sum = other.clone();
    }
  }

  std::shared_ptr<Exchange> exchange_;
};

}  // namespace

void run_ranks(std::int64_t ranks, const std::function<void(Communicator&)>& body) {
  if (ranks < 1) throw ConfigError("run_ranks: there must be a rank, not ", ranks);
  const auto exchange = std::make_shared<Exchange>(ranks);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(ranks));
  for (std::int64_t r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      try {
        ThreadRank rank(r, ranks, exchange);
        body(rank);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!first) first = std::current_exception();
      }
      exchange->leave(r);
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace bitrain::dist
