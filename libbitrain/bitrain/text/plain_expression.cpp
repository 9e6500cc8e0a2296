#include <bitrain/text/plain_expression.h>

#include <algorithm>
#include <cstdint>
#include <optional>

#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

constexpr int kMostNesting = 50;
constexpr int kMostRepeats = 1000;
constexpr std::size_t kMost = 1'000'000;  // Least lengths are counted no further.

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// Pairs of letters that are one character of another spelling where case is ignored ("ß", "ﬆ", "ﬀ"):
/// Oniguruma finds those, PCRE2 does not.
bool joins_when_folded(char first, char second) {
  const auto lower = [](char c) { return static_cast<char>(c | 0x20); };
  const char a = lower(first);
  const char b = lower(second);
  return (a == 's' && (b == 's' || b == 't')) || (a == 'f' && (b == 'f' || b == 'i' || b == 'l'));
}

/// The general categories, which both take from the same tables.
bool is_general_category(std::string_view name) {
  constexpr std::string_view kNames[] = {
      "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "Pc", "Pd",
      "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "C", "Cc", "Cf"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

/// Reads an expression by recursive descent. Each part says the least number of characters that it matches,
/// nothing where it is not plain.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  std::optional<std::size_t> all() {
    const auto least = alternatives(0);
    return at_ == text_.size() ? least : std::nullopt;
  }

 private:
  using Least = std::optional<std::size_t>;

  [[nodiscard]] char peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  bool take(std::string_view what) {
    if (text_.substr(at_, what.size()) != what) return false;
    at_ += what.size();
    return true;
  }

  Least alternatives(int nesting) {
    if (nesting > kMostNesting) return std::nullopt;
    std::size_t least = kMost;
    do {
      const Least one = sequence(nesting);
      if (!one) return std::nullopt;
      least = std::min(least, *one);
    } while (take("|"));
    return least;
  }

  Least sequence(int nesting) {
    std::size_t least = 0;
    folded_before_ = '\0';
    while (at_ < text_.size() && peek() != '|' && peek() != ')') {
      const Least one = piece(nesting);
      if (!one) return std::nullopt;
      least = std::min(kMost, least + *one);
    }
    return least;
  }

  /// An atom and how often.
  Least piece(int nesting) {
    const bool looks = peek() == '(' && peek(1) == '?' && (peek(2) == '=' || peek(2) == '!');
    const Least one = atom(nesting);
    if (!one) return std::nullopt;
    std::size_t times = 1;
    const char sign = peek();
    if (sign == '{') {
      const Least count = interval();
      if (!count) return std::nullopt;
      times = *count;
    } else if (sign == '*' || sign == '+' || sign == '?') {
      ++at_;
      if (peek() == '?' || peek() == '+') ++at_;
      times = sign == '+' ? 1 : 0;
    } else {
      return one;
    }
    // The engines leave loops of nothing in two ways, and read signs one behind another in two ways.
    if (looks || *one == 0 || std::string_view("*+?{").find(peek()) != std::string_view::npos)
      return std::nullopt;
    if (folded_before_ != '\0') folded_before_ = kAnyLetter;
    return std::min(kMost, *one * times);
  }

  /// {n}, {n,} or {n,m}. Behind {n} Oniguruma reads "?" and behind all three "+" as one more repeat.
  Least interval() {
    ++at_;
    const auto low = number();
    if (!low) return std::nullopt;
    bool exact = true;
    if (take(",")) {
      exact = false;
      if (peek() != '}') {
        const auto high = number();
        if (!high || *high < *low) return std::nullopt;
      }
    }
    if (!take("}")) return std::nullopt;
    if (!exact && peek() == '?') ++at_;
    return static_cast<std::size_t>(*low);
  }

  std::optional<int> number() {
    int value = -1;
    for (; peek() >= '0' && peek() <= '9' && value <= kMostRepeats; ++at_)
      value = std::max(value, 0) * 10 + (peek() - '0');
    return value >= 0 && value <= kMostRepeats ? std::optional(value) : std::nullopt;
  }

  Least atom(int nesting) {
    const char c = peek();
    if (c == '(') return group(nesting);
    if (c == '[') return set() ? Least(1) : std::nullopt;
    if (c == '\\') {
      if (folded_) return std::nullopt;
      return escape(false) ? Least(1) : std::nullopt;
    }
    if (std::string_view("^$.]*+?{}").find(c) != std::string_view::npos || c == '\0') return std::nullopt;
    if (folded_ && !fold(c)) return std::nullopt;
    at_ += utf8_at(text_, at_).length;
    return 1;
  }

  /// Whether a literal may stand where case is ignored.
  bool fold(char c) {
    if (static_cast<std::uint8_t>(c) >= 0x80) return false;
    const bool letter = is_letter(c);
    if (letter && folded_before_ == kAnyLetter) return false;
    if (letter && folded_before_ != '\0' && joins_when_folded(folded_before_, c)) return false;
    folded_before_ = letter ? c : '\0';
    return true;
  }

  Least group(int nesting) {
    bool looks = false;
    const bool folded = folded_;
    if (take("(?=") || take("(?!"))
      looks = true;
    else if (take("(?i:"))
      folded_ = true;
    else if (!take("(?:") && !take("(?>")) {
      if (peek(1) == '?' || peek(1) == '*') return std::nullopt;
      ++at_;
    }
    if (folded && folded_before_ != '\0') return std::nullopt;  // What begins inside may join the letter.
    const Least least = alternatives(nesting + 1);
    if (!least || !take(")")) return std::nullopt;
    folded_ = folded;
    folded_before_ = folded ? kAnyLetter : '\0';
    return looks ? 0 : least;
  }

  /// An escape of one character or of a class of characters; of a class that PCRE2 takes in a set too.
  bool escape(bool in_set) {
    const char c = peek(1);
    if (c == 'p' || c == 'P') {
      const std::size_t end = text_.find('}', at_);
      if (peek(2) != '{' || end == std::string_view::npos ||
          !is_general_category(text_.substr(at_ + 3, end - at_ - 3)))
        return false;
      at_ = end + 1;
      return true;
    }
    if (c == '\0' || std::string_view("nrtsdD\\.-[](){}|?*+^$/").find(c) == std::string_view::npos) {
      if (c != 'S' || in_set) return false;
    }
    at_ += 2;
    return true;
  }

  /// [...] of single characters, ranges of them and classes; no set within, no operator.
  bool set() {
    ++at_;
    if (take("^") && folded_) return false;
    if (peek() == ']') return false;
    if (folded_ && folded_before_ != '\0') return false;
    for (bool first = true; peek() != ']'; first = false) {
      if (at_ >= text_.size() || !element(first)) return false;
    }
    ++at_;
    if (folded_) folded_before_ = kAnyLetter;
    return true;
  }

  bool element(bool first) {
    const char c = peek();
    if (c == '[' || c == '\0' || (c == '&' && peek(1) == '&')) return false;
    if (c == '-') {  // Itself at the ends alone.
      if (!first && peek(1) != ']') return false;
      ++at_;
      return !first || peek() != '-';
    }
    if (folded_) {
      ++at_;
      return is_letter(c) && peek() != '-';
    }
    const std::size_t begin = at_;
    if (c == '\\' && std::string_view("sdDpP").find(peek(1)) != std::string_view::npos)
      return escape(true) && (peek() != '-' || peek(1) == ']');
    if (!single()) return false;
    if (peek() != '-' || peek(1) == ']') return true;
    const std::uint32_t low = value(begin);
    ++at_;
    const std::size_t middle = at_;
    if (peek() == '-' || !single() || value(middle) < low) return false;
    return peek() != '-' || peek(1) == ']';
  }

  /// One character of a set, perhaps escaped.
  bool single() {
    const char c = peek();
    if (c == '\\') return std::string_view("sSdDpP").find(peek(1)) == std::string_view::npos && escape(true);
    if (c == '[' || c == '\0' || (c == '&' && peek(1) == '&')) return false;
    at_ += utf8_at(text_, at_).length;
    return true;
  }

  [[nodiscard]] std::uint32_t value(std::size_t at) const {
    if (text_[at] != '\\') return utf8_at(text_, at).code;
    switch (text_[at + 1]) {
      case 'n': return '\n';
      case 'r': return '\r';
      case 't': return '\t';
      default: return static_cast<std::uint8_t>(text_[at + 1]);
    }
  }

  static constexpr char kAnyLetter = '*';

  std::string_view text_;
  std::size_t at_ = 0;
  bool folded_ = false;        // Whether case is ignored here.
  char folded_before_ = '\0';  // There: the letter just before, or that there may be some.
};

}  // namespace

bool is_plain_expression(std::string_view expression) {
  return Reader(expression).all().value_or(0) > 0;
}

}  // namespace bitrain::text
