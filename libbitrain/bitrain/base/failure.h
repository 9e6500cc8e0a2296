#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <string>

#include <bitrain/base/error.h>

namespace bitrain {

/// What an exception, anybody's, says to the person who sees it.
struct Failure {
  std::optional<ErrorKind> kind;  ///< None: nobody expected it; a fault of the program.
  std::string message;            ///< Without C++ stacks, and without requests to report it to others.
};

/// The one place that knows exceptions which are not bitrain's: memory that the system refused and its other
/// refusals are kIo; of LibTorch's own errors what matters is left.
[[nodiscard]] Failure failure_of(const std::exception& error);

/// Says that the system refused memory, how much this process holds and may hold, and what to lower. `bytes`:
/// what was asked for, where that is known.
[[nodiscard]] std::string out_of_memory(std::optional<std::uint64_t> bytes = std::nullopt);

/// The same as a line of the program's last words, written to stderr without any memory.
void say_out_of_memory() noexcept;

/// Thrown where a file wants more memory than there is: no fault of the file or of what names it.
struct OutOfMemoryError : IoError {
  using IoError::IoError;
};

}  // namespace bitrain
