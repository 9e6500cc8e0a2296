#include <bitrain/text/oniguruma.h>

#include <algorithm>
#include <chrono>

#include <oniguruma.h>

#include <bitrain/base/error.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

// A match of a tokenizer's expression takes a few steps a character; these end a runaway one.
constexpr unsigned long kMostSteps = 10'000'000;
constexpr unsigned int kMostStates = 4'000'000;
// Steps that need no way back are not counted, so in long texts time is looked at too, between places to
// begin at.
constexpr std::size_t kLongText = 65536;
constexpr std::size_t kPlacesAtOnce = 256;
constexpr std::chrono::seconds kLongest{30};

/// What a thread searches with.
struct Scratch {
  OnigRegion* region = onig_region_new();
  OnigMatchParam* param = onig_new_match_param();

  Scratch() {
    onig_initialize_match_param(param);
    onig_set_retry_limit_in_match_of_match_param(param, kMostSteps);
    onig_set_retry_limit_in_search_of_match_param(param, kMostSteps);
    onig_set_match_stack_limit_size_of_match_param(param, kMostStates);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    onig_region_free(region, 1);
    onig_free_match_param(param);
  }
};

void initialize_once() {
  static const int kDone = [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    return onig_initialize(encodings, 1);
  }();
  static_cast<void>(kDone);
}

std::string message_of(int code, OnigErrorInfo* info) {
  OnigUChar message[ONIG_MAX_ERROR_MESSAGE_LEN] = {};
  const int size = onig_error_code_to_str(message, code, info);
  return {reinterpret_cast<const char*>(message), static_cast<std::size_t>(std::max(size, 0))};
}

}  // namespace

struct OnigurumaExpression::State {
  regex_t* regex = nullptr;
  std::string where;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (regex != nullptr) onig_free(regex);
  }

  /// The first match that begins at `at` or behind; false where there is none.
  bool search(std::string_view text, std::size_t at, std::chrono::steady_clock::time_point since,
              Range& match) const {
    thread_local Scratch scratch;
    const auto* begin = reinterpret_cast<const OnigUChar*>(text.data());
    const OnigUChar* end = begin + text.size();
    int found = ONIG_MISMATCH;
    if (text.size() <= kLongText) {
      found = onig_search_with_param(regex, begin, end, begin + at, end, scratch.region, ONIG_OPTION_NONE,
                                     scratch.param);
    } else {  // Place by place: a search of a part would not see what is behind it.
      for (std::size_t places = 1; found == ONIG_MISMATCH && at <= text.size(); ++places) {
        if (places % kPlacesAtOnce == 0 && std::chrono::steady_clock::now() - since > kLongest)
          throw DataError(where, ": the expression takes too long on a text of ", text.size(), " bytes");
        found = onig_match_with_param(regex, begin, end, begin + at, scratch.region, ONIG_OPTION_NONE,
                                      scratch.param);
        at += at < text.size() ? utf8_at(text, at).length : 1;
      }
    }
    if (found == ONIG_MISMATCH) return false;
    if (found < 0)
      throw DataError(where, ": the expression takes too many steps on a text of ", text.size(),
                      " bytes: ", message_of(found, nullptr));
    match = {static_cast<std::size_t>(scratch.region->beg[0]),
             static_cast<std::size_t>(scratch.region->end[0])};
    return true;
  }
};

OnigurumaExpression::OnigurumaExpression(const std::string& expression, const std::string& where)
    : state_(std::make_unique<State>()) {
  initialize_once();
  state_->where = where;
  const std::string words = in_words_of_all_versions(expression, where);
  const auto* begin = reinterpret_cast<const OnigUChar*>(words.data());
  OnigErrorInfo info{};
  const int code = onig_new(&state_->regex, begin, begin + words.size(), ONIG_OPTION_NONE, ONIG_ENCODING_UTF8,
                            ONIG_SYNTAX_ONIGURUMA, &info);
  if (code == ONIG_NORMAL) return;
  state_->regex = nullptr;
  throw UnsupportedError(where, ": the expression '", expression,
                         "' is not supported: ", message_of(code, &info));
}

OnigurumaExpression::~OnigurumaExpression() = default;
OnigurumaExpression::OnigurumaExpression(OnigurumaExpression&&) noexcept = default;
OnigurumaExpression& OnigurumaExpression::operator=(OnigurumaExpression&&) noexcept = default;

void OnigurumaExpression::find_all(std::string_view text, std::vector<Range>& matches) const {
  constexpr std::size_t kNone = ~std::size_t{0};
  const auto since = std::chrono::steady_clock::now();
  std::size_t last = kNone;
  Range match;
  for (std::size_t at = 0; at <= text.size() && state_->search(text, at, since, match);) {
    if (match.first == match.second && match.second == last) {  // Empty, just behind the last.
      at += at < text.size() ? utf8_at(text, at).length : 1;
      continue;
    }
    at = last = match.second;
    matches.push_back(match);
  }
}

}  // namespace bitrain::text
