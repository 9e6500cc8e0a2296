#include <algorithm>
#include <cctype>
#include <ctime>
#include <unordered_map>

#include <bitrain/adapters/attach.h>
#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/text/whole_pattern.h>

namespace bitrain::adapters {
namespace {

bool is_plain(const std::string& entry) {
  return std::all_of(entry.begin(), entry.end(), [](unsigned char c) {
    return (c < 0x80 && std::isalnum(c) != 0) || c == '_' || c == '-' || c == '.';
  });
}

constexpr double kLongestSeconds = 2;

/// Processor time of this thread, which does not pass while others have the processor.
double seconds_of_thread() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// Expressions compiled, since the same few are asked for with every module, and the time they have taken.
struct Expressions {
  std::unordered_map<std::string, text::WholePattern> known;
  double seconds = 0;

  bool match(const std::string& expression, const std::string& path) {
    const double begin = seconds_of_thread();
    auto found = known.find(expression);
    if (found == known.end()) found = known.emplace(expression, text::WholePattern(expression)).first;
    const bool matched = found->second.matches(path);
    seconds += seconds_of_thread() - begin;
    if (seconds > kLongestSeconds)
      throw ConfigError("'", expression, "' and the other expressions for modules take more than ",
                        kLongestSeconds, " s: write fewer or simpler ones");
    return matched;
  }
};

Expressions& expressions() {
  thread_local Expressions of_thread;
  return of_thread;
}

}  // namespace

bool matches(const std::string& entry, const std::string& path) {
  if (entry.empty()) return false;
  if (is_plain(entry)) return path == entry || ends_with(path, "." + entry);
  return expressions().match(entry, path);
}

bool matches_end(const std::string& entry, const std::string& path) {
  return matches(is_plain(entry) ? entry : "(?:.*\\.)?(?:" + entry + ")", path);
}

void begin_matching() {
  expressions() = Expressions();
}

void check_patterns(const char* option, const std::vector<std::string>& entries) {
  if (entries.size() > kMostPatterns)
    throw ConfigError(option, " has ", entries.size(), " entries; the most is ", kMostPatterns);
}

}  // namespace bitrain::adapters
