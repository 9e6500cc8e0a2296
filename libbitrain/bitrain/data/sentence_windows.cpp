#include <bitrain/data/sentence_windows.h>

#include <algorithm>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/base/strings.h>
#include <bitrain/text/characters.h>
#include <bitrain/text/utf8.h>

namespace bitrain::data {
namespace {

constexpr std::u32string_view kStops =
    U".!?\u2026\u203C\u2047\u2048\u2049"  // Latin, Greek, Cyrillic.
    U"\u0589\u061F\u06D4\u0964\u0965"     // Armenian, Arabic, Indic.
    U"\u104A\u104B\u1362\u1367\u17D4\u17D5\u0DF4";
constexpr std::u32string_view kWideStops = U"\u3002\uFF01\uFF1F\uFF61";  ///< Of scripts without spaces.
constexpr std::u32string_view kClosers =
    U"\"')]}\u00BB\u2019\u201D\u203A\u300D\u300F\uFF09\u3011\u300B\u3009";

bool is_one_of(std::uint32_t code, std::u32string_view set) {
  return set.find(static_cast<char32_t>(code)) != std::u32string_view::npos;
}

std::uint32_t code_at(std::string_view text, std::size_t at) {
  return text::utf8_at(text, at).code;
}

/// The first place from `at` on whose character is not in `set`.
std::size_t skip(std::string_view text, std::size_t at, std::u32string_view set) {
  while (at < text.size() && is_one_of(code_at(text, at), set)) at += text::utf8_at(text, at).length;
  return at;
}

/// Whether the word that ends before `end` has one letter.
bool is_initial(std::string_view text, std::size_t end) {
  std::size_t begin = end;
  while (begin > 0 && text[begin - 1] != ' ' && text[begin - 1] != '.' && text[begin - 1] != '(') --begin;
  if (begin == end || text::utf8_at(text, begin).length != end - begin) return false;
  return text::class_of(code_at(text, begin)) == text::CharacterClass::kLetter;
}

/// Where the sentence ends that has a stop at `at`; `at` itself when it goes on.
std::size_t end_of_sentence(std::string_view text, std::size_t at) {
  std::size_t end = at;
  bool wide = false;
  while (end < text.size()) {
    const text::Utf8Char c = text::utf8_at(text, end);
    const bool is_wide = is_one_of(c.code, kWideStops);
    if (!is_wide && !is_one_of(c.code, kStops)) break;
    wide = wide || is_wide;
    end += c.length;
  }
  const bool one_full_stop = end == at + 1 && text[at] == '.';
  end = skip(text, end, kClosers);
  if (wide || end == text.size()) return end;
  std::size_t next = end;
  while (next < text.size() && text::class_of(code_at(text, next)) == text::CharacterClass::kSpace)
    next += text::utf8_at(text, next).length;
  if (next == end || (one_full_stop && is_initial(text, at))) return at;
  return next < text.size() && text::is_small_letter(code_at(text, next)) ? at : end;
}

void add_trimmed(std::vector<std::string>& sentences, std::string_view text) {
  if (const std::string_view sentence = trim(text); !sentence.empty()) sentences.emplace_back(sentence);
}

}  // namespace

std::vector<std::string> split_sentences(std::string_view document) {
  const std::string_view text = trim(document);
  const bool lines = text.find_first_of("\r\n") != std::string_view::npos;
  std::vector<std::string> sentences;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const text::Utf8Char c = text::utf8_at(text, at);
    std::size_t end = at;
    if (lines) {
      if (c.code == '\n' || c.code == '\r') end = at + 1;
    } else if (is_one_of(c.code, kStops) || is_one_of(c.code, kWideStops)) {
      end = end_of_sentence(text, at);
    }
    if (end > at) {
      add_trimmed(sentences, text.substr(begin, end - begin));
      begin = end;
    }
    at = std::max<std::size_t>(end, at + c.length);
  }
  add_trimmed(sentences, text.substr(begin));
  return sentences;
}

SentenceWindows::SentenceWindows(const std::vector<std::int64_t>& sentences, std::int64_t window,
                                 std::uint64_t seed)
    : window_(window),
      order_key_(stream_key(seed, "sentence_windows/order")),
      context_key_(stream_key(seed, "sentence_windows/context")) {
  if (window < 1) throw ConfigError("sentence windows: the window must be at least 1, not ", window);
  std::int64_t centres = 0;
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    if (sentences[i] < 0) throw DataError("document ", i, " has ", sentences[i], " sentences");
    if (sentences[i] > 1) {
      centres += sentences[i];
    } else {
      ++skipped_;
    }
    ends_.push_back(centres);
  }
  if (centres == 0) throw DataError("sentence windows: no document has two sentences");
}

WindowPair SentenceWindows::at(std::int64_t sample) const {
  const auto epoch = static_cast<std::uint64_t>(sample / size());
  const auto index = static_cast<std::int64_t>(permute_index(RandomStream(order_key_, epoch).next_u64(),
                                                             static_cast<std::uint64_t>(size()),
                                                             static_cast<std::uint64_t>(sample % size())));
  const auto document = std::upper_bound(ends_.begin(), ends_.end(), index) - ends_.begin();
  const std::int64_t begin = document == 0 ? 0 : ends_[static_cast<std::size_t>(document) - 1];
  const std::int64_t sentence = index - begin;
  const std::int64_t first = std::max<std::int64_t>(0, sentence - window_);
  const std::int64_t after = ends_[static_cast<std::size_t>(document)] - begin - 1 - sentence;
  const std::int64_t last = sentence + std::min(after, window_);
  RandomStream random(RandomStream(context_key_, epoch).next_u64(), static_cast<std::uint64_t>(index));
  // The centre is not drawn: places from it on move by one.
  const std::int64_t drawn =
      first + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(last - first)));
  return {{document, sentence}, {document, drawn < sentence ? drawn : drawn + 1}};
}

}  // namespace bitrain::data
