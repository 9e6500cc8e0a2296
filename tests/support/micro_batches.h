#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <bitrain/base/batch.h>
#include <bitrain/data/example.h>
#include <bitrain/data/packing.h>

namespace bitrain::testing {

/// Examples as an objective encodes them, in micro-batches of `rows` examples.
template <class Objective>
std::vector<Batch> micro_batches(const Objective& objective, const std::vector<data::Example>& examples,
                                 std::size_t rows) {
  std::vector<data::Row> all;
  for (const data::Example& example : examples) {
    auto sequence = std::make_shared<data::TokenSequence>(objective.encode(example));
    all.push_back({data::Piece{sequence, 0, 0, 0, sequence->size()}});
  }
  return data::micro_batches(all, rows, true);
}

}  // namespace bitrain::testing
