#define PCRE2_CODE_UNIT_WIDTH 8
#include <bitrain/text/pattern.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

#include <pcre2.h>

#include <bitrain/base/error.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/later_characters.h>
#include <bitrain/text/oniguruma.h>
#include <bitrain/text/plain_expression.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

constexpr std::size_t kMostExpressionBytes = 4096;
// A match of a tokenizer's expression takes a few steps a character; these end a runaway one.
constexpr std::uint32_t kMostSteps = 10'000'000;
constexpr std::uint32_t kMostHeapKib = 65536;

// Steps that need no way back are not counted, so in long texts time is looked at too, between places to
// begin at.
constexpr std::size_t kLongText = 65536;
constexpr std::size_t kPlacesAtOnce = 2048;
constexpr std::chrono::seconds kLongest{30};

struct Free {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

}  // namespace

class Pattern::Engine {
 public:
  virtual ~Engine() = default;
  virtual void find_all(std::string_view text, std::vector<Range>& matches) const = 0;
};

/// The quicker engine, for expressions that mean the same to both and match no empty text.
class Pattern::Pcre2 : public Engine {
 public:
  Pcre2(const std::string& expression, const std::string& where)
      : where_(where),
        stand_ins_(expression, StandIns::For::kPcre2, where),
        code_(code(expression, 0)),
        code_of_parts_(code(expression, PCRE2_USE_OFFSET_LIMIT)),
        context_(pcre2_match_context_create(nullptr)) {
    pcre2_set_match_limit(context_.get(), kMostSteps);
    pcre2_set_heap_limit(context_.get(), kMostHeapKib);
  }

  void find_all(std::string_view original, std::vector<Range>& matches) const override {
    thread_local std::string buffer;
    const std::string_view text = stand_ins_.apply(original, buffer);
    if (text.size() > kLongText) return find_in_parts(text, matches);
    const Data data(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    for (std::size_t at = 0; at < text.size();) {
      if (!match(code_.get(), text, at, data.get(), context_.get(), matches)) return;
      at = matches.back().second;
    }
  }

 private:
  using Code = std::unique_ptr<pcre2_code, Free>;
  using Context = std::unique_ptr<pcre2_match_context, Free>;
  using Data = std::unique_ptr<pcre2_match_data, Free>;

  [[nodiscard]] Code code(const std::string& expression, std::uint32_t option) const {
    int error = 0;
    PCRE2_SIZE at = 0;
    Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                            PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | option, &error, &at, nullptr));
    if (code == nullptr) {
      PCRE2_UCHAR message[256] = {};
      pcre2_get_error_message(error, message, sizeof(message));
      throw UnsupportedError(where_, ": the expression '", expression,
                             "' is not supported: ", reinterpret_cast<const char*>(message), " at ", at);
    }
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // Where it cannot, matching interprets.
    return code;
  }

  /// Adds the first match that begins at `at` or behind; false where there is none.
  bool match(const pcre2_code* code, std::string_view text, std::size_t at, pcre2_match_data* data,
             pcre2_match_context* context, std::vector<Range>& matches) const {
    const int count = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                  PCRE2_NO_UTF_CHECK, data, context);
    if (count == PCRE2_ERROR_NOMATCH) return false;
    if (count < 0)
      throw DataError(where_, ": the expression takes too many steps on a text of ", text.size(), " bytes");
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data);
    if (bounds[1] <= bounds[0]) throw StateError(where_, ": the expression matches an empty text");
    matches.emplace_back(bounds[0], bounds[1]);
    return true;
  }

  void find_in_parts(std::string_view text, std::vector<Range>& matches) const {
    const Data data(pcre2_match_data_create_from_pattern(code_of_parts_.get(), nullptr));
    const Context context(pcre2_match_context_copy(context_.get()));
    const auto since = std::chrono::steady_clock::now();
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t last = std::min(text.size(), at + kPlacesAtOnce);
      pcre2_set_offset_limit(context.get(), last);
      if (match(code_of_parts_.get(), text, at, data.get(), context.get(), matches)) {
        at = matches.back().second;
        continue;
      }
      if (std::chrono::steady_clock::now() - since > kLongest)
        throw DataError(where_, ": the expression takes too long on a text of ", text.size(), " bytes");
      at = last;
      while (at < text.size() && (static_cast<std::uint8_t>(text[at]) & 0xC0U) == 0x80U) ++at;
    }
  }

  std::string where_;
  StandIns stand_ins_;
  Code code_;
  Code code_of_parts_;  // Takes a limit to where matches begin.
  Context context_;
};

class Pattern::Oniguruma : public Engine {
 public:
  Oniguruma(const std::string& expression, const std::string& where)
      : stand_ins_(expression, StandIns::For::kOniguruma, where), expression_(expression, where) {}
  void find_all(std::string_view text, std::vector<Range>& matches) const override {
    thread_local std::string buffer;
    expression_.find_all(stand_ins_.apply(text, buffer), matches);
  }

 private:
  StandIns stand_ins_;
  OnigurumaExpression expression_;
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

Pattern Pattern::for_pcre2(const std::string& expression, const std::string& where) {
  Pattern pattern;
  pattern.engine_ = std::make_unique<Pcre2>(expression, where);
  return pattern;
}

Pattern::Pattern() = default;
Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

void Pattern::compile(const std::string& expression, const std::string& where) {
  if (expression.size() > kMostExpressionBytes)
    throw UnsupportedError(where, ": an expression of ", expression.size(), " bytes");
  if (is_plain_expression(expression)) {
    try {
      engine_ = std::make_unique<Pcre2>(expression, where);
      return;
    } catch (const UnsupportedError&) {  // "[.a.]": to Oniguruma alone it is a set.
    }
  }
  engine_ = std::make_unique<Oniguruma>(expression, where);
}

void Pattern::find_all(std::string_view text, std::vector<Range>& matches) const {
  if (text.empty()) return;
  if (engine_ != nullptr)
    engine_->find_all(text, matches);
  else
    find_literal(text, matches);
}

void Pattern::find_literal(std::string_view text, std::vector<Range>& matches) const {
  if (!literal_.empty()) {
    for (std::size_t at = text.find(literal_); at != std::string_view::npos;
         at = text.find(literal_, at + literal_.size()))
      matches.emplace_back(at, at + literal_.size());
    return;
  }
  for (std::size_t at = 0; at < text.size(); at += utf8_at(text, at).length) matches.emplace_back(at, at);
  matches.emplace_back(text.size(), text.size());
}

}  // namespace bitrain::text
