#pragma once

#include <string>
#include <vector>

#include <bitrain/io/json.h>

namespace bitrain::io {

/// A value that two JSON documents do not share.
struct JsonDifference {
  std::string name;  ///< "options.margin"
  std::string was;   ///< As JSON, or "not set".
  std::string is;
};

/// All of them, in the order of the first document, then what only the second has.
[[nodiscard]] std::vector<JsonDifference> differences(const Json& was, const Json& is);

/// "options.margin (was 0.1, is 0.2), ..."; of more than `most` the number of the others.
[[nodiscard]] std::string describe(const std::vector<JsonDifference>& all, std::size_t most = 8);

}  // namespace bitrain::io
