#include <bitrain/base/log.h>

#include <atomic>
#include <cstdio>
#include <mutex>
#include <utility>

#include <bitrain/base/printable.h>

namespace bitrain {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kInfo};
std::mutex g_mutex;
LogSink g_sink;  // guarded by g_mutex; empty means stderr

const char* prefix(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "debug: ";
    case LogLevel::kWarn: return "warning: ";
    case LogLevel::kError: return "error: ";
    default: return "";
  }
}

}  // namespace

LogSink set_log_sink(LogSink sink) {
  std::lock_guard<std::mutex> lock(g_mutex);
  return std::exchange(g_sink, std::move(sink));
}

void set_log_level(LogLevel level) {
  g_level = level;
}
LogLevel log_level() {
  return g_level;
}

void log_message(LogLevel level, const std::string& message) {
  const std::string text = printable(message);  // Names in it are anybody's.
  std::lock_guard<std::mutex> lock(g_mutex);
  if (g_sink) {
    g_sink(level, text);
  } else {
    std::fprintf(stderr, "%s%s\n", prefix(level), text.c_str());
  }
}

}  // namespace bitrain
