#include <bitrain/text/normal_forms.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include <utf8proc.h>

#include <bitrain/text/characters.h>
#include <bitrain/text/unicode8.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

/// Characters whose decomposition is newer than what `tokenizers` knows.
bool decomposes_since_unicode_13(std::uint32_t code) {
  constexpr std::uint32_t kCodes[] = {0x105C9, 0x105E4, 0x11383, 0x11385, 0x1138E,
                                      0x11391, 0x113C5, 0x113C7, 0x113C8, 0x11938};
  return code >= 0x105C9 && ((code >= 0x16121 && code <= 0x16128) || (code >= 0x16D68 && code <= 0x16D6A) ||
                             std::find(std::begin(kCodes), std::end(kCodes), code) != std::end(kCodes));
}

/// The same for decompositions of compatibility.
bool is_compatible_since_unicode_12(std::uint32_t code) {
  constexpr std::pair<std::uint32_t, std::uint32_t> kRanges[] = {
      {0x32FF, 0x32FF},   {0xA7F1, 0xA7F4},   {0xAB69, 0xAB69},   {0x10781, 0x107BA},
      {0x1CCD6, 0x1CCF9}, {0x1E030, 0x1E06D}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9},
  };
  return code >= 0x32FF && std::any_of(std::begin(kRanges), std::end(kRanges), [code](const auto& range) {
           return range.first <= code && code <= range.second;
         });
}

struct Piece {
  std::uint32_t code = 0;
  std::int32_t order = 0;  // Combining class.
};
using Run = std::vector<Piece>;

/// Whether a character may be composed with, or sorted before, what stands in front of it.
bool joins_previous(const Piece& piece) {
  return piece.order != 0 || (piece.code >= 0x1160 && piece.code <= 0x11FF) ||
         (piece.code >= 0x300 && class_of(piece.code) == CharacterClass::kMark);
}

/// utf8proc sorts by insertion, which is quadratic in runs of thousands.
void sort_marks(Run& run) {
  for (auto begin = run.begin(); begin != run.end();) {
    if (begin->order == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, run.end(), [](const Piece& p) { return p.order == 0; });
    std::stable_sort(begin, end, [](const Piece& a, const Piece& b) { return a.order < b.order; });
    begin = end;
  }
}

/// Makes one character of two, where there is one.
bool compose(std::uint32_t& first, std::uint32_t second) {
  utf8proc_int32_t pair[2] = {static_cast<utf8proc_int32_t>(first), static_cast<utf8proc_int32_t>(second)};
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  if (utf8proc_normalize_utf32(pair, 2, options) != 1) return false;
  if (decomposes_since_unicode_13(static_cast<std::uint32_t>(pair[0]))) return false;
  first = static_cast<std::uint32_t>(pair[0]);
  return true;
}

void compose(Run& run) {
  constexpr std::size_t kNone = ~std::size_t{0};
  std::size_t starter = kNone;
  std::int32_t last = -1;  // The order of what stands before, from the starter on.
  std::size_t size = 0;
  for (const Piece piece : run) {
    if (starter != kNone && last < piece.order && compose(run[starter].code, piece.code)) continue;
    if (piece.order == 0) {
      starter = size;
      last = -1;
    } else {
      last = piece.order;
    }
    run[size++] = piece;
  }
  run.resize(size);
}

}  // namespace

std::int32_t combining_class(std::uint32_t code) {
  return unicode8::is_reordered(code)
             ? utf8proc_get_property(static_cast<utf8proc_int32_t>(code))->combining_class
             : 0;
}

std::size_t decompose(std::uint32_t code, bool compatible, std::uint32_t (&codes)[32]) {
  codes[0] = code;
  if (code < 0xA0 || decomposes_since_unicode_13(code) ||
      (compatible && is_compatible_since_unicode_12(code)))
    return 1;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compatible ? UTF8PROC_COMPAT : 0));
  utf8proc_int32_t pieces[32];
  int boundary = 0;
  const auto count =
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), pieces, 32, options, &boundary);
  if (count < 1 || count > 32) return 1;
  std::copy_n(pieces, count, codes);
  return static_cast<std::size_t>(count);
}

void NormalForm::apply(AlignedText& text) const {
  if (std::all_of(text.text.begin(), text.text.end(),
                  [](char c) { return static_cast<std::uint8_t>(c) < 0x80; }))
    return;
  Rewriter rewriter(text);
  thread_local Run run;
  thread_local std::string form;
  run.clear();
  std::size_t begin = 0;
  const auto end_run = [&](std::size_t end) {
    if (run.size() > 1) sort_marks(run);
    if (run.size() > 1 && compose) text::compose(run);
    form.clear();
    for (const Piece& piece : run) append_utf8(form, piece.code);
    if (form == text.view().substr(begin, end - begin))
      rewriter.keep(begin, end);
    else
      rewriter.put(form, begin, end);
    run.clear();
    begin = end;
  };
  for (std::size_t at = 0; at < text.text.size();) {
    const auto plain = [&](std::size_t i) {
      return i < text.text.size() && static_cast<std::uint8_t>(text.text[i]) < 0x80;
    };
    if (plain(at) && plain(at + 1)) {  // The last may have marks behind it.
      if (at > begin) end_run(at);
      while (plain(at + 1)) ++at;
      rewriter.keep(begin, at);
      begin = at;
    }
    const Utf8Char c = utf8_at(text.text, at);
    std::uint32_t codes[32];
    const std::size_t count = decompose(c.code, compatible, codes);
    for (std::size_t i = 0; i < count; ++i) {
      const Piece piece{codes[i], combining_class(codes[i])};
      if (i == 0 && at > begin && !joins_previous(piece)) end_run(at);
      run.push_back(piece);
    }
    at += c.length;
  }
  if (!run.empty()) end_run(text.text.size());
  text = rewriter.take();
}

}  // namespace bitrain::text
