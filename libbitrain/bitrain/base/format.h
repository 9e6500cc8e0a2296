#pragma once

#include <locale>
#include <sstream>
#include <string>
#include <utility>

#include <locale.h>

namespace bitrain {

/// While it lives, what this thread reads and writes by the C library has a decimal point, whatever locale
/// the program has set; other threads do not notice.
class ClassicLocale {
 public:
  ClassicLocale();
  ~ClassicLocale();
  ClassicLocale(const ClassicLocale&) = delete;
  ClassicLocale& operator=(const ClassicLocale&) = delete;

 private:
  locale_t previous_;
};

/// As std::printf writes in the C locale: programs that bitrain is a library of may have set one with a
/// decimal comma.
[[nodiscard]] std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));

/// The parts one after the other, as streams write them in the classic locale: no decimal comma and no
/// thousands separators, whatever the program's global locale says.
template <class... Parts>
[[nodiscard]] std::string to_text(const Parts&... parts) {
  std::ostringstream stream;
  stream.imbue(std::locale::classic());
  (stream << ... << parts);
  return std::move(stream).str();
}

}  // namespace bitrain
