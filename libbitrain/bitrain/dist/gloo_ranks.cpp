#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <bitrain/base/error.h>
#include <bitrain/base/failure.h>
#include <bitrain/dist/backend_ranks.h>
#include <bitrain/dist/ordered_sum.h>
#include <bitrain/dist/peer_memory.h>

namespace bitrain::dist {
namespace {

using Backend = c10::intrusive_ptr<c10d::ProcessGroupGloo>;

/// Up to here ranks give each other all they have: one message in place of two. Bytes of all ranks together.
constexpr std::int64_t kGatheredSum = 64 << 10;
constexpr std::int64_t kKeptScratch = 64 << 20;
constexpr int kSumTag = 0;
/// Bytes of the whole from which on ranks read each other's memory, where they may.
constexpr std::int64_t kWorthReading = 1 << 20;

/// One thread that does one thing after the other. After one failed, the rest fail with it: the ranks are no
/// longer in step.
class InOrder {
 public:
  InOrder() : thread_([this] { run(); }) {}
  ~InOrder() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  InOrder(const InOrder&) = delete;
  InOrder& operator=(const InOrder&) = delete;

  std::future<void> add(std::function<void()> work) {
    std::packaged_task<void()> task([this, work = std::move(work)] {
      if (failure_) std::rethrow_exception(failure_);
      try {
        work();
      } catch (...) {
        failure_ = std::current_exception();
        throw;
      }
    });
    std::future<void> done = task.get_future();
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_all();
    return done;
  }

 private:
  void run() {
    const at::NoGradGuard no_grad;
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      std::packaged_task<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<void()>> tasks_;
  bool stop_ = false;
  std::exception_ptr failure_;  ///< Of the thread alone.
  std::thread thread_;          ///< Last: it uses the rest.
};

at::Tensor as_bytes(const at::Tensor& tensor) {
  return tensor.view(-1).view(at::kByte);
}

class GlooRank : public Communicator {
 public:
  GlooRank(const BackendContext& context, Group group, Backend backend)
      : Communicator(group.rank, group.size),
        context_(context),
        group_(std::move(group)),
        backend_(std::move(backend)),
        peers_(rank(), size(),
               [this](const std::vector<std::int64_t>& words) { return exchange_words(words); }) {}

 protected:
  Operation gather(at::Tensor all, const at::Tensor& rows, const std::string& name) override {
    return start(name, all, rows,
                 [this](const at::Tensor& out, const at::Tensor& in) { gather_into(out, in); });
  }

  Operation scatter_sum(at::Tensor own, const at::Tensor& rows, const std::string& name) override {
    return start(name, own, rows, [this](const at::Tensor& out, const at::Tensor& in) {
      sum_own_part(in.view(-1), out.view(-1));
      if (reads_peers(in)) meet();  // They may still read this rank's.
    });
  }

  Operation sum_in_place(at::Tensor tensor, const std::string& name) override {
    return start(name, tensor, tensor, [this](const at::Tensor& out, const at::Tensor& in) {
      const at::Tensor flat = in.view(-1);
      if (static_cast<std::int64_t>(flat.nbytes()) * size() <= kGatheredSum) {
        at::Tensor all = scratch(received_, size() * flat.numel(), flat);
        gather_into(all, flat);
        ordered_sum(all.chunk(size()), out.view(-1));
        return;
      }
      const std::int64_t each = (flat.numel() + size() - 1) / size();
      at::Tensor whole = flat;
      const bool uneven = each * size() != flat.numel();
      if (uneven) {  // Ranks sum parts of one size.
        whole = at::zeros({each * size()}, flat.options());
        whole.narrow(0, 0, flat.numel()).copy_(flat);
      }
      const at::Tensor own = whole.narrow(0, rank() * each, each);
      sum_own_part(whole, own);
      gather_into(whole, own);
      if (uneven) out.view(-1).copy_(whole.narrow(0, 0, flat.numel()));
    });
  }

  Operation copy_from(at::Tensor tensor, std::int64_t root, const std::string& name) override {
    return start(name, tensor, tensor, [this, root](const at::Tensor& out, const at::Tensor& /*in*/) {
      std::vector<at::Tensor> one = {as_bytes(out)};
      c10d::BroadcastOptions options;
      options.rootRank = root;
      backend_->broadcast(one, options)->wait();
    });
  }

  Operation exchange(at::Tensor taken, const at::Tensor& given, const std::vector<std::int64_t>& taken_rows,
                     const std::vector<std::int64_t>& given_rows, const std::string& name) override {
    const std::int64_t row = given.size(0) > 0 ? static_cast<std::int64_t>(given.nbytes()) / given.size(0)
                                               : static_cast<std::int64_t>(taken.nbytes()) /
                                                     std::max<std::int64_t>(taken.size(0), 1);
    std::vector<std::int64_t> out_bytes;
    std::vector<std::int64_t> in_bytes;
    for (const std::int64_t count : taken_rows) out_bytes.push_back(count * row);
    for (const std::int64_t count : given_rows) in_bytes.push_back(count * row);
    return start(name, taken, given,
                 [this, out_bytes, in_bytes](const at::Tensor& out, const at::Tensor& in) mutable {
                   at::Tensor into = as_bytes(out);
                   at::Tensor from = as_bytes(in);
                   backend_->alltoall_base(into, from, out_bytes, in_bytes)->wait();
                 });
  }

  Operation wait_for_all(const std::string& name) override {
    const at::Tensor one = at::zeros({1});
    return start(name, one, one, [this](const at::Tensor&, const at::Tensor&) { meet(); });
  }

  std::unique_ptr<Communicator> subgroup(std::int64_t first, std::int64_t stride,
                                         std::int64_t size) override {
    return make_gloo_ranks(context_, group_.part(groups_++, first, stride, size));
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
  using Move = std::function<void(const at::Tensor& out, const at::Tensor& in)>;

  /// A collective on the thread, and what comes back to the tensor of a GPU.
  struct Running : Pending::Operation {
    std::future<void> done;
    at::Tensor target;  ///< On a GPU; undefined: the result is where it belongs.
    at::Tensor staged;
    std::shared_ptr<Watch> watch;
    std::string name;

    void wait() override {
      try {
        done.get();
      } catch (const Error&) {
        throw;
      } catch (const std::exception& error) {
        const std::string reason = failure_of(error).message;
        throw RankError(watch->explain(name, reason.substr(0, reason.find('\n'))));
      }
      if (target.defined()) target.copy_(staged);
    }
  };

  Operation start(const std::string& name, const at::Tensor& out, const at::Tensor& in, Move move) {
    context_.watch->enter(name);
    auto running = std::make_unique<Running>();
    running->watch = context_.watch;
    running->name = name;
    const at::NoGradGuard no_grad;
    at::Tensor host_in = in.detach();
    at::Tensor host_out = out.detach();
    if (!in.is_cpu()) {
      host_in = in.detach().cpu();
      host_out = out.is_same(in) ? host_in : at::empty(out.sizes(), out.options().device(at::kCPU));
      running->target = out.detach();
      running->staged = host_out;
    }
    running->done = queue_.add([move = std::move(move), host_out, host_in] { move(host_out, host_in); });
    return running;
  }

  /// `numel` elements of `like`'s type, in memory that is kept unless it is much: new memory costs as much as
  /// what is put in it.
  [[nodiscard]] static at::Tensor scratch(at::Tensor& memory, std::int64_t numel, const at::Tensor& like) {
    const std::int64_t bytes = numel * like.element_size();
    if (bytes > kKeptScratch) return at::empty({numel}, like.options());
    if (!memory.defined() || memory.numel() < bytes) memory = at::empty({bytes}, at::kByte);
    return memory.narrow(0, 0, bytes).view(like.scalar_type());
  }

  /// Every rank's words, one after the other.
  [[nodiscard]] std::vector<std::int64_t> exchange_words(const std::vector<std::int64_t>& words) const {
    const at::Tensor own = at::tensor(words, at::kLong);
    at::Tensor all = at::empty({size() * own.numel()}, at::kLong);
    gather_by_socket(all, own);
    const auto* first = all.const_data_ptr<std::int64_t>();
    return {first, first + all.numel()};
  }

  /// Returns when all ranks have come here.
  void meet() const { (void)exchange_words({0}); }

  /// Where the tensor lies that each rank comes here with. All may be read from here on; they must meet
  /// before anyone changes what others read.
  [[nodiscard]] std::vector<std::int64_t> places_of(const at::Tensor& tensor) const {
    return exchange_words({reinterpret_cast<std::int64_t>(tensor.const_data_ptr())});
  }

  [[nodiscard]] bool reads_peers(const at::Tensor& whole) const {
    return peers_.readable() && static_cast<std::int64_t>(whole.nbytes()) >= kWorthReading;
  }

  void read(std::int64_t from, std::int64_t address, const at::Tensor& into) const {
    peers_.read(from, address, into.mutable_data_ptr(), static_cast<std::int64_t>(into.nbytes()));
  }

  void gather_by_socket(const at::Tensor& all, const at::Tensor& part) const {
    at::Tensor into = as_bytes(all);
    at::Tensor from = as_bytes(part);
    backend_->_allgather_base(into, from)->wait();
  }

  /// Every rank's `part` [n], one after the other; `part` may lie where it belongs.
  void gather_into(const at::Tensor& all, const at::Tensor& part) const {
    if (!reads_peers(all)) return gather_by_socket(all, part);
    const std::vector<std::int64_t> places = places_of(part);
    const at::Tensor into = as_bytes(all);
    const auto bytes = static_cast<std::int64_t>(part.nbytes());
    for (std::int64_t r = 0; r < size(); ++r) {
      const at::Tensor there = into.narrow(0, r * bytes, bytes);
      if (r != rank()) {
        read(r, places[static_cast<std::size_t>(r)], there);
      } else if (there.const_data_ptr() != part.const_data_ptr()) {
        there.copy_(as_bytes(part));
      }
    }
    meet();
  }

  /// The sum over ranks of the part of `whole` [size * n] that is this rank's; `sum` may be that part. Only
  /// what others need is copied.
  void sum_own_part(const at::Tensor& whole, const at::Tensor& sum) {
    const std::int64_t each = sum.numel();
    const at::Tensor received = scratch(received_, whole.numel() - each, whole);
    std::vector<at::Tensor> parts;
    for (std::int64_t r = 0; r < size(); ++r)
      parts.push_back(r == rank() ? whole.narrow(0, r * each, each)
                                  : received.narrow(0, (r < rank() ? r : r - 1) * each, each));
    if (reads_peers(whole)) {
      const std::vector<std::int64_t> places = places_of(whole);
      const auto begin = rank() * static_cast<std::int64_t>(sum.nbytes());
      for (std::int64_t r = 0; r < size(); ++r)
        if (r != rank())
          read(r, places[static_cast<std::size_t>(r)] + begin, parts[static_cast<std::size_t>(r)]);
    } else {
      std::vector<c10::intrusive_ptr<c10d::Work>> moves;
      for (std::int64_t r = 0; r < size(); ++r) {
        if (r == rank()) continue;
        std::vector<at::Tensor> taken = {as_bytes(parts[static_cast<std::size_t>(r)])};
        std::vector<at::Tensor> given = {as_bytes(whole.narrow(0, r * each, each))};
        moves.push_back(backend_->recv(taken, static_cast<int>(r), kSumTag));
        moves.push_back(backend_->send(given, static_cast<int>(r), kSumTag));
      }
      for (const auto& move : moves) move->wait();
    }
    ordered_sum(parts, sum);
  }

  BackendContext context_;
  Group group_;
  std::int64_t groups_ = 0;
  std::int64_t awaited_ = 0;
  Backend backend_;
  PeerMemory peers_;
  at::Tensor received_;  ///< Memory of the thread's.
  InOrder queue_;        ///< Last: its work uses the rest.
};

}  // namespace

Group Group::part(std::int64_t number, std::int64_t part_first, std::int64_t part_stride,
                  std::int64_t part_size) const {
  return {to_text(name, "/", number, "-", part_first, "-", part_stride), (rank - part_first) / part_stride,
          part_size, world_rank(part_first), stride * part_stride};
}

std::unique_ptr<Communicator> make_gloo_ranks(const BackendContext& context, const Group& group) {
  const std::string what = "connecting " + group.name;
  context.watch->enter(what);
  auto options = c10d::ProcessGroupGloo::Options::create(context.timeout);
  options->threads = 1;  // One collective at a time.
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  using Gloo = c10d::ProcessGroupGloo;
  try {
    options->devices.push_back(
        interface != nullptr && *interface != '\0' ? Gloo::createDeviceForInterface(interface)
        : !context.own_address.empty()             ? Gloo::createDeviceForHostname(context.own_address)
                                                   : Gloo::createDefaultDevice());
    auto backend =
        c10::make_intrusive<Gloo>(c10::make_intrusive<c10d::PrefixStore>(group.name, context.store),
                                  static_cast<int>(group.rank), static_cast<int>(group.size), options);
    return std::make_unique<GlooRank>(context, group, std::move(backend));
  } catch (const std::exception& error) {
    const std::string reason = failure_of(error).message;
    throw RankError(context.watch->explain(what, reason.substr(0, reason.find('\n'))));
  }
}

}  // namespace bitrain::dist
