#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include <bitrain/base/format.h>

namespace bitrain {

/// What a failure means to the person who sees it; `bitrain` maps each kind to its own exit code.
enum class ErrorKind {
  kConfig,       ///< A recipe, option or command line is wrong.
  kData,         ///< The user's text or examples are wrong.
  kFormat,       ///< A file is damaged or is not what its name says.
  kIo,           ///< The system refused: missing file, full disk, no permission.
  kState,        ///< The parts do not fit together now: shapes, locks, checkpoints.
  kDiverged,     ///< A model holds or computes NaN or infinity, or its loss spikes.
  kUnsupported,  ///< Known, but not available in this build or on this machine.
  kRank,         ///< Another rank of the run failed, went silent or does something else.
};

/// Base of every error that a user can cause or mend. The message says what was wrong, where, and what to do;
/// `add_context` prepends a place ("stage adapt: ...") while it travels up.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string message)
      : std::runtime_error(message), kind_(kind), message_(std::move(message)) {}

  [[nodiscard]] ErrorKind kind() const noexcept { return kind_; }
  [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }

  /// Prepends `context` and ": " to the message.
  void add_context(const std::string& context) { message_ = context + ": " + message_; }

 private:
  ErrorKind kind_;
  std::string message_;
};

/// One class a kind, so that callers can catch what they can mend. Arguments are joined as by c10::str.
template <ErrorKind kKind>
class ErrorOf : public Error {
 public:
  template <class... Parts>
  explicit ErrorOf(const Parts&... parts) : Error(kKind, to_text(parts...)) {}
};

using ConfigError = ErrorOf<ErrorKind::kConfig>;
using DataError = ErrorOf<ErrorKind::kData>;
using FormatError = ErrorOf<ErrorKind::kFormat>;
using IoError = ErrorOf<ErrorKind::kIo>;
using StateError = ErrorOf<ErrorKind::kState>;
using DivergedError = ErrorOf<ErrorKind::kDiverged>;
using UnsupportedError = ErrorOf<ErrorKind::kUnsupported>;
using RankError = ErrorOf<ErrorKind::kRank>;

/// The word for a kind in messages: "config error", "data error", ...
[[nodiscard]] const char* kind_name(ErrorKind kind) noexcept;

}  // namespace bitrain
