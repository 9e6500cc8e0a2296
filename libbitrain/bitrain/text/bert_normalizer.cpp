#include <bitrain/text/bert_normalizer.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include <bitrain/text/characters.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/normal_forms.h>
#include <bitrain/text/unicode8.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

bool is_ideograph(std::uint32_t code) {
  return (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0x3400 && code <= 0x4DBF) ||
         (code >= 0x20000 && code <= 0x2A6DF) || (code >= 0x2A700 && code <= 0x2B81F) ||
         (code >= 0x2B920 && code <= 0x2CEAF) ||  // As in `tokenizers`, where the block begins late.
         (code >= 0xF900 && code <= 0xFAFF) || (code >= 0x2F800 && code <= 0x2FA1F);
}

/// A character and the bytes of the text it comes from.
struct Character {
  std::uint32_t code = 0;
  std::size_t begin = 0;
  std::size_t end = 0;
};
using Run = std::vector<Character>;

/// Canonical decomposition. What comes out is aligned, in its order, with the characters that went in; only
/// the further characters of a decomposition take no new one.
void decompose(Run& run) {
  struct Piece {
    std::uint32_t code;
    std::int32_t order;  // Combining class.
    bool further;
  };
  thread_local std::vector<Piece> pieces;
  pieces.clear();
  for (const Character& c : run) {
    std::uint32_t codes[32];
    const std::size_t count = text::decompose(c.code, false, codes);
    for (std::size_t i = 0; i < count; ++i) pieces.push_back({codes[i], combining_class(codes[i]), i > 0});
  }
  for (auto begin = pieces.begin(); begin != pieces.end();) {
    if (begin->order == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, pieces.end(), [](const Piece& p) { return p.order == 0; });
    std::stable_sort(begin, end, [](const Piece& a, const Piece& b) { return a.order < b.order; });
    begin = end;
  }
  thread_local Run result;
  result.clear();
  std::size_t next = 0;
  for (const Piece& piece : pieces) {
    if (!piece.further) ++next;
    const Character& from = run[next == 0 ? 0 : next - 1];
    result.push_back({piece.code, from.begin, from.end});
  }
  run.swap(result);
}

class BertNormalizer : public Normalizer {
 public:
  BertNormalizer(const io::Json& json, const std::string& where)
      : clean_(field<bool>(json, "clean_text", where)),
        ideographs_(field<bool>(json, "handle_chinese_chars", where)),
        lower_(field<bool>(json, "lowercase", where)),
        strip_(optional_field<bool>(json, "strip_accents", where).value_or(lower_)) {}

  /// ASCII is done byte by byte; other characters in runs, for no step looks across an ASCII
  /// character that stays.
  void apply(AlignedText& text) const override {
    AlignedText result;
    result.tracked = text.tracked;
    result.first_bytes = text.bytes_at_first();
    result.text.reserve(text.text.size() + 8);
    if (text.tracked) result.origin.reserve(text.text.size() + 8);
    thread_local Run run;
    for (std::size_t at = 0; at < text.text.size();) {
      const auto byte = static_cast<std::uint8_t>(text.text[at]);
      if (byte < 0x80) {
        if (const std::uint32_t code = mapped_ascii(byte); code != kDropped) {
          result.text += static_cast<char>(code);
          if (text.tracked) result.origin.push_back(text.origin[at]);
        }
        ++at;
        continue;
      }
      run.clear();
      for (; at < text.text.size(); ++at) {
        const auto next = static_cast<std::uint8_t>(text.text[at]);
        if (next < 0x80) {
          if (mapped_ascii(next) == kDropped) continue;  // Leaves neighbours that may change each other.
          break;
        }
        const Utf8Char c = utf8_at(text.text, at);
        run.push_back({c.code, at, at + c.length});
        at += c.length - 1;
      }
      normalize(run);
      for (const Character& c : run) {
        append_utf8(result.text, c.code);
        if (text.tracked) result.origin.resize(result.text.size(), text.origin_of(c.begin, c.end));
      }
    }
    text = std::move(result);
  }

 private:
  static constexpr std::uint32_t kDropped = ~0U;

  [[nodiscard]] std::uint32_t mapped_ascii(std::uint8_t byte) const {
    if (clean_ && (byte < 0x20 || byte == 0x7F))
      return byte == '\t' || byte == '\n' || byte == '\r' ? ' ' : kDropped;
    return lower_ ? lower_case(byte) : byte;
  }

  void normalize(Run& run) const {
    if (clean_) {
      run.erase(
          std::remove_if(run.begin(), run.end(),
                         [](const Character& c) { return c.code == 0xFFFD || unicode8::is_other(c.code); }),
          run.end());
      for (Character& c : run) {
        if (class_of(c.code) == CharacterClass::kSpace) c.code = ' ';
      }
    }
    if (ideographs_ &&
        std::any_of(run.begin(), run.end(), [](const Character& c) { return is_ideograph(c.code); }))
      separate_ideographs(run);
    if (strip_) {
      decompose(run);
      run.erase(std::remove_if(run.begin(), run.end(),
                               [](const Character& c) { return unicode8::is_nonspacing_mark(c.code); }),
                run.end());
    }
    if (lower_) lower(run);
  }

  static void separate_ideographs(Run& run) {
    Run result;
    result.reserve(run.size() * 3);
    for (const Character& c : run) {
      const Character blank{' ', c.begin, c.end};
      if (is_ideograph(c.code))
        result.insert(result.end(), {blank, c, blank});
      else
        result.push_back(c);
    }
    run = std::move(result);
  }

  static void lower(Run& run) {
    constexpr std::uint32_t kDottedCapitalI = 0x130;
    for (Character& c : run) {
      if (c.code != kDottedCapitalI) c.code = lower_case(c.code);
    }
    if (std::none_of(run.begin(), run.end(), [](const Character& c) { return c.code == kDottedCapitalI; }))
      return;
    Run result;
    result.reserve(run.size() + 8);
    for (const Character& c : run) {
      if (c.code == kDottedCapitalI)
        result.insert(result.end(), {{'i', c.begin, c.end}, {0x307, c.begin, c.end}});
      else
        result.push_back(c);
    }
    run = std::move(result);
  }

  bool clean_, ideographs_, lower_, strip_;
};

}  // namespace

std::unique_ptr<const Normalizer> make_bert_normalizer(const io::Json& json, const std::string& where) {
  return std::make_unique<BertNormalizer>(json, where);
}

}  // namespace bitrain::text
