#define PCRE2_CODE_UNIT_WIDTH 8
#include <bitrain/text/whole_pattern.h>

#include <cstdint>
#include <new>

#include <pcre2.h>

#include <bitrain/base/error.h>

namespace bitrain::text {
namespace {

constexpr std::size_t kMostExpressionBytes = 4096;
constexpr std::uint32_t kMostSteps = 1'000'000;  // Names of modules take some hundreds; this is 20 ms.
constexpr std::uint32_t kMostHeapKib = 16384;

struct Free {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

}  // namespace

struct WholePattern::State {
  std::string expression;
  std::unique_ptr<pcre2_code, Free> code;
  std::unique_ptr<pcre2_match_context, Free> context;
};

WholePattern::WholePattern(const std::string& expression) : state_(std::make_unique<State>()) {
  if (expression.size() > kMostExpressionBytes)
    throw ConfigError("a regular expression of ", expression.size(), " bytes; the most is ",
                      kMostExpressionBytes);
  State& state = *state_;
  state.expression = expression;
  int error = 0;
  PCRE2_SIZE at = 0;
  state.code.reset(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_ANCHORED | PCRE2_ENDANCHORED,
                    &error, &at, nullptr));
  if (state.code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof message);
    throw ConfigError("'", expression,
                      "' is not a regular expression: ", reinterpret_cast<const char*>(message),
                      " at character ", at + 1);
  }
  state.context.reset(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(state.context.get(), kMostSteps);
  pcre2_set_heap_limit(state.context.get(), kMostHeapKib);
}

WholePattern::~WholePattern() = default;
WholePattern::WholePattern(WholePattern&&) noexcept = default;
WholePattern& WholePattern::operator=(WholePattern&&) noexcept = default;

bool WholePattern::matches(std::string_view text) const {
  // Keeps what memory a match has taken, so it does not outlive it.
  const std::unique_ptr<pcre2_match_data, Free> data(
      pcre2_match_data_create_from_pattern(state_->code.get(), nullptr));
  if (data == nullptr) throw std::bad_alloc();
  const int found = pcre2_match(state_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                                0, data.get(), state_->context.get());
  if (found == PCRE2_ERROR_NOMEMORY) throw std::bad_alloc();
  if (found < 0 && found != PCRE2_ERROR_NOMATCH)  // A limit.
    throw ConfigError("'", state_->expression, "' takes too many steps on '", text,
                      "': write it without repeats inside repeats");
  return found >= 0;
}

}  // namespace bitrain::text
