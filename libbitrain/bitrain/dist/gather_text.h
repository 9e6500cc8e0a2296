#pragma once

#include <string>
#include <vector>

#include <bitrain/dist/communicator.h>

namespace bitrain::dist {

/// The text of every rank, in the order of ranks. For small things: figures, decisions.
[[nodiscard]] std::vector<std::string> gather_text(const std::string& text, Communicator& group,
                                                   const std::string& what);

/// What rank `root` has.
[[nodiscard]] std::string broadcast_text(const std::string& text, std::int64_t root, Communicator& group,
                                         const std::string& what);

}  // namespace bitrain::dist
