#include <bitrain/base/format.h>

#include <cstdarg>
#include <cstddef>
#include <cstdio>

namespace bitrain {
namespace {

locale_t classic() {
  static const locale_t locale = newlocale(LC_ALL_MASK, "C", nullptr);
  return locale;
}

}  // namespace

ClassicLocale::ClassicLocale() : previous_(uselocale(classic())) {}

ClassicLocale::~ClassicLocale() {
  uselocale(previous_);
}

std::string format(const char* pattern, ...) {
  const ClassicLocale locale;
  va_list arguments;
  va_start(arguments, pattern);
  va_list again;
  va_copy(again, arguments);
  const int size = std::vsnprintf(nullptr, 0, pattern, arguments);
  va_end(arguments);
  std::string text(size < 0 ? 0 : static_cast<std::size_t>(size), '\0');
  if (size > 0) std::vsnprintf(text.data(), text.size() + 1, pattern, again);
  va_end(again);
  return text;
}

}  // namespace bitrain
