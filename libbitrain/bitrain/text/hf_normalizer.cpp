#include <bitrain/text/hf_normalizer.h>

#include <algorithm>
#include <utility>
#include <vector>

#include <utf8proc.h>

#include <bitrain/base/error.h>
#include <bitrain/text/base64.h>
#include <bitrain/text/bert_normalizer.h>
#include <bitrain/text/byte_characters.h>
#include <bitrain/text/characters.h>
#include <bitrain/text/charsmap.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/normal_forms.h>
#include <bitrain/text/pattern.h>
#include <bitrain/text/unicode8.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

/// Marks that utf8proc may not know yet, of those short enough to matter to Precompiled.
bool extends_since_unicode_16(std::uint32_t code) {
  return code == 0x897 || (code >= 0x1ACF && code <= 0x1ADD) || (code >= 0x1AE0 && code <= 0x1AEB);
}

bool breaks_after(std::uint32_t code) {
  switch (utf8proc_get_property(static_cast<utf8proc_int32_t>(code))->boundclass) {
    case UTF8PROC_BOUNDCLASS_CR:
    case UTF8PROC_BOUNDCLASS_LF:
    case UTF8PROC_BOUNDCLASS_CONTROL: return true;
    default: return false;
  }
}

class Unicode : public Normalizer {
 public:
  explicit Unicode(NormalForm form) : form_(form) {}
  void apply(AlignedText& text) const override { form_.apply(text); }

 private:
  NormalForm form_;
};

class Lowercase : public Normalizer {
 public:
  void apply(AlignedText& text) const override {
    Rewriter rewriter(text);
    for (std::size_t at = 0; at < text.text.size();) {
      const Utf8Char c = utf8_at(text.text, at);
      std::string lower;
      if (c.code == 0x130)
        lower = "i\xCC\x87";
      else
        append_utf8(lower, lower_case(c.code));
      rewriter.put(lower, at, at + c.length);
      at += c.length;
    }
    text = rewriter.take();
  }
};

class StripAccents : public Normalizer {
 public:
  void apply(AlignedText& text) const override {
    Rewriter rewriter(text);
    for (std::size_t at = 0; at < text.text.size();) {
      const Utf8Char c = utf8_at(text.text, at);
      if (!unicode8::is_mark(c.code)) rewriter.keep(at, at + c.length);
      at += c.length;
    }
    text = rewriter.take();
  }
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(AlignedText& text) const override {
    std::size_t begin = text.text.size();
    std::size_t end = 0;
    for (std::size_t at = 0; at < text.text.size();) {
      const Utf8Char c = utf8_at(text.text, at);
      if (class_of(c.code) != CharacterClass::kSpace) {
        begin = std::min(begin, at);
        end = at + c.length;
      }
      at += c.length;
    }
    if (!left_) begin = 0;
    if (!right_) end = text.text.size();
    Rewriter rewriter(text);
    if (begin < end) rewriter.keep(begin, end);
    text = rewriter.take();
  }

 private:
  bool left_, right_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(AlignedText& text) const override {
    std::vector<Pattern::Range> matches;
    pattern_.find_all(text.text, matches);
    if (matches.empty()) return;
    Rewriter rewriter(text);
    std::size_t at = 0;
    for (const auto& [begin, end] : matches) {
      rewriter.keep(at, begin);
      std::size_t last =
          end > 0 ? end - 1 : 0;  // The content stands where the last character up to here does.
      while (last > 0 && (static_cast<std::uint8_t>(text.text[last]) & 0xC0U) == 0x80U) --last;
      rewriter.put(content_, last, end);
      at = end;
    }
    rewriter.keep(at, text.text.size());
    text = rewriter.take();
  }

 private:
  Pattern pattern_;
  std::string content_;
};

/// What SentencePiece's nmt rules do to blanks and control characters.
class Nmt : public Normalizer {
 public:
  void apply(AlignedText& text) const override {
    Rewriter rewriter(text);
    for (std::size_t at = 0; at < text.text.size();) {
      const Utf8Char c = utf8_at(text.text, at);
      if (is_blank(c.code))
        rewriter.put(" ", at, at + c.length);
      else if (!is_dropped(c.code))
        rewriter.keep(at, at + c.length);
      at += c.length;
    }
    text = rewriter.take();
  }

 private:
  static bool is_dropped(std::uint32_t code) {
    return (code >= 0x1 && code <= 0x8) || code == 0xB || (code >= 0xE && code <= 0x1F) || code == 0x7F ||
           code == 0x8F || code == 0x9F;
  }
  static bool is_blank(std::uint32_t code) {
    switch (code) {
      case 0x9:
      case 0xA:
      case 0xC:
      case 0xD:
      case 0x1680:
      case 0x2028:
      case 0x2029:
      case 0x2581:
      case 0xFEFF:
      case 0xFFFD: return true;
      default: return code >= 0x200B && code <= 0x200F;
    }
  }
};

/// Characters that stand for bytes, as the pre-tokenizer of the same name has them.
class ByteLevel : public Normalizer {
 public:
  void apply(AlignedText& text) const override {
    Rewriter rewriter(text);
    put_byte_characters(rewriter, text.view(), 0, text.text.size());
    text = rewriter.take();
  }
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string content) : content_(std::move(content)) {}
  void apply(AlignedText& text) const override {
    if (text.text.empty()) return;
    Rewriter rewriter(text);
    rewriter.put(content_, 0, 0);
    rewriter.keep(0, text.text.size());
    text = rewriter.take();
  }

 private:
  std::string content_;
};

/// SentencePiece's table as Hugging Face applies it: to short grapheme clusters whole, by their shortest
/// entry, else to single characters. Offsets follow it too: what a text of n characters becomes is aligned
/// with them one by one, and characters that vanish at the very beginning are not accounted for, so that
/// offsets lag behind from there on.
class Precompiled : public Normalizer {
 public:
  explicit Precompiled(CharsMap map) : map_(std::move(map)) {}
  void apply(AlignedText& text) const override {
    thread_local std::vector<Change> changes;
    changes.clear();
    const std::string_view all = text.text;
    bool modified = false;
    const auto map = [&](std::size_t begin, std::size_t end) {
      const auto mapped = map_.shortest(all.substr(0, end), begin);
      if (!mapped) return false;
      replace(all.substr(begin, end - begin), *mapped, changes);
      return modified = true;
    };
    for (std::size_t begin = 0; begin < all.size();) {
      const std::size_t end = grapheme_end(all, begin);
      if (end - begin >= 6 || !map(begin, end)) {
        for (std::size_t at = begin; at < end;) {
          const std::size_t next = at + utf8_at(all, at).length;
          if (!map(at, next)) changes.push_back({all.substr(at, next - at), 1});
          at = next;
        }
      }
      begin = end;
    }
    if (modified) text = aligned(text, changes);
  }

 private:
  /// A character of the new text, and how many of the old it moves past: none makes it share the one before.
  struct Change {
    std::string_view character;
    std::int64_t consumed = 1;
  };

  static void replace(std::string_view from, std::string_view to, std::vector<Change>& changes) {
    std::int64_t surplus = -utf8_length(from);
    for (std::size_t at = 0; at < to.size();) {
      const std::size_t length = utf8_at(to, at).length;
      changes.push_back({to.substr(at, length), ++surplus > 0 ? 0 : 1});
      at += length;
    }
    if (surplus < 0 && !changes.empty()) changes.back().consumed -= surplus;
  }

  static AlignedText aligned(const AlignedText& text, const std::vector<Change>& changes) {
    Rewriter rewriter(text);
    std::size_t last = 0;  // The character before `at`, in the old text.
    std::size_t at = 0;
    for (const Change& change : changes) {
      const std::size_t from = change.consumed > 0 ? at : last;
      const std::size_t to = change.consumed > 0 ? at + utf8_at(text.text, at).length : at;
      if (text.view().substr(from, to - from) == change.character)
        rewriter.keep(from, to);
      else
        rewriter.put(change.character, from, to);
      for (std::int64_t i = 0; i < change.consumed; ++i) {
        last = at;
        at += utf8_at(text.text, at).length;
      }
    }
    return rewriter.take();
  }

  static std::size_t grapheme_end(std::string_view text, std::size_t begin) {
    Utf8Char c = utf8_at(text, begin);
    std::size_t end = begin + c.length;
    utf8proc_int32_t state = 0;
    while (end < text.size()) {
      const Utf8Char next = utf8_at(text, end);
      if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(c.code),
                                           static_cast<utf8proc_int32_t>(next.code), &state) &&
          !(extends_since_unicode_16(next.code) && !breaks_after(c.code)))
        break;
      end += next.length;
      c = next;
    }
    return end;
  }

  CharsMap map_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<const Normalizer>> steps) : steps_(std::move(steps)) {}
  void apply(AlignedText& text) const override {
    for (const auto& step : steps_) step->apply(text);
  }

 private:
  std::vector<std::unique_ptr<const Normalizer>> steps_;
};

}  // namespace

std::unique_ptr<const Normalizer> make_normalizer(const io::Json& json, const std::string& where) {
  if (json.is_null()) return nullptr;
  const std::string place = where + ": normalizer";
  const auto type = field<std::string>(json, "type", place);
  if (type == "NFC") return std::make_unique<Unicode>(NormalForm{true, false});
  if (type == "NFD") return std::make_unique<Unicode>(NormalForm{false, false});
  if (type == "NFKC") return std::make_unique<Unicode>(NormalForm{true, true});
  if (type == "NFKD") return std::make_unique<Unicode>(NormalForm{false, true});
  if (type == "Nmt") return std::make_unique<Nmt>();
  if (type == "ByteLevel") return std::make_unique<ByteLevel>();
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "StripAccents") return std::make_unique<StripAccents>();
  if (type == "Strip")
    return std::make_unique<Strip>(field<bool>(json, "strip_left", place),
                                   field<bool>(json, "strip_right", place));
  if (type == "Replace")
    return std::make_unique<Replace>(Pattern(member(json, "pattern", place), place),
                                     field<std::string>(json, "content", place));
  if (type == "Prepend") return std::make_unique<Prepend>(field<std::string>(json, "prepend", place));
  if (type == "BertNormalizer") return make_bert_normalizer(json, place);
  if (type == "Precompiled") {
    const auto table = from_base64(field<std::string>(json, "precompiled_charsmap", place));
    if (!table) throw FormatError(place, ": 'precompiled_charsmap' is not base64");
    return std::make_unique<Precompiled>(CharsMap(*table, place));
  }
  if (type == "Sequence") {
    const io::Json& list = member(json, "normalizers", place);
    if (!list.is_array()) throw FormatError(place, ": 'normalizers' is not a list");
    std::vector<std::unique_ptr<const Normalizer>> steps;
    for (const io::Json& step : list) {
      if (auto made = make_normalizer(step, where)) steps.push_back(std::move(made));
    }
    return std::make_unique<Sequence>(std::move(steps));
  }
  throw UnsupportedError(place, ": the type '", type, "' is not supported");
}

}  // namespace bitrain::text
