#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace bitrain::benchmarks {

/// Named figures of a case, in the order they are printed.
using Figures = std::vector<std::pair<std::string, double>>;

/// Prints {"case": name, "peak_rss_gib": .., figures..} as one line, with the peaks of tensors in the arena
/// and of what it took from the system.
void report(const std::string& name, const Figures& figures);

/// Most memory that was resident so far.
double peak_gib();

/// Seconds since the program started, its loading included.
double seconds_since_start();

/// Shortest and median seconds of `repeats` calls of `work`, after one that is not counted.
struct Timing {
  double best = 0;
  double median = 0;
};
Timing time_calls(int repeats, const std::function<void()>& work);

// The cases, one file each.
void bench_limit();
void bench_train();
void bench_qlora();
void bench_nf4();
void bench_extend();
void bench_merge();
void bench_info_nce();
void bench_contrastive_256();
void bench_contrastive_2048();
void bench_encode();
void bench_search();
void bench_gpu_limit();
void bench_gpu_nf4();
void bench_gpu_info_nce();
void bench_gpu_search();
void bench_gpu_qlora();

}  // namespace bitrain::benchmarks
