#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/text/later_characters.h>
#include <bitrain/text/oniguruma.h>

namespace bitrain::text {
namespace {

constexpr int kMostNesting = 100;

/// Copies an expression, knowing sets from what is not in one.
class Rewording {
 public:
  Rewording(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  std::string all() {
    while (at_ < text_.size()) {
      if (text_[at_] == '\\')
        escape();
      else if (text_[at_] == '[')
        open_set();
      else if (text_[at_] == ']' && sets_ > 0)
        close_set();
      else if (text_[at_] == '(' && sets_ == 0)
        group();
      else if (text_[at_] == ')' && sets_ == 0)
        close_group();
      else
        keep(1);
    }
    if (extended_ && text_.find('#') != std::string_view::npos) refuse("comments of the extended mode");
    if (ascii_ && reworded_) refuse("classes of words or punctuation where an option makes them ASCII");
    return std::move(result_);
  }

 private:
  [[noreturn]] void refuse(std::string_view construct) const {
    throw UnsupportedError(where_, ": the expression '", text_, "' has ", construct,
                           ", which is not supported");
  }
  void keep(std::size_t count) {
    result_ += text_.substr(at_, count);
    at_ += count;
  }
  void put(std::string_view words, std::size_t count) {
    result_ += words;
    at_ += count;
  }
  [[nodiscard]] bool is_next(std::string_view what) const { return text_.substr(at_, what.size()) == what; }

  void escape() {
    if (at_ + 1 == text_.size()) return keep(1);
    const char c = text_[at_ + 1];
    if (sets_ == 0) {
      // Behind a position, \R is found in some versions and not in others.
      if (c == 'R' && std::find(looks_behind_.begin(), looks_behind_.end(), true) != looks_behind_.end())
        refuse("'\\R' in a lookbehind");
      // Repeats of \R find too little in versions up to 6.9.8.
      if (c == 'R') return put(R"((?>\x0D\x0A|[\x0A-\x0D\x{85}\x{2028}\x{2029}]))", 2);
      if (std::string_view("gGKyYX").find(c) != std::string_view::npos) refuse(to_text("'\\", c, "'"));
    }
    if (std::string_view("cCM").find(c) != std::string_view::npos)
      refuse("the escape of a control character");
    if (c == 'p' || c == 'P') return property(c == 'P');
    keep(2);
  }

  void property(bool negated) {
    if (at_ + 2 == text_.size() || text_[at_ + 2] != '{') refuse("a property without braces");
    const std::size_t end = text_.find('}', at_);
    if (end == std::string_view::npos) refuse("a property without an end");
    std::string_view inside = text_.substr(at_ + 3, end - at_ - 3);
    if (!inside.empty() && inside[0] == '^') {
      negated = !negated;
      inside.remove_prefix(1);
    }
    const std::string name = plain_property_name(inside);
    const std::size_t length = end + 1 - at_;
    // Versions up to 6.9.8 know six characters less by this name than by the other.
    if (name == "word") {
      reworded_ = true;
      return put(negated ? "\\W" : "\\w", length);
    }
    if (!is_known_property(name)) refuse(to_text("the property '", inside, "'"));
    keep(length);
  }

  void open_set() {
    if (sets_ > 0 && is_next("[:")) return posix_class();
    if (++sets_ > kMostNesting) refuse("sets nested too deeply");
    keep(1);
    if (is_next("^")) keep(1);
    if (is_next("]")) keep(1);  // The first of a set is itself.
  }

  void posix_class() {
    const std::size_t end = text_.find(":]", at_);
    std::string_view name = text_.substr(at_ + 2, end == std::string_view::npos ? 0 : end - at_ - 2);
    const bool negated = !name.empty() && name[0] == '^';
    if (negated) name.remove_prefix(1);
    constexpr std::string_view kNames[] = {"alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph",
                                           "lower", "print", "punct", "space", "upper", "word",  "xdigit"};
    if (std::find(std::begin(kNames), std::end(kNames), name) == std::end(kNames))
      refuse("'[:' in a set without the name of a class behind");
    const std::size_t length = end + 2 - at_;
    if (name != "punct") return keep(length);
    reworded_ = true;  // Versions up to 6.9.8 leave the symbols out.
    put(negated ? R"([^\p{P}\p{S}])" : R"(\p{P}\p{S})", length);
  }

  void close_set() {
    --sets_;
    keep(1);
  }

  void group() {
    if (is_next("(*") || is_next("(?{")) refuse("a callout");
    if (is_next("(?(")) refuse("a condition");
    if (is_next("(?#")) {  // A comment has no sets.
      std::size_t end = at_;
      while (end < text_.size() && text_[end] != ')') end += text_[end] == '\\' ? 2 : 1;
      return keep(std::min(end + 1, text_.size()) - at_);
    }
    std::size_t end = at_ + 2;
    if (is_next("(?")) {
      while (end < text_.size() && (is_letter(text_[end]) || text_[end] == '-')) ++end;
      const std::string_view options = text_.substr(at_ + 2, end - at_ - 2);
      const std::size_t odd = options.find_first_not_of("imxWDSP-");
      if (odd != std::string_view::npos) refuse(to_text("the option '", options[odd], "'"));
      extended_ = extended_ || options.find('x') != std::string_view::npos;
      ascii_ = ascii_ || options.find_first_of("WDSP") != std::string_view::npos;
    }
    if (++groups_ > kMostGroups) refuse("too many groups");
    looks_behind_.push_back(is_next("(?<=") || is_next("(?<!"));
    keep(1);
  }

  void close_group() {
    if (!looks_behind_.empty()) looks_behind_.pop_back();
    keep(1);
  }

  static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

  static constexpr int kMostGroups = 400;

  std::string_view text_;
  const std::string& where_;
  std::string result_;
  std::size_t at_ = 0;
  int sets_ = 0;
  int groups_ = 0;
  std::vector<bool> looks_behind_;  // Of the groups that are open here.
  bool extended_ = false;
  bool ascii_ = false;
  bool reworded_ = false;
};

}  // namespace

std::string in_words_of_all_versions(std::string_view expression, const std::string& where) {
  return Rewording(expression, where).all();
}

}  // namespace bitrain::text
