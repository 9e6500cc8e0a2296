#include <bitrain/base/cpu_allocator.h>
#include <bitrain/cli/cli.h>

int main(int argc, char** argv) {
  bitrain::install_cpu_allocator();
  return bitrain::cli::run_program(argc, argv);
}
