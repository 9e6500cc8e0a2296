#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include <ATen/Parallel.h>

#include <bitrain/base/busy_cores.h>
#include <bitrain/base/cpu_allocator.h>

#include "case.h"

namespace bitrain::benchmarks {

double peak_gib() {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / (1 << 20);
}

void report(const std::string& name, const Figures& figures) {
  const CpuMemory memory = cpu_memory();
  const auto gib = [](std::uint64_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  std::printf("{\"case\": \"%s\", \"peak_rss_gib\": %.2f", name.c_str(), peak_gib());
  std::printf(", \"large_tensors_gib\": %.2f, \"arena_gib\": %.2f", gib(memory.peak_in_use),
              gib(memory.peak_reserved));
  for (const auto& [key, value] : figures) std::printf(", \"%s\": %.6g", key.c_str(), value);
  std::printf("}\n");
  std::fflush(stdout);
}

double seconds_since_start() {
  // Field 22 of /proc/self/stat: start of the process in clock ticks since boot, before any library was
  // loaded.
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  std::size_t at = text.rfind(')') + 2;
  for (int field = 3; field < 22; ++field) at = text.find(' ', at) + 1;
  double uptime = 0;
  std::ifstream("/proc/uptime") >> uptime;
  return uptime - std::stod(text.substr(at)) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

Timing time_calls(int repeats, const std::function<void()>& work) {
  work();
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds.front(), seconds[seconds.size() / 2]};
}

}  // namespace bitrain::benchmarks

int main(int argc, char** argv) {
  const bitrain::CoresWatch watch;  // As training has it.
  using namespace bitrain::benchmarks;
  const std::pair<const char*, void (*)()> cases[] = {{"limit", bench_limit},
                                                      {"train", bench_train},
                                                      {"qlora", bench_qlora},
                                                      {"nf4", bench_nf4},
                                                      {"extend", bench_extend},
                                                      {"merge", bench_merge},
                                                      {"info_nce", bench_info_nce},
                                                      {"contrastive_256", bench_contrastive_256},
                                                      {"contrastive_2048", bench_contrastive_2048},
                                                      {"encode", bench_encode},
                                                      {"search", bench_search},
                                                      {"gpu_limit", bench_gpu_limit},
                                                      {"gpu_nf4", bench_gpu_nf4},
                                                      {"gpu_info_nce", bench_gpu_info_nce},
                                                      {"gpu_search", bench_gpu_search},
                                                      {"gpu_qlora", bench_gpu_qlora}};
  bitrain::install_cpu_allocator();
  at::set_num_threads(2);
  for (const auto& [name, run] : cases)
    if (argc == 2 && std::strcmp(argv[1], name) == 0) {
      run();
      return 0;
    }
  std::string names;
  for (const auto& [name, run] : cases) names += (names.empty() ? "" : "|") + std::string(name);
  std::fprintf(stderr, "usage: bitrain_bench %s\n", names.c_str());
  return 2;
}
