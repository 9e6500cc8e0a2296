#include <bitrain/dist/session.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>
#include <utility>
#include <vector>

#include <c10/core/impl/VirtualGuardImpl.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/cuda_library.h>
#include <bitrain/base/error.h>
#include <bitrain/base/failure.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/dist/backend_ranks.h>

namespace bitrain::dist {
namespace {

using std::chrono::milliseconds;

std::string own_name() {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host[0] = '?';
  return to_text(host.data(), ", process ", getpid());
}

/// How long a failing rank 0 still serves the store to ranks that want to know what happened.
constexpr milliseconds kLastLook(5000);

/// After so long a wait for ranks that have not come yet, it is said who is missing.
constexpr milliseconds kFirstWait(15'000);

std::vector<std::string> missing_of(const std::vector<bool>& came) {
  std::vector<std::string> missing;
  for (std::size_t r = 0; r < came.size(); ++r)
    if (!came[r]) missing.push_back(std::to_string(r));
  return missing;
}

/// Returns when every rank has said `key`. `remedy` ends what is said of those who did not.
void meet(const StorePtr& store, const std::string& key, const Environment& environment, milliseconds timeout,
          const std::string& remedy) {
  std::vector<std::string> keys;
  keys.reserve(static_cast<std::size_t>(environment.world_size));
  for (std::int64_t r = 0; r < environment.world_size; ++r) keys.push_back(to_text(key, "/", r));
  const std::string own = keys[static_cast<std::size_t>(environment.rank)];
  const auto wait = [&](milliseconds time) {
    return ask(time + kLastLook,
               [store, own, keys, time] {
                 store->set(own, "1");
                 store->wait(keys, time);
                 return true;
               })
        .has_value();
  };
  const auto look = [&] {
    return ask(kLastLook, [store, keys] {
      std::vector<bool> there;
      for (const std::string& one : keys) there.push_back(store->check({one}));
      return there;
    });
  };
  const milliseconds first = std::min(timeout, kFirstWait);
  if (wait(first)) return;
  if (first < timeout) {
    if (const auto came = look(); came && environment.rank == 0 && !remedy.empty())
      log_warn("still waiting for ranks ", join(missing_of(*came), ", "), " of ", environment.world_size,
               remedy);
    if (wait(timeout - first)) return;
  }
  const auto came = look();
  if (!came)
    throw RankError("the store at ", environment.master_address, ":", environment.master_port,
                    " does not answer any more");
  const std::vector<std::string> missing = missing_of(*came);
  throw RankError("of ", environment.world_size, " ranks ",
                  environment.world_size - static_cast<std::int64_t>(missing.size()), " came within ",
                  timeout.count() / 1000, " s; missing: ", join(missing, ", "),
                  "; look at their logs, or raise parallel.timeout_seconds", remedy);
}

/// Counts this rank among those that need the store no more.
void say_gone(const StorePtr& store) {
  (void)ask(std::chrono::seconds(1), [store] { return store->add("gone", 1); });
}

/// The GPU of this rank becomes the current one.
at::Device choose_gpu(const Environment& environment) {
  require_cuda();
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  const auto count = static_cast<std::int64_t>(guard.deviceCount());
  // Where a launcher shows each rank its own GPU alone, that is number 0. Ranks beyond the GPUs share them.
  const auto index = static_cast<c10::DeviceIndex>(environment.local_rank % std::max<std::int64_t>(count, 1));
  guard.setDevice(at::Device(at::kCUDA, index));
  return {at::kCUDA, index};
}

}  // namespace

struct Session::Parts {
  Environment environment;
  StorePtr store;
  std::shared_ptr<Watch> watch;
  std::shared_ptr<Communicator> world = std::make_shared<Communicator>();
  milliseconds timeout{};
  int exceptions = 0;
  bool failed = false;
};

namespace {

/// Gloo and LibTorch's store write to ranks that may be gone: the signal would kill this rank before it can
/// say so. A handler, since ignoring would be inherited by what is started.
void outlive_broken_pipes() {
  struct sigaction now {};
  if (::sigaction(SIGPIPE, nullptr, &now) != 0 || now.sa_handler != SIG_DFL) return;
  struct sigaction action {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGPIPE, &action, nullptr);
}

}  // namespace

Session::Session(Environment environment, const ParallelOptions& options, at::Device device)
    : parts_(std::make_unique<Parts>()) {
  Parts& parts = *parts_;
  parts.environment = std::move(environment);
  parts.exceptions = std::uncaught_exceptions();
  parts.timeout = std::chrono::seconds(options.timeout_seconds);
  const Environment& where = parts.environment;
  if (device.is_cuda() && where.world_size > 1) device = choose_gpu(where);
  if (where.world_size == 1) return;
  outlive_broken_pipes();
  parts.store = open_store(where, parts.timeout);
  meet(parts.store, "here", where, parts.timeout, how_to_run_alone(where));
  BackendContext context;
  context.store = parts.store;
  context.timeout = parts.timeout;
  context.own_address = address_towards(where.master_address, where.master_port);
  context.device = device;
  parts.watch = std::make_shared<Watch>(parts.store, where.rank, where.world_size, own_name(),
                                        to_text(where.master_address, ":", where.master_port), parts.timeout);
  context.watch = parts.watch;
  const bool nccl = options.backend == "nccl" || (options.backend == "auto" && device.is_cuda());
  if (nccl && !device.is_cuda()) throw ConfigError("parallel.backend nccl needs device: cuda");
  const Group world{"world", where.rank, where.world_size};
  parts.world = nccl ? make_nccl_ranks(context, world) : make_gloo_ranks(context, world);
}

Session::~Session() {
  if (!parts_ || !parts_->watch) return;
  Parts& parts = *parts_;
  const bool orderly = !parts.failed && std::uncaught_exceptions() == parts.exceptions;
  const bool serves = parts.environment.rank == 0 && !parts.environment.store_is_served;
  try {
    if (orderly) meet(parts.store, "bye", parts.environment, parts.timeout, "");
    // Whoever serves the store stays until the others have seen what they must: that all are there, or who
    // is not.
    say_gone(parts.store);
    const auto until = std::chrono::steady_clock::now() +
                       (orderly ? milliseconds(10'000) : std::min(kLastLook, parts.timeout));
    while (serves && parts.store->add("gone", 0) < parts.environment.world_size &&
           std::chrono::steady_clock::now() < until)
      usleep(2000);
  } catch (const std::exception& error) {
    if (orderly) log_warn("parting from the other ranks: ", failure_of(error).message);
  }
  parts.watch.reset();
}

const std::shared_ptr<Communicator>& Session::world() const {
  return parts_->world;
}

const Environment& Session::environment() const {
  return parts_->environment;
}

void Session::fail(const std::string& message) {
  parts_->failed = true;
  if (parts_->watch) parts_->watch->fail(message);
}

void write_error_file(const std::string& path, const std::string& message) noexcept {
  if (path.empty()) return;
  try {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
    const nlohmann::ordered_json json = {
        {"message",
         {{"message", message},
          {"extraInfo", {{"py_callstack", message}, {"timestamp", std::to_string(seconds)}}}}}};
    std::ofstream(path) << json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  } catch (const std::exception& error) {
    log_warn("cannot write ", path, ": ", error.what());
  }
}

}  // namespace bitrain::dist
