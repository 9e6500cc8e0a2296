#include <exception>

#include <bitrain/base/cpu_allocator.h>
#include <bitrain/cli/cli.h>

namespace {

// LibTorch's constructors, which run before main, want memory too.
void before_constructors(int /*argc*/, char** /*argv*/, char** /*environment*/) {
  std::set_terminate(&bitrain::cli::end_by_exception);
}
[[gnu::section(".preinit_array"), gnu::used]] void (*const g_before)(int, char**,
                                                                     char**) = &before_constructors;

}  // namespace

int main(int argc, char** argv) {
  bitrain::install_cpu_allocator();
  return bitrain::cli::run_program(argc, argv);
}
