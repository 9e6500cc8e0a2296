#include <bitrain/dist/thread_ranks.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/dist/ordered_sum.h>

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
    if (!misfit.empty()) throw RankError(misfit);
  }

  /// The same for several tensors of a rank, of any shapes.
  template <class Read>
  void meet_parts(std::int64_t rank, const std::string& call, const std::vector<at::Tensor>& mine,
                  const Read& read) {
    {
      const std::lock_guard lock(mutex_);
      parts_.resize(static_cast<std::size_t>(size_));
      parts_[static_cast<std::size_t>(rank)] = mine;
    }
    std::exception_ptr failure;
    meet(rank, call, {}, [&](const std::vector<at::Tensor>&) {
      try {
        read(parts_);
      } catch (...) {
        failure = std::current_exception();  // The others wait for this rank to have seen them.
      }
    });
    if (failure) std::rethrow_exception(failure);
  }

  /// A rank has ended: whoever waits for it is told.
  void leave(std::int64_t rank) {
    const std::lock_guard lock(mutex_);
    if (gone_ < 0) gone_ = rank;
    met_.notify_all();
    for (auto& [key, group] : groups_) {
      const std::int64_t place = key.place_of(rank);
      if (place >= 0) group->leave(place);
    }
  }

  /// Ranks first, first + stride, ..., size of them.
  struct Group {
    std::int64_t first = 0;
    std::int64_t stride = 1;
    std::int64_t size = 0;

    bool operator<(const Group& other) const {
      return std::tie(first, stride, size) < std::tie(other.first, other.stride, other.size);
    }
    /// -1: not in it.
    [[nodiscard]] std::int64_t place_of(std::int64_t rank) const {
      const std::int64_t away = rank - first;
      return away >= 0 && away % stride == 0 && away / stride < size ? away / stride : -1;
    }
  };

  std::shared_ptr<Exchange> group(const Group& key) {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<Exchange>& group = groups_[key];
    if (!group) group = std::make_shared<Exchange>(key.size);
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
    if (meetings_ == meeting) throw RankError("rank ", gone_, " ended while others were in ", call);
  }

  [[nodiscard]] std::string find_misfit() const {
    for (std::size_t r = 1; r < tensors_.size(); ++r) {
      if (calls_[r] != calls_[0])
        return to_text("rank ", r, " is in ", calls_[r], " while rank 0 is in ", calls_[0]);
      const at::Tensor& one = tensors_[0];
      const at::Tensor& other = tensors_[r];
      if (one.defined() && (one.sizes() != other.sizes() || one.scalar_type() != other.scalar_type()))
        return to_text(calls_[r], ": rank ", r, " has ", other.scalar_type(), other.sizes(), ", rank 0 ",
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
  std::vector<std::vector<at::Tensor>> parts_;
  std::map<Group, std::shared_ptr<Exchange>> groups_;
};

class ThreadRank : public Communicator {
 public:
  ThreadRank(std::int64_t rank, std::int64_t size, std::shared_ptr<Exchange> exchange)
      : Communicator(rank, size), exchange_(std::move(exchange)) {}

 protected:
  Operation gather(at::Tensor all, const at::Tensor& rows, const std::string& name) override {
    const at::NoGradGuard no_grad;
    exchange_->meet(rank(), name, rows, [&](const std::vector<at::Tensor>& tensors) {
      for (std::int64_t r = 0; r < size(); ++r) part_of(all, r).copy_(flat(tensors, r));
    });
    return {};
  }

  Operation scatter_sum(at::Tensor own, const at::Tensor& rows, const std::string& name) override {
    const at::NoGradGuard no_grad;
    exchange_->meet(rank(), name, rows, [&](const std::vector<at::Tensor>& tensors) {
      std::vector<at::Tensor> parts;
      for (const at::Tensor& tensor : tensors) parts.push_back(part_of(tensor, rank()));
      own.view(-1).copy_(ordered_sum(parts));
    });
    return {};
  }

  Operation sum_in_place(at::Tensor tensor, const std::string& name) override {
    const at::NoGradGuard no_grad;
    at::Tensor sum;
    exchange_->meet(rank(), name, tensor,
                    [&](const std::vector<at::Tensor>& tensors) { sum = ordered_sum(tensors); });
    tensor.copy_(sum);
    return {};
  }

  Operation copy_from(at::Tensor tensor, std::int64_t root, const std::string& name) override {
    const at::NoGradGuard no_grad;
    exchange_->meet(rank(), to_text(name, " from rank ", root), tensor,
                    [&](const std::vector<at::Tensor>& tensors) {
                      if (rank() != root) tensor.copy_(tensors[static_cast<std::size_t>(root)]);
                    });
    return {};
  }

  Operation exchange(at::Tensor taken, const at::Tensor& given, const std::vector<std::int64_t>& taken_rows,
                     const std::vector<std::int64_t>& given_rows, const std::string& name) override {
    const at::NoGradGuard no_grad;
    std::int64_t begin = 0;
    std::int64_t end = 0;
    std::vector<at::Tensor> parts;
    for (const std::int64_t count : given_rows) {
      parts.push_back(given.narrow(0, begin, count));
      begin += count;
    }
    exchange_->meet_parts(rank(), name, parts, [&](const std::vector<std::vector<at::Tensor>>& all) {
      for (std::int64_t r = 0; r < size(); ++r) {
        const at::Tensor& part = all[static_cast<std::size_t>(r)][static_cast<std::size_t>(rank())];
        const std::int64_t count = taken_rows[static_cast<std::size_t>(r)];
        if (part.size(0) != count)
          throw RankError(name, ": rank ", r, " gives ", part.size(0), " rows, rank ", rank(), " expects ",
                          count);
        taken.narrow(0, end, count).copy_(part);
        end += count;
      }
    });
    return {};
  }

  Operation wait_for_all(const std::string& name) override {
    exchange_->meet(rank(), name, {}, [](const std::vector<at::Tensor>&) {});
    return {};
  }

  void wait_for_one(std::int64_t /*root*/, const std::string& name) override { wait_for_all(name); }

  std::unique_ptr<Communicator> subgroup(std::int64_t first, std::int64_t stride,
                                         std::int64_t size) override {
    const Exchange::Group group{first, stride, size};
    return std::make_unique<ThreadRank>(group.place_of(rank()), size, exchange_->group(group));
  }

 private:
  [[nodiscard]] at::Tensor part_of(const at::Tensor& whole, std::int64_t r) const {
    const std::int64_t own = whole.numel() / size();
    return whole.view(-1).narrow(0, r * own, own);
  }
  static at::Tensor flat(const std::vector<at::Tensor>& tensors, std::int64_t r) {
    return tensors[static_cast<std::size_t>(r)].view(-1);
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
  // Together they have the threads of one: more would wait for each other.
  const int all = at::get_num_threads();
  const int share = std::max(1, all / static_cast<int>(std::min<std::int64_t>(ranks, all)));
  for (std::int64_t r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      try {
        at::set_num_threads(share);
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
  at::set_num_threads(all);  // For threads that begin later.
  if (first) std::rethrow_exception(first);
}

}  // namespace bitrain::dist
