#pragma once

#include <algorithm>
#include <cstdint>

namespace bitrain::losses {

/// Some rows and columns of a [B, B] matrix.
struct SymmetricTile {
  std::int64_t row, rows, column, columns;
  [[nodiscard]] bool on_diagonal() const { return row == column; }
};

/// Calls `visit` for the tiles on and above the diagonal of a symmetric [size, size] matrix, in a fixed
/// order: each off the diagonal stands for its mirror image too.
template <class Visit>
void for_each_symmetric_tile(std::int64_t size, const Visit& visit) {
  constexpr std::int64_t kTile = 512;
  for (std::int64_t row = 0; row < size; row += kTile)
    for (std::int64_t column = row; column < size; column += kTile)
      visit(SymmetricTile{row, std::min(kTile, size - row), column, std::min(kTile, size - column)});
}

}  // namespace bitrain::losses
