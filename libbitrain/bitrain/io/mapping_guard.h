#pragma once

#include <cstddef>
#include <filesystem>

namespace bitrain::io {

/// From now on a read past the end of the file that `data` was mapped from (somebody has cut it, or its disk
/// fails) ends the process with one line that names `path`, and the exit code of an IoError, instead of a
/// death by SIGBUS: there is no place to throw from. What faults elsewhere goes to the handler before.
void guard_mapping(const void* data, std::size_t size, const std::filesystem::path& path);
/// Before `data` is unmapped.
void release_mapping(const void* data);

}  // namespace bitrain::io
