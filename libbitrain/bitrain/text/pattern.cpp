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

// Steps that need no way back are not counted, so time is looked at too, between places to begin at.
constexpr std::size_t kPlacesAtOnce = 2048;
constexpr std::chrono::seconds kLongest{30};

struct Free {
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
      : where_(where), stand_ins_(expression, StandIns::For::kPcre2, where) {
    int error = 0;
    PCRE2_SIZE at = 0;
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                          PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT, &error,
                          &at, nullptr);
    if (code_ == nullptr) {
      PCRE2_UCHAR message[256] = {};
      pcre2_get_error_message(error, message, sizeof(message));
      throw UnsupportedError(where, ": the expression '", expression,
                             "' is not supported: ", reinterpret_cast<const char*>(message), " at ", at);
    }
    pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);  // Where it cannot, matching interprets.
    context_ = pcre2_match_context_create(nullptr);
    pcre2_set_match_limit(context_, kMostSteps);
    pcre2_set_heap_limit(context_, kMostHeapKib);
  }
  Pcre2(const Pcre2&) = delete;
  Pcre2& operator=(const Pcre2&) = delete;
  ~Pcre2() override {
    pcre2_code_free(code_);
    pcre2_match_context_free(context_);
  }

  void find_all(std::string_view original, std::vector<Range>& matches) const override {
    thread_local std::string buffer;
    const std::string_view text = stand_ins_.apply(original, buffer);
    const std::unique_ptr<pcre2_match_data, Free> data(pcre2_match_data_create_from_pattern(code_, nullptr));
    // A context of its own, where it is to be changed.
    const std::unique_ptr<pcre2_match_context, Free> own(
        text.size() > kPlacesAtOnce ? pcre2_match_context_copy(context_) : nullptr);
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    const auto since = std::chrono::steady_clock::now();
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t last = std::min(text.size(), at + kPlacesAtOnce);
      if (own != nullptr) pcre2_set_offset_limit(own.get(), last);
      const int count = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                    PCRE2_NO_UTF_CHECK, data.get(), own != nullptr ? own.get() : context_);
      if (count == PCRE2_ERROR_NOMATCH) {
        if (last == text.size()) return;
        if (std::chrono::steady_clock::now() - since > kLongest)
          throw DataError(where_, ": the expression takes too long on a text of ", text.size(), " bytes");
        at = last;
        while (at < text.size() && (static_cast<std::uint8_t>(text[at]) & 0xC0U) == 0x80U) ++at;
        continue;
      }
      if (count < 0)
        throw DataError(where_, ": the expression takes too many steps on a text of ", text.size(), " bytes");
      if (bounds[1] <= bounds[0]) throw StateError(where_, ": the expression matches an empty text");
      matches.emplace_back(bounds[0], bounds[1]);
      at = bounds[1];
    }
  }

 private:
  std::string where_;
  StandIns stand_ins_;
  pcre2_code* code_ = nullptr;
  pcre2_match_context* context_ = nullptr;
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
  if (is_plain_expression(expression))
    engine_ = std::make_unique<Pcre2>(expression, where);
  else
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
