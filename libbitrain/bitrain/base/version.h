#pragma once

namespace bitrain {

/// Version of the library and of all it ships; CMake reads it from here.
inline constexpr char kVersion[] = "0.1.0";

}  // namespace bitrain
