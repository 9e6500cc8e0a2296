#include <dlfcn.h>

#include <array>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <list>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <bitrain/base/cuda_library.h>
#include <bitrain/base/error.h>
#include <bitrain/base/failure.h>
#include <bitrain/base/log.h>
#include <bitrain/dist/backend_ranks.h>
#include <bitrain/dist/nccl_backend.h>

namespace bitrain::dist {
namespace {

using Backend = c10::intrusive_ptr<c10d::Backend>;
using Work = c10::intrusive_ptr<c10d::Work>;

/// libbitrain_nccl.so, beside libbitrain_cuda.so.
Backend open_backend(const BackendContext& context, const Group& group) {
  require_cuda();
  std::string tried;
  void* library = nullptr;
  for (const std::filesystem::path& cuda : cuda_locations().libraries) {
    const std::filesystem::path path = cuda.parent_path() / "libbitrain_nccl.so";
    if (!std::filesystem::exists(path)) continue;
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) tried = dlerror();
    break;
  }
  if (library == nullptr)
    throw UnsupportedError("several ranks on GPUs need libbitrain_nccl.so beside the program (",
                           tried.empty() ? "it was not built: cmake --preset cuda" : tried,
                           "), or parallel.backend=gloo");
  auto* const make =
      reinterpret_cast<decltype(&bitrain_nccl_backend)>(dlsym(library, "bitrain_nccl_backend"));
  if (make == nullptr)
    throw UnsupportedError("libbitrain_nccl.so comes from another version of bitrain; build both together");
  std::array<char, 1024> error{};
  const auto store = c10::make_intrusive<c10d::PrefixStore>(group.name, context.store);
  // Longer than ours: we say who is missing, NCCL's watchdog only ends the process.
  const std::int64_t timeout_ms = context.timeout.count() + 60'000;
  c10d::Backend* backend =
      make(store.get(), static_cast<int>(group.rank), static_cast<int>(group.size), timeout_ms,
           context.device.index(), group.name.c_str(), error.data(), error.size());
  if (backend == nullptr)
    throw RankError(context.watch->explain("connecting " + group.name,
                                           failure_of(std::runtime_error(error.data())).message));
  return Backend::reclaim(backend);
}

/// Watches the collectives that a GPU has been given. Whoever waits for one waits inside CUDA, so a
/// collective that does not end is said, and the process ended, from here.
class Overdue {
 public:
  Overdue(std::shared_ptr<Watch> watch, std::chrono::milliseconds timeout)
      : watch_(std::move(watch)), timeout_(timeout), thread_([this] { run(); }) {}
  ~Overdue() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Overdue(const Overdue&) = delete;
  Overdue& operator=(const Overdue&) = delete;

  void add(Work work, std::string name) {
    const std::lock_guard lock(mutex_);
    works_.push_back({std::move(work), std::move(name), std::chrono::steady_clock::now()});
  }

 private:
  struct Started {
    Work work;
    std::string name;
    std::chrono::steady_clock::time_point since;
  };

  void run() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      changed_.wait_for(lock, std::chrono::milliseconds(200), [this] { return stop_; });
      std::string reason;
      while (!works_.empty()) {
        const Started& first = works_.front();  // They end in the order they were given in.
        try {
          if (first.work->isCompleted() && first.work->exception() == nullptr) {
            works_.pop_front();
            continue;
          }
          if (const std::exception_ptr failure = first.work->exception()) std::rethrow_exception(failure);
        } catch (const std::exception& error) {
          reason = failure_of(error).message;
        }
        if (reason.empty() && std::chrono::steady_clock::now() - first.since > timeout_)
          reason = to_text("no end after ", timeout_.count() / 1000, " s");
        if (!reason.empty()) end_process(first.name, reason);
        break;
      }
    }
  }

  [[noreturn]] void end_process(const std::string& name, const std::string& reason) {
    log_error("rank error: ", watch_->explain(name, reason.substr(0, reason.find('\n'))));
    std::_Exit(9);
  }

  std::shared_ptr<Watch> watch_;
  std::chrono::milliseconds timeout_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Started> works_;
  bool stop_ = false;
  std::thread thread_;  ///< Last: it uses the rest.
};

class NcclRank : public Communicator {
 public:
  NcclRank(const BackendContext& context, Group group)
      : Communicator(group.rank, group.size),
        context_(context),
        group_(std::move(group)),
        backend_(open_backend(context_, group_)),
        overdue_(context_.watch, context_.timeout) {}
  ~NcclRank() override { backend_->shutdown(); }

 protected:
  Operation gather(at::Tensor all, const at::Tensor& rows, const std::string& name) override {
    return start(name, all, rows,
                 [this](at::Tensor out, at::Tensor in) { return backend_->_allgather_base(out, in); });
  }
  Operation scatter_sum(at::Tensor own, const at::Tensor& rows, const std::string& name) override {
    return start(name, own, rows,
                 [this](at::Tensor out, at::Tensor in) { return backend_->_reduce_scatter_base(out, in); });
  }
  Operation sum_in_place(at::Tensor tensor, const std::string& name) override {
    return start(name, tensor, tensor, [this](const at::Tensor& out, const at::Tensor& /*in*/) {
      std::vector<at::Tensor> one = {out};
      return backend_->allreduce(one);
    });
  }
  Operation copy_from(at::Tensor tensor, std::int64_t root, const std::string& name) override {
    return start(name, tensor, tensor, [this, root](const at::Tensor& out, const at::Tensor& /*in*/) {
      std::vector<at::Tensor> one = {out};
      c10d::BroadcastOptions options;
      options.rootRank = root;
      return backend_->broadcast(one, options);
    });
  }
  Operation exchange(at::Tensor taken, const at::Tensor& given, const std::vector<std::int64_t>& taken_rows,
                     const std::vector<std::int64_t>& given_rows, const std::string& name) override {
    return start(
        name, taken, given,
        [this, to = std::vector<std::int64_t>(taken_rows), from = std::vector<std::int64_t>(given_rows)](
            at::Tensor out, at::Tensor in) mutable { return backend_->alltoall_base(out, in, to, from); });
  }
  Operation wait_for_all(const std::string& name) override {
    const at::Tensor one = at::ones({1});  // Read back: on a GPU only that waits.
    return sum_in_place(one, name);
  }
  std::unique_ptr<Communicator> subgroup(std::int64_t first, std::int64_t stride,
                                         std::int64_t size) override {
    return std::make_unique<NcclRank>(context_, group_.part(groups_++, first, stride, size));
  }

  void wait_for_one(std::int64_t root, const std::string& name) override {
    const std::string key = to_text("await/", group_.name, "/", awaited_++);
    if (rank() == root) {
      context_.watch->post(key);
    } else {
      context_.watch->await(key, group_.world_rank(root), name);
    }
  }

 private:
  struct Running : Pending::Operation {
    Work work;
    at::Tensor target;  ///< In host memory; undefined: the result is where it belongs.
    at::Tensor staged;
    std::shared_ptr<Watch> watch;
    std::string name;

    void wait() override {
      try {
        work->wait();
      } catch (const std::exception& error) {
        const std::string reason = failure_of(error).message;
        throw RankError(watch->explain(name, reason.substr(0, reason.find('\n'))));
      }
      if (target.defined()) target.copy_(staged);
    }
  };

  template <class Move>
  Operation start(const std::string& name, const at::Tensor& out, const at::Tensor& in, Move move) {
    const at::NoGradGuard no_grad;
    context_.watch->enter(name);
    auto running = std::make_unique<Running>();
    running->watch = context_.watch;
    running->name = name;
    at::Tensor device_in = in.detach();
    at::Tensor device_out = out.detach();
    if (in.is_cpu()) {
      device_in = in.detach().to(context_.device);
      device_out =
          out.is_same(in) ? device_in : at::empty(out.sizes(), out.options().device(context_.device));
      running->target = out.detach();
      running->staged = device_out;
    }
    running->work = move(device_out, device_in);
    overdue_.add(running->work, name);
    return running;
  }

  BackendContext context_;
  Group group_;
  std::int64_t groups_ = 0;
  std::int64_t awaited_ = 0;
  Backend backend_;
  Overdue overdue_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_ranks(const BackendContext& context, const Group& group) {
  return std::make_unique<NcclRank>(context, group);
}

}  // namespace bitrain::dist
