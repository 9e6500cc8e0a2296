#pragma once

#include <string>
#include <vector>

#include <bitrain/base/strings.h>
#include <bitrain/io/line_reader.h>

namespace bitrain::test {

/// The first `count` cells of a column (1: English, 2: Spanish) of the example corpus.
inline std::vector<std::string> corpus_column(std::size_t column, std::size_t count) {
  io::LineReader reader(std::string(BITRAIN_SOURCE_DIR) + "/examples/data/en-es.tsv.zst");
  std::vector<std::string> cells;
  for (std::string line; cells.size() < count && reader.next(line);)
    cells.push_back(split(line, '\t').at(column));
  return cells;
}

}  // namespace bitrain::test
