#include <bitrain/base/failure.h>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include <c10/util/Exception.h>

#include <bitrain/base/strings.h>

namespace bitrain {
namespace {

constexpr const char* kWhatToLower =
    "lower micro_batch_rows or sequence_length (loader), or set train.recompute=true; without training, "
    "lower the batch or max_length, or take a smaller model";

/// Bytes of addresses and of memory that this process has; zeros where the system does not say.
struct Held {
  std::uint64_t addresses = 0;
  std::uint64_t resident = 0;
};

// Without streams, which want memory themselves.
Held held_now() {
  char text[128] = {};
  const int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (file < 0) return {};
  const ssize_t got = read(file, text, sizeof text - 1);
  close(file);
  unsigned long long addresses = 0;
  unsigned long long resident = 0;
  if (got <= 0 || std::sscanf(text, "%llu %llu", &addresses, &resident) != 2) return {};
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return {addresses * page, resident * page};
}

void cut_from(std::string& text, std::string_view mark) {
  if (const std::size_t at = text.find(mark); at != std::string::npos) text.resize(at);
}

/// Of "<condition> INTERNAL ASSERT FAILED at <file>:<line>, please report a bug to PyTorch. <more>" the
/// condition and what more there is.
std::string without_assert(const std::string& text) {
  constexpr std::string_view kAssert = "INTERNAL ASSERT FAILED at ";
  constexpr std::string_view kRequest = "please report a bug to PyTorch.";
  const std::size_t assert = text.find(kAssert);
  if (assert == std::string::npos) return text;
  const std::string_view condition = trim(std::string_view(text).substr(0, assert));
  const std::size_t request = text.find(kRequest, assert);
  const std::string_view more =
      request == std::string::npos ? "" : trim(std::string_view(text).substr(request + kRequest.size()));
  return to_text("a check inside LibTorch failed", condition.empty() ? "" : ": ", condition,
                 more.empty() ? "" : ": ", more);
}

/// Whether a sentence (in lower case) asks to report something to LibTorch's makers.
bool is_request(std::string_view sentence) {
  if (sentence.find("pytorch") == std::string_view::npos) return false;
  for (const char* verb : {"report", "file", "open", "submit"})
    if (sentence.find(verb) != std::string_view::npos) return true;
  return false;
}

/// Where the sentence that `at` lies in ends: behind its full stop (those of addresses are none) or before
/// the end of the line.
std::size_t end_of_sentence(std::string_view text, std::size_t at) {
  for (; at < text.size() && text[at] != '\n'; ++at)
    if (text[at] == '.' && (at + 1 == text.size() || std::strchr(" \n)", text[at + 1]) != nullptr))
      return at + 1;
  return at;
}

/// The text without "please report an enhancement request to PyTorch" and the like, and without the brackets
/// around it.
std::string without_requests(std::string text) {
  std::size_t from = 0;
  while (true) {
    const std::string lower = lower_ascii(text);
    std::size_t begin = lower.find("please ", from);
    if (begin == std::string::npos) return text;
    std::size_t end = end_of_sentence(lower, begin);
    from = end;
    if (!is_request(std::string_view(lower).substr(begin, end - begin))) continue;
    const std::size_t bracket = lower.rfind('(', begin);
    if (bracket != std::string::npos && lower.find(')', bracket) >= end) {
      begin = bracket;
      if (end < lower.size() && lower[end] == ')') ++end;
    }
    while (begin > 0 && std::strchr(" ,;", text[begin - 1]) != nullptr) --begin;
    text.erase(begin, end - begin);
    from = begin;
  }
}

std::string words_of_libtorch(std::string text) {
  cut_from(text, "\nException raised from ");                                            // The C++ stack.
  cut_from(text, " This could be because the operator doesn't exist for this backend");  // And all backends.
  cut_from(text, "\nC++ CapturedTraceback:");
  if (starts_with(text, "[enforce fail at "))
    if (const std::size_t end = text.find("] "); end != std::string::npos) text.erase(0, end + 2);
  return without_requests(without_assert(std::string(trim(text))));
}

bool tells_of_memory(const std::string& text) {
  for (const char* words :
       {"DefaultCPUAllocator", "not enough memory", "out of memory", "annot allocate memory"})
    if (text.find(words) != std::string::npos) return true;
  return false;
}

}  // namespace

std::string out_of_memory(std::optional<std::uint64_t> bytes) {
  const Held held = held_now();
  std::string text =
      "out of memory: the system refused " + (bytes ? human_bytes(*bytes) : std::string("more"));
  if (held.resident > 0) text += "; this process holds " + human_bytes(held.resident);
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    text += " and has " + human_bytes(held.addresses) + " of at most " + human_bytes(limit.rlim_cur) +
            " of addresses (ulimit -v)";
  return text + "; " + kWhatToLower;
}

void say_out_of_memory() noexcept {
  const Held held = held_now();
  char line[512];
  int size = std::snprintf(line, sizeof line, "bitrain: i/o error: out of memory: the system refused more");
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    size += std::snprintf(line + size, sizeof line - static_cast<std::size_t>(size),
                          "; this process has %llu MiB of at most %llu MiB of addresses (ulimit -v)",
                          static_cast<unsigned long long>(held.addresses >> 20U),
                          static_cast<unsigned long long>(limit.rlim_cur >> 20U));
  size += std::snprintf(line + size, sizeof line - static_cast<std::size_t>(size), "; %s\n", kWhatToLower);
  (void)!write(STDERR_FILENO, line, std::min(static_cast<std::size_t>(size), sizeof line - 1));
}

Failure failure_of(const std::exception& error) {
  if (const auto* own = dynamic_cast<const Error*>(&error)) return {own->kind(), own->what()};
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
      dynamic_cast<const std::length_error*>(&error) != nullptr)
    return {ErrorKind::kIo, out_of_memory()};
  const auto* torch = dynamic_cast<const c10::Error*>(&error);
  const std::string message =
      words_of_libtorch(torch != nullptr ? torch->what_without_backtrace() : error.what());
  if (torch != nullptr && tells_of_memory(message)) {
    if (message.find("CUDA") != std::string::npos)  // It says itself how much there is and who has it.
      return {ErrorKind::kIo,
              "out of memory on the GPU; " + std::string(kWhatToLower) + " (" + message + ")"};
    return {ErrorKind::kIo, out_of_memory() + " (" + message + ")"};
  }
  const auto* system = dynamic_cast<const std::system_error*>(&error);
  if (system != nullptr && system->code() == std::errc::resource_unavailable_try_again)  // std::thread's.
    return {ErrorKind::kIo, "the system refused another thread: " + message +
                                "; lower threads or loader.prefetch_threads, or raise the limit (ulimit -u)"};
  if (system != nullptr) return {ErrorKind::kIo, "the system refused: " + message};
  return {std::nullopt, message};
}

}  // namespace bitrain
