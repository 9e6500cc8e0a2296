#pragma once

#include <locale>
#include <string>

namespace bitrain::test {

/// While it lives, the program's C++ locale writes 1234.5 as "1.234,5". It needs no locale of the system.
class CommaLocale {
 public:
  CommaLocale() : previous_(std::locale::global(std::locale(std::locale::classic(), new Commas))) {}
  ~CommaLocale() { std::locale::global(previous_); }
  CommaLocale(const CommaLocale&) = delete;
  CommaLocale& operator=(const CommaLocale&) = delete;

 private:
  class Commas : public std::numpunct<char> {
   protected:
    [[nodiscard]] char do_decimal_point() const override { return ','; }
    [[nodiscard]] char do_thousands_sep() const override { return '.'; }
    [[nodiscard]] std::string do_grouping() const override { return "\3"; }
  };

  std::locale previous_;
};

}  // namespace bitrain::test
