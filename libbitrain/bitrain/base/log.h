#pragma once

#include <functional>
#include <string>

#include <bitrain/base/format.h>

namespace bitrain {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

/// Receives every message at or above the level. Called under a lock, from any thread.
using LogSink = std::function<void(LogLevel, const std::string&)>;

/// Replaces the sink (default: one line to stderr) and returns the previous one; an empty sink restores the
/// default.
LogSink set_log_sink(LogSink sink);
void set_log_level(LogLevel level);
[[nodiscard]] LogLevel log_level();
void log_message(LogLevel level, const std::string& message);

template <class... Parts>
void log_debug(const Parts&... parts) {
  if (log_level() <= LogLevel::kDebug) log_message(LogLevel::kDebug, to_text(parts...));
}
template <class... Parts>
void log_info(const Parts&... parts) {
  if (log_level() <= LogLevel::kInfo) log_message(LogLevel::kInfo, to_text(parts...));
}
template <class... Parts>
void log_warn(const Parts&... parts) {
  if (log_level() <= LogLevel::kWarn) log_message(LogLevel::kWarn, to_text(parts...));
}
template <class... Parts>
void log_error(const Parts&... parts) {
  if (log_level() <= LogLevel::kError) log_message(LogLevel::kError, to_text(parts...));
}

}  // namespace bitrain
