#include <bitrain/dist/launch_failure.h>

#include <sys/stat.h>
#include <sys/wait.h>

#include <array>
#include <charconv>
#include <cmath>
#include <csignal>
#include <fstream>
#include <utility>

#include <nlohmann/json.hpp>

namespace bitrain::dist {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kLongestReport = std::size_t{1} << 20;

/// The member, or null where there is none or `json` has no members.
Json member(const Json& json, const char* name) {
  return json.is_object() && json.contains(name) ? json.at(name) : Json();
}

std::optional<double> seconds(const Json& value) {
  if (value.is_number()) return value.get<double>();
  if (!value.is_string()) return std::nullopt;
  const std::string text = value.get<std::string>();
  double number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

/// When it failed, in whole seconds and more exactly: by its report, as far as that tells of times in its
/// life.
std::pair<double, double> failed_at(const RankEnd& end, const std::optional<ErrorReport>& report,
                                    double began) {
  const auto in_life = [&](double time, double otherwise) {
    return std::floor(time) >= std::floor(began) && std::floor(time) <= end.time ? time : otherwise;
  };
  if (!report) return {std::floor(end.time), end.time};
  const double written = in_life(report->written, end.time);
  return {std::floor(in_life(report->timestamp.value_or(written), written)), written};
}

}  // namespace

int exit_code_of(int status) {
  constexpr int kKilled = 128;
  return WIFSIGNALED(status) ? kKilled + WTERMSIG(status) : WEXITSTATUS(status);
}

std::string describe_end(int status) {
  if (!WIFSIGNALED(status)) return "exit code " + std::to_string(WEXITSTATUS(status));
  return "killed by " + signal_name(WTERMSIG(status));
}

std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name != nullptr ? std::string("SIG") + name : "signal " + std::to_string(signal);
}

std::optional<ErrorReport> read_error_report(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kLongestReport, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.empty()) return std::nullopt;
  const Json message = member(Json::parse(text, nullptr, /*allow_exceptions=*/false), "message");
  ErrorReport report;
  if (message.is_string()) report.message = message.get<std::string>();
  const Json inner = member(message, "message");
  if (inner.is_string()) report.message = inner.get<std::string>();
  report.timestamp = seconds(member(member(message, "extraInfo"), "timestamp"));
  if (report.message.empty() && !report.timestamp) return std::nullopt;
  struct stat status {};
  if (stat(path.c_str(), &status) == 0)
    report.written =
        static_cast<double>(status.st_mtim.tv_sec) + 1e-9 * static_cast<double>(status.st_mtim.tv_nsec);
  return report;
}

std::optional<LaunchFailure> first_failure(const std::vector<RankEnd>& ends, double began) {
  const RankEnd* first = nullptr;
  const RankEnd* blamed = nullptr;
  std::optional<ErrorReport> its_report;
  std::pair<double, double> its_time;
  for (const RankEnd& end : ends) {
    if (exit_code_of(end.status) == 0) continue;
    if (first == nullptr) first = &end;
    std::optional<ErrorReport> report = read_error_report(end.error_file);
    const std::pair<double, double> time = failed_at(end, report, began);
    if (blamed != nullptr && time >= its_time) continue;
    blamed = &end;
    its_time = time;
    its_report = std::move(report);
  }
  if (blamed == nullptr) return std::nullopt;
  LaunchFailure failure;
  failure.rank = blamed->rank;
  failure.how = describe_end(blamed->status);
  const int code = exit_code_of(blamed->status);
  const bool by_signal = code == 128 + SIGTERM || code == 128 + SIGINT || code == 128 + SIGKILL;
  failure.code = blamed->was_told && by_signal ? exit_code_of(first->status) : code;
  if (its_report) failure.message = its_report->message;
  return failure;
}

}  // namespace bitrain::dist
