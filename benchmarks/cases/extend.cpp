#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>

#include <bitrain/base/rng.h>
#include <bitrain/vocab/initialisers.h>

#include "case.h"

namespace bitrain::benchmarks {

/// Embedding and head of 32,000 x 4096 in bfloat16 grown to 52,000 rows, the new ones the means of three old
/// rows each: the tables' part of vocab::apply_extension.
void bench_extend() {
  constexpr std::int64_t kOld = 32000;
  constexpr std::int64_t kRows = 52000;
  constexpr std::int64_t kDim = 4096;
  at::Tensor tables[2];
  for (at::Tensor& table : tables) table = at::randn({kOld, kDim}).to(at::kBFloat16);
  RandomStream random(0, "benchmark");
  vocab::PieceTable pieces;
  for (std::int64_t row = kOld; row < kRows; ++row) {
    std::vector<text::TokenId> ids;
    for (int i = 0; i < 3; ++i) ids.push_back(static_cast<text::TokenId>(random.below(kOld)));
    pieces.add(ids, {1.0F, 1.0F, 1.0F});
  }
  const Timing timing = time_calls(3, [&] {
    for (const at::Tensor& table : tables) {
      at::Tensor grown = at::empty({kRows, kDim}, table.options());
      grown.narrow(0, 0, kOld).copy_(table);
      vocab::FillRequest request;
      request.rule = "piece_mean";
      request.old_rows = kOld;
      request.first_row = kOld;
      vocab::fill_rows(grown, pieces, {}, request);
    }
  });
  report("extend", {{"seconds", timing.best}});
}

}  // namespace bitrain::benchmarks
