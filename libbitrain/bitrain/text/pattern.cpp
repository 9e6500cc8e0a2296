#define PCRE2_CODE_UNIT_WIDTH 8
#include <bitrain/text/pattern.h>

#include <pcre2.h>

#include <bitrain/base/error.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

constexpr std::size_t kMostExpressionBytes = 4096;
// A match of a tokenizer's expression takes a few steps a character; these end a runaway one.
constexpr std::uint32_t kMostSteps = 10'000'000;
constexpr std::uint32_t kMostHeapKib = 65536;

/// Hugging Face's engines count marks and connectors as word characters, PCRE2 does not.
std::string with_word_characters(const std::string& expression) {
  constexpr std::string_view kWord = R"(\p{L}\p{M}\p{Nd}\p{Pc})";
  std::string result;
  bool in_class = false;
  for (std::size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c != '\\' || i + 1 == expression.size()) {
      in_class = c == '[' ? true : c == ']' ? false : in_class;
      result += c;
      continue;
    }
    const char next = expression[++i];
    if (next == 'w' && in_class) {
      result += kWord;
    } else if ((next == 'w' || next == 'W') && !in_class) {
      result += next == 'w' ? "[" : "[^";
      result += kWord;
      result += ']';
    } else {
      result += c;
      result += next;
    }
  }
  return result;
}

struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

struct Pattern::Regex {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  std::string where;

  Regex() = default;
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;
  ~Regex() {
    pcre2_code_free(code);
    pcre2_match_context_free(context);
  }
};

Pattern::Pattern(const io::Json& json, const std::string& where) {
  if (auto literal = optional_field<std::string>(json, "String", where)) {
    literal_ = *std::move(literal);
  } else {
    compile(field<std::string>(json, "Regex", where), where);
  }
}

Pattern::Pattern(const std::string& expression, const std::string& where) {
  compile(expression, where);
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

void Pattern::compile(const std::string& expression, const std::string& where) {
  if (expression.size() > kMostExpressionBytes)
    throw UnsupportedError(where, ": an expression of ", expression.size(), " bytes");
  regex_ = std::make_unique<Regex>();
  regex_->where = where;
  int error = 0;
  PCRE2_SIZE at = 0;
  const std::string translated = with_word_characters(expression);
  regex_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                               PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, nullptr);
  if (regex_->code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    throw UnsupportedError(where, ": the expression '", expression,
                           "' is not supported: ", reinterpret_cast<const char*>(message), " at ", at);
  }
  pcre2_jit_compile(regex_->code, PCRE2_JIT_COMPLETE);  // Where it cannot, matching interprets.
  regex_->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(regex_->context, kMostSteps);
  pcre2_set_heap_limit(regex_->context, kMostHeapKib);
}

void Pattern::find_all(std::string_view text, std::vector<Range>& matches) const {
  if (regex_ == nullptr) {
    if (literal_.empty()) return;
    for (std::size_t at = text.find(literal_); at != std::string_view::npos;
         at = text.find(literal_, at + literal_.size()))
      matches.emplace_back(at, at + literal_.size());
    return;
  }
  const std::unique_ptr<pcre2_match_data, FreeMatchData> data(
      pcre2_match_data_create_from_pattern(regex_->code, nullptr));
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
  for (std::size_t at = 0; at < text.size();) {
    const int count = pcre2_match(regex_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                  PCRE2_NO_UTF_CHECK, data.get(), regex_->context);
    if (count == PCRE2_ERROR_NOMATCH) return;
    if (count < 0)
      throw DataError(regex_->where, ": the expression takes too many steps on a text of ", text.size(),
                      " bytes");
    // With \K a match may be said to end before it begins.
    if (bounds[1] > bounds[0] && bounds[0] >= at) matches.emplace_back(bounds[0], bounds[1]);
    at = bounds[1] > at ? bounds[1] : at + utf8_at(text, at).length;
  }
}

}  // namespace bitrain::text
