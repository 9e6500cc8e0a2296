#pragma once

#include <string>

namespace bitrain::io {

/// A path as a shell reads it: "~" and "~/x" begin in the home folder ($HOME, else the user's), "~name/x" in
/// that of the user `name`. Other paths stay as they are; "./~" is a folder of that name. Throws ConfigError
/// for a user who does not exist, and where no home is known.
[[nodiscard]] std::string expand_home(const std::string& path);

}  // namespace bitrain::io
