#include <bitrain/text/hf_pre_tokenizer.h>

#include <algorithm>
#include <functional>

#include <bitrain/base/error.h>
#include <bitrain/text/byte_characters.h>
#include <bitrain/text/characters.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/later_characters.h>
#include <bitrain/text/pattern.h>
#include <bitrain/text/unicode8.h>
#include <bitrain/text/unicode_scripts.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

using Range = std::pair<std::size_t, std::size_t>;

/// What becomes of the matches that cut a word.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior behavior_of(const std::string& name, const std::string& where) {
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  throw UnsupportedError(where, ": the behavior '", name, "' is not supported");
}

/// A stretch of a word that is a match or what lies between.
struct Stretch {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool match = false;
};

void cut(const std::vector<Stretch>& stretches, Behavior behavior, std::vector<Range>& ranges) {
  const std::size_t first = ranges.size();
  const auto extend_or_add = [&](const Stretch& stretch, bool extend) {
    if (extend && ranges.size() > first)
      ranges.back().second = stretch.end;
    else
      ranges.emplace_back(stretch.begin, stretch.end);
  };
  bool previous = false;
  for (const Stretch& stretch : stretches) {
    switch (behavior) {
      case Behavior::kRemoved:
        if (!stretch.match) ranges.emplace_back(stretch.begin, stretch.end);
        break;
      case Behavior::kIsolated: ranges.emplace_back(stretch.begin, stretch.end); break;
      case Behavior::kContiguous: extend_or_add(stretch, stretch.match == previous); break;
      case Behavior::kMergedWithPrevious: extend_or_add(stretch, stretch.match && !previous); break;
      case Behavior::kMergedWithNext: extend_or_add(stretch, previous && !stretch.match); break;
    }
    previous = stretch.match;
  }
}

/// Cuts every word where `find` says; `find` appends matches in a text, from left to right.
using Finder = std::function<void(std::string_view text, std::vector<Range>& matches)>;

void split_words(Words& words, const Finder& find, Behavior behavior, bool invert) {
  std::vector<Range> ranges;
  std::vector<Range> matches;
  std::vector<Stretch> stretches;
  for (const auto& [begin, end] : words.ranges) {
    matches.clear();
    stretches.clear();
    find(words.text.view().substr(begin, end - begin), matches);
    std::size_t at = begin;
    for (const auto& [from, to] : matches) {
      if (begin + from > at) stretches.push_back({at, begin + from, invert});
      stretches.push_back({begin + from, begin + to, !invert});
      at = begin + to;
    }
    if (at < end) stretches.push_back({at, end, invert});
    cut(stretches, behavior, ranges);
  }
  // An empty match cuts, but is no word.
  ranges.erase(
      std::remove_if(ranges.begin(), ranges.end(), [](const Range& r) { return r.first == r.second; }),
      ranges.end());
  words.ranges = std::move(ranges);
}

class Split : public PreTokenizer {
 public:
  Split(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void apply(Words& words) const override {
    split_words(
        words,
        [this](std::string_view text, std::vector<Range>& matches) { pattern_.find_all(text, matches); },
        behavior_, invert_);
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

/// Cuts at single characters.
class SplitCharacters : public PreTokenizer {
 public:
  using Test = std::function<bool(std::uint32_t)>;
  SplitCharacters(Test test, Behavior behavior) : test_(std::move(test)), behavior_(behavior) {}
  void apply(Words& words) const override {
    const auto find = [this](std::string_view text, std::vector<Range>& matches) {
      for (std::size_t at = 0; at < text.size();) {
        const Utf8Char c = utf8_at(text, at);
        if (test_(c.code)) matches.emplace_back(at, at + c.length);
        at += c.length;
      }
    };
    split_words(words, find, behavior_, false);
  }

 private:
  Test test_;
  Behavior behavior_;
};

bool is_space(std::uint32_t code) {
  return class_of(code) == CharacterClass::kSpace;
}
/// Of Unicode 17, as Rust has them.
bool is_number(std::uint32_t code) {
  return class_of(stand_in_of(code)) == CharacterClass::kDigit || (code >= 0x11DE0 && code <= 0x11DE9) ||
         (code >= 0x16FF4 && code <= 0x16FF6);
}

/// Rewrites each word into a new text.
template <class Rewrite>
void rewrite_words(Words& words, Rewrite&& rewrite) {
  Rewriter rewriter(words.text);
  std::vector<Range> ranges;
  for (const auto& [begin, end] : words.ranges) {
    const std::size_t from = rewriter.size();
    rewrite(rewriter, begin, end);
    ranges.emplace_back(from, rewriter.size());
  }
  words.text = rewriter.take();
  words.ranges = std::move(ranges);
}

/// Before the model alone it leaves the bytes as they are; other steps see the characters that stand for
/// them.
class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool prefix, bool use_regex, bool is_last, const std::string& where)
      : prefix_(prefix), is_last_(is_last) {
    if (use_regex)
      pattern_ = std::make_unique<Pattern>(
          std::string(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"),
          where);
  }
  [[nodiscard]] bool byte_level() const override { return is_last_; }
  void apply(Words& words) const override {
    if (prefix_) {
      rewrite_words(words, [&](Rewriter& rewriter, std::size_t begin, std::size_t end) {
        if (words.text.text[begin] != ' ') rewriter.put(" ", begin, begin);
        rewriter.keep(begin, end);
      });
    }
    if (pattern_ != nullptr) {
      split_words(
          words,
          [this](std::string_view text, std::vector<Range>& matches) { pattern_->find_all(text, matches); },
          Behavior::kIsolated, false);
    }
    if (is_last_) return;
    rewrite_words(words, [&](Rewriter& rewriter, std::size_t begin, std::size_t end) {
      put_byte_characters(rewriter, words.text.view(), begin, end);
    });
  }

 private:
  bool prefix_;
  bool is_last_;
  std::unique_ptr<Pattern> pattern_;
};

class Metaspace : public PreTokenizer {
 public:
  enum class Scheme { kFirst, kAlways, kNever };
  Metaspace(std::string mark, Scheme scheme, bool split)
      : mark_(std::move(mark)), scheme_(scheme), split_(split) {}
  [[nodiscard]] bool needs_start() const override { return scheme_ == Scheme::kFirst; }
  void apply(Words& words) const override {
    rewrite_words(words, [&](Rewriter& rewriter, std::size_t begin, std::size_t end) {
      const bool first = words.at_start && words.text.origin[begin].begin == 0;
      const std::string_view word = words.text.view().substr(begin, end - begin);
      const bool marked = word.front() == ' ' || word.substr(0, mark_.size()) == mark_;
      if (!marked && (scheme_ == Scheme::kAlways || (scheme_ == Scheme::kFirst && first)))
        rewriter.put(mark_, begin, begin + utf8_at(word, 0).length);  // Stands where the word begins.
      std::size_t at = begin;
      for (std::size_t space = word.find(' '); space != std::string_view::npos;
           space = word.find(' ', space + 1)) {
        rewriter.keep(at, begin + space);
        rewriter.put(mark_, begin + space, begin + space + 1);
        at = begin + space + 1;
      }
      rewriter.keep(at, end);
    });
    if (!split_) return;
    const auto find = [this](std::string_view text, std::vector<Range>& matches) {
      for (std::size_t at = text.find(mark_); at != std::string_view::npos;
           at = text.find(mark_, at + mark_.size()))
        matches.emplace_back(at, at + mark_.size());
    };
    split_words(words, find, Behavior::kMergedWithNext, false);
  }

 private:
  std::string mark_;
  Scheme scheme_;
  bool split_;
};

/// Cuts at white space, and punctuation into words of its own.
class Bert : public PreTokenizer {
 public:
  void apply(Words& words) const override {
    std::vector<Range> ranges;
    for (const auto& [begin, end] : words.ranges) {
      std::size_t from = begin;
      for (std::size_t at = begin; at < end;) {
        const Utf8Char c = utf8_at(words.text.text, at);
        const bool space = is_space(c.code);
        if (space || unicode8::is_punctuation(c.code)) {
          if (at > from) ranges.emplace_back(from, at);
          from = at + c.length;
          if (!space) ranges.emplace_back(at, from);
        }
        at += c.length;
      }
      if (end > from) ranges.emplace_back(from, end);
    }
    words.ranges = std::move(ranges);
  }
};

/// Cuts where the script changes. What stands before the first character of a script is lost, as it is in
/// `tokenizers`.
class UnicodeScripts : public PreTokenizer {
 public:
  void apply(Words& words) const override {
    std::vector<Range> ranges;
    for (const auto& [begin, end] : words.ranges) {
      std::size_t from = end;
      int last = -1;
      for (std::size_t at = begin; at < end;) {
        const Utf8Char c = utf8_at(words.text.text, at);
        const int script = script_of(c.code);
        if (script >= 0 && script != last) {
          if (last >= 0) ranges.emplace_back(from, at);
          from = at;
          last = script;
        }
        at += c.length;
      }
      if (last >= 0) ranges.emplace_back(from, end);
    }
    words.ranges = std::move(ranges);
  }
};

/// Cuts behind every so many characters.
class FixedLength : public PreTokenizer {
 public:
  explicit FixedLength(std::int64_t length) : length_(length) {}
  void apply(Words& words) const override {
    std::vector<Range> ranges;
    for (const auto& [begin, end] : words.ranges) {
      std::size_t from = begin;
      std::int64_t count = 0;
      for (std::size_t at = begin; at < end;) {
        at += utf8_at(words.text.text, at).length;
        if (++count < length_ && at < end) continue;
        ranges.emplace_back(from, at);
        from = at;
        count = 0;
      }
    }
    words.ranges = std::move(ranges);
  }

 private:
  std::int64_t length_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<const PreTokenizer>> steps) : steps_(std::move(steps)) {}
  [[nodiscard]] bool byte_level() const override { return !steps_.empty() && steps_.back()->byte_level(); }
  [[nodiscard]] bool needs_start() const override {
    return std::any_of(steps_.begin(), steps_.end(), [](const auto& step) { return step->needs_start(); });
  }
  void apply(Words& words) const override {
    for (const auto& step : steps_) step->apply(words);
  }

 private:
  std::vector<std::unique_ptr<const PreTokenizer>> steps_;
};

std::unique_ptr<const PreTokenizer> make_metaspace(const io::Json& json, const std::string& place) {
  auto mark = optional_field<std::string>(json, "replacement", place).value_or(std::string(kSpaceMark));
  if (mark.empty()) throw FormatError(place, ": 'replacement' is empty");
  Metaspace::Scheme scheme = Metaspace::Scheme::kAlways;
  if (const auto name = optional_field<std::string>(json, "prepend_scheme", place)) {
    if (*name == "first")
      scheme = Metaspace::Scheme::kFirst;
    else if (*name == "never")
      scheme = Metaspace::Scheme::kNever;
    else if (*name != "always")
      throw UnsupportedError(place, ": the prepend_scheme '", *name, "' is not supported");
  } else if (!optional_field<bool>(json, "add_prefix_space", place).value_or(true)) {
    scheme = Metaspace::Scheme::kNever;
  }
  return std::make_unique<Metaspace>(std::move(mark), scheme,
                                     optional_field<bool>(json, "split", place).value_or(true));
}

std::unique_ptr<const PreTokenizer> make(const io::Json& json, const std::string& where, bool is_last);

std::unique_ptr<const PreTokenizer> make_sequence(const io::Json& json, const std::string& place,
                                                  const std::string& where, bool is_last) {
  const io::Json& list = member(json, "pretokenizers", place);
  if (!list.is_array()) throw FormatError(place, ": 'pretokenizers' is not a list");
  std::vector<std::unique_ptr<const PreTokenizer>> steps;
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (auto made = make(list[i], where, is_last && i + 1 == list.size())) steps.push_back(std::move(made));
  }
  return std::make_unique<Sequence>(std::move(steps));
}

std::unique_ptr<const PreTokenizer> make_splitting(const io::Json& json, const std::string& type,
                                                   const std::string& place) {
  if (type == "Split")
    return std::make_unique<Split>(Pattern(member(json, "pattern", place), place),
                                   behavior_of(field<std::string>(json, "behavior", place), place),
                                   optional_field<bool>(json, "invert", place).value_or(false));
  if (type == "Whitespace") {
    // "\w+|[^\w\s]+", with \w as Rust's expressions have it.
    const std::string word = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control})";
    return std::make_unique<Split>(Pattern::for_pcre2("[" + word + "]+|[^" + word + R"(\s]+)", place),
                                   Behavior::kRemoved, true);
  }
  if (type == "WhitespaceSplit") return std::make_unique<SplitCharacters>(is_space, Behavior::kRemoved);
  if (type == "Digits")
    return std::make_unique<SplitCharacters>(
        is_number, optional_field<bool>(json, "individual_digits", place).value_or(false)
                       ? Behavior::kIsolated
                       : Behavior::kContiguous);
  if (type == "Punctuation")
    return std::make_unique<SplitCharacters>(
        unicode8::is_punctuation,
        behavior_of(optional_field<std::string>(json, "behavior", place).value_or("Isolated"), place));
  if (type == "CharDelimiterSplit") {
    const auto delimiter = field<std::string>(json, "delimiter", place);
    if (delimiter.empty() || utf8_length(delimiter) != 1)
      throw FormatError(place, ": the delimiter '", delimiter, "' is not one character");
    const std::uint32_t code = utf8_at(delimiter, 0).code;
    return std::make_unique<SplitCharacters>([code](std::uint32_t c) { return c == code; },
                                             Behavior::kRemoved);
  }
  if (type == "FixedLength") {
    const auto length = optional_field<std::int64_t>(json, "length", place).value_or(5);
    if (length < 1) throw FormatError(place, ": 'length' is ", length, ", not at least 1");
    return std::make_unique<FixedLength>(length);
  }
  throw UnsupportedError(place, ": the type '", type, "' is not supported");
}

std::unique_ptr<const PreTokenizer> make(const io::Json& json, const std::string& where, bool is_last) {
  if (json.is_null()) return nullptr;
  const std::string place = where + ": pre_tokenizer";
  const auto type = field<std::string>(json, "type", place);
  if (type == "ByteLevel")
    return std::make_unique<ByteLevel>(optional_field<bool>(json, "add_prefix_space", place).value_or(true),
                                       optional_field<bool>(json, "use_regex", place).value_or(true), is_last,
                                       place);
  if (type == "Metaspace") return make_metaspace(json, place);
  if (type == "BertPreTokenizer") return std::make_unique<Bert>();
  if (type == "UnicodeScripts") return std::make_unique<UnicodeScripts>();
  if (type == "Sequence") return make_sequence(json, place, where, is_last);
  return make_splitting(json, type, place);
}

}  // namespace

std::unique_ptr<const PreTokenizer> make_pre_tokenizer(const io::Json& json, const std::string& where) {
  return make(json, where, true);
}

}  // namespace bitrain::text
