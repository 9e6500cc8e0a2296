#include <bitrain/cli/deep_stack.h>

#include <pthread.h>
#include <sys/resource.h>

#include <cstddef>

#include <bitrain/base/log.h>
#include <bitrain/cli/cli.h>

namespace bitrain::cli {
namespace {

constexpr std::size_t kStack = std::size_t{8} << 20;  // What systems give unless they are told otherwise.

struct Task {
  const std::function<int()>& work;
  int result = 0;
};

}  // namespace

int on_deep_stack(const std::function<int()>& work) {
  rlimit limit{};
  if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= kStack)
    return work();
  Task task{work};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStack);
  pthread_setattr_default_np(&attributes);  // OpenMP's, autograd's and loaders' threads.
  pthread_t thread{};
  const int error = pthread_create(
      &thread, &attributes,
      [](void* given) -> void* {
        auto& to_do = *static_cast<Task*>(given);
        to_do.result = to_do.work();
        return nullptr;
      },
      &task);
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    log_error(
        "stacks are limited to ", limit.rlim_cur / 1024,
        " KiB (ulimit -s), which is too little, and there is no memory for a larger one: raise one limit");
    return exit_code(ErrorKind::kIo);
  }
  pthread_join(thread, nullptr);
  return task.result;
}

}  // namespace bitrain::cli
