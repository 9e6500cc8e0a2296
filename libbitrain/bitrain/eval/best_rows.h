#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::eval {

/// The best candidates so far of each query of a block, sorted; of equal scores the lower row comes first.
class BestRows {
 public:
  BestRows(std::int64_t queries, std::int64_t k);

  /// Scores [queries, n], contiguous float32 on the CPU, of candidates first, first + 1, ...; blocks come in
  /// the order of their candidates.
  void take(const at::Tensor& block, std::int64_t first);

  /// [queries * k] values each. A place that no candidate took has row -1.
  void write(float* scores, std::int64_t* rows) const;

 private:
  void take_row(std::int64_t query, const float* scores, std::int64_t n, std::int64_t first);

  std::int64_t k_;
  std::vector<float> scores_;
  std::vector<std::int64_t> rows_;
};

}  // namespace bitrain::eval
