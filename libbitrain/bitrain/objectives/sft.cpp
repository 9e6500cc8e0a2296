#include <bitrain/objectives/sft.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>

namespace bitrain::objectives {

/// A conversation as tokens, and which of them are to be learnt.
struct Sft::Rendered {
  std::vector<text::TokenId> tokens;
  std::vector<bool> supervised;
};

namespace {

struct Span {
  std::size_t begin;
  std::size_t end;
};

std::size_t without_trailing_spaces(const std::string& text) {
  const std::size_t last = text.find_last_not_of(' ');
  return last == std::string::npos ? 0 : last + 1;
}

/// Text that is tokenised in one piece, with the byte spans that are to be learnt and those of its template.
struct Stretch {
  std::string text;
  std::vector<Span> spans;
  std::vector<text::Offset> markup;

  void add_markup(std::string_view piece) {
    if (piece.empty()) return;
    const auto begin = static_cast<std::int32_t>(text.size());
    text += piece;
    const auto end = static_cast<std::int32_t>(text.size());
    if (!markup.empty() && markup.back().end == begin)
      markup.back().end = end;  // A suffix and the next prefix: one text to the tokenizer.
    else
      markup.push_back({begin, end});
  }
};

/// The bytes that a token is spelled with: less than its offset where a special token took in white space.
Span spelling_of(const text::Tokenizer& tokenizer, text::TokenId id, const text::Offset& offset,
                 const std::string& text) {
  const auto begin = static_cast<std::size_t>(offset.begin);
  const auto end = static_cast<std::size_t>(offset.end);
  const std::string piece = tokenizer.id_to_piece(id);
  const std::size_t at = std::string_view(text).substr(begin, end - begin).find(piece);
  if (piece.empty() || at == std::string::npos) return {begin, end};
  return {begin + at, begin + at + piece.size()};
}

bool overlap(const Span& a, const Span& b) {
  return a.begin < b.end && a.end > b.begin;
}

constexpr std::size_t kLongestMarker = 64;

/// Spellings that are special tokens of one model or another: <|im_start|>, </s>, <start_of_turn>, [INST],
/// <<SYS>>, and DeepSeek's with their wide bars.
std::vector<std::string> look_like_markers(std::string_view text) {
  std::vector<std::string> found;
  for (std::size_t begin = 0; begin < text.size(); ++begin) {
    if (text[begin] != '<' && text[begin] != '[') continue;
    const bool angle = text[begin] == '<';
    const bool twice = text.substr(begin, 2) == "<<";
    const std::string_view close = angle ? (twice ? ">>" : ">") : "]";
    const std::size_t end = text.substr(0, begin + kLongestMarker).find(close, begin + 1);
    if (end == std::string_view::npos) continue;
    const std::string_view inside = text.substr(begin + (twice ? 2 : 1), end - begin - (twice ? 2 : 1));
    const auto fits = [&](char c) {
      if (c == '_' || c == '/' || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) return true;
      if (!angle) return false;
      return (c >= 'a' && c <= 'z') || c == '|' || c == '-' || static_cast<unsigned char>(c) >= 0x80;
    };
    const bool letter = std::any_of(inside.begin(), inside.end(),
                                    [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); });
    if (!letter || !std::all_of(inside.begin(), inside.end(), fits)) continue;
    found.emplace_back(text.substr(begin, end + close.size() - begin));
    begin = end + close.size() - 1;
  }
  return found;
}

std::string place_of(const data::Example& example) {
  return data::row_name(example);
}

}  // namespace

Sft::Sft(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
         SftOptions options)
    : tokenizer_(std::move(tokenizer)), languages_(std::move(languages)), options_(std::move(options)) {
  if (std::none_of(options_.roles.begin(), options_.roles.end(),
                   [](const auto& role) { return role.second.supervised; })) {
    throw ConfigError(
        "sft: no role is supervised, so there is nothing to learn; set supervised: true on "
        "the assistant's");
  }
  if (options_.eos && !tokenizer_->special_tokens().eos) {
    throw ConfigError(
        "sft: eos is on, but the tokenizer has no EOS token; set eos: false and give the "
        "supervised roles a suffix that ends a turn");
  }
  const std::vector<std::string> policies = {"right", "left", "drop", "error"};
  if (std::find(policies.begin(), policies.end(), options_.truncation) == policies.end()) {
    throw ConfigError("sft: unknown truncation '", options_.truncation, "'",
                      did_you_mean(options_.truncation, policies), "; there are: ", join(policies, ", "));
  }
  if (options_.nothing_supervised != "drop" && options_.nothing_supervised != "error") {
    throw ConfigError("sft: nothing_supervised must be drop or error, not '", options_.nothing_supervised,
                      "'");
  }
  if (options_.eos) {
    const std::string spelling = tokenizer_->id_to_piece(*tokenizer_->special_tokens().eos);
    if (is_one_token(spelling)) eos_spelling_ = spelling;
  }
  warn_of_unknown_markers();
}

bool Sft::is_one_token(const std::string& spelling) const {
  const auto size = static_cast<std::int32_t>(spelling.size());
  const text::Encoding encoding = tokenizer_->encode_markup(spelling, {{0, size}});
  // Some tokenizers put a piece for the beginning of a text before it.
  return !encoding.ids.empty() && tokenizer_->id_to_piece(encoding.ids.back()) == spelling;
}

bool Sft::ends_in_eos(const RoleFormat& format) const {
  return !eos_spelling_.empty() && ends_with(trim(format.suffix), eos_spelling_);
}

void Sft::warn_of_unknown_markers() const {
  std::set<std::string> seen;
  for (const auto& [role, format] : options_.roles)
    for (const std::string& text : {format.prefix, format.suffix})
      for (const std::string& marker : look_like_markers(text))
        if (seen.insert(marker).second && !is_one_token(marker))
          log_warn(
              "sft: '", marker, "' in the format of the role '", role,
              "' is no token of this tokenizer: the model will read and write its letters. That is right "
              "only where it was trained so before (Llama 2's [INST]); otherwise take the spelling that "
              "the tokenizer has, or a model with this token");
}

/// Once, since all rows of a file may be so.
void Sft::warn_of_markers_in(const data::Example& example) const {
  if (warned_.load(std::memory_order_relaxed)) return;
  for (const data::Message& message : example.messages)
    for (const std::string& marker : look_like_markers(message.content))
      if (is_one_token(marker) && tokenizer_->encode(marker).size() > 1 && !warned_.exchange(true))
        log_warn("sft: ", place_of(example), ": a message spells the special token ", marker,
                 ". In messages that is plain text, so that no text can end a turn; if a chat template was "
                 "applied to this data already, take it out (further rows are not named)");
}

const RoleFormat& Sft::format_of(const std::string& role, const std::string& where) const {
  auto found = options_.roles.find(role);
  if (found == options_.roles.end()) {
    std::vector<std::string> names;
    for (const auto& entry : options_.roles) names.push_back(entry.first);
    throw DataError(where, ": there is no format for the role '", role, "'", did_you_mean(role, names),
                    "; there are: ", join(names, ", "));
  }
  return found->second;
}

Sft::Rendered Sft::render(const std::vector<data::Message>& messages, const std::string& reply_role,
                          const std::string& where) const {
  const text::SpecialTokens& special = tokenizer_->special_tokens();
  Rendered result;
  const auto append = [&](text::TokenId id, bool supervised) {
    result.tokens.push_back(id);
    result.supervised.push_back(supervised);
  };
  const auto append_stretch = [&](const Stretch& stretch) {
    if (stretch.text.empty()) return;
    const text::Encoding encoding = tokenizer_->encode_markup(stretch.text, stretch.markup);
    for (std::size_t i = 0; i < encoding.ids.size(); ++i) {
      const text::Offset& offset = encoding.offsets[i];
      append(encoding.ids[i], std::any_of(stretch.spans.begin(), stretch.spans.end(), [&](const Span& span) {
               const Span token{static_cast<std::size_t>(offset.begin), static_cast<std::size_t>(offset.end)};
               if (!overlap(token, span)) return false;
               if (token.begin >= span.begin && token.end <= span.end) return true;
               return overlap(spelling_of(*tokenizer_, encoding.ids[i], offset, stretch.text), span);
             }));
    }
  };

  Stretch stretch;
  for (const data::Message& message : messages) {
    const RoleFormat& format = format_of(message.role, where);
    const std::size_t begin = stretch.text.size() + without_trailing_spaces(format.prefix);
    stretch.add_markup(format.prefix);
    stretch.text += message.content;
    stretch.add_markup(format.suffix);
    if (!format.supervised) continue;
    const bool eos = options_.eos && !ends_in_eos(format);
    if (eos) stretch.add_markup(eos_spelling_);
    // An empty reply is no example of how to reply; its prefix's spaces alone must not count as one.
    const bool reply = !trim(message.content).empty();
    if (reply) stretch.spans.push_back({begin, stretch.text.size()});
    if (eos && eos_spelling_.empty()) {
      append_stretch(stretch);
      append(*special.eos, reply);
      stretch = {};
    }
  }
  if (!reply_role.empty()) {
    const std::string& prefix = format_of(reply_role, where).prefix;
    stretch.add_markup(std::string_view(prefix).substr(0, without_trailing_spaces(prefix)));
  }
  append_stretch(stretch);
  if (options_.bos && special.bos && (result.tokens.empty() || result.tokens.front() != *special.bos)) {
    result.tokens.insert(result.tokens.begin(), *special.bos);
    result.supervised.insert(result.supervised.begin(), false);
  }
  return result;
}

data::TokenSequence Sft::encode(const data::Example& example) const {
  if (example.messages.empty()) {
    throw DataError(place_of(example),
                    " has no messages; sft reads conversations: JSONL with prompt and response or messages, "
                    "or text through a transform such as translation_instruction");
  }
  if (example.clone != 0)
    throw DataError(place_of(example),
                    " is of a cloned language: sft has no ids of its own for clones; leave "
                    "the transform clone_language out");
  warn_of_markers_in(example);
  Rendered rendered = render(example.messages, "", place_of(example));
  const auto longest = static_cast<std::size_t>(options_.max_length);
  const std::size_t length = rendered.tokens.size();
  // The last token is only predicted, so one more than max_length are read as max_length.
  if (rendered.tokens.size() > longest + 1) {
    if (options_.truncation == "error") {
      throw DataError(place_of(example), " has ", rendered.tokens.size(), " tokens, max_length is ",
                      options_.max_length);
    }
    if (options_.truncation == "drop") {
      data::TokenSequence nothing;
      nothing.why_empty = to_text("has ", length, " tokens, max_length is ", options_.max_length,
                                  ", and truncation: drop leaves it out");
      return nothing;
    }
    if (options_.truncation == "right") {
      rendered.tokens.resize(longest + 1);
      rendered.supervised.resize(longest + 1);
    } else {
      const std::optional<text::TokenId> bos = tokenizer_->special_tokens().bos;
      const bool keep_bos = bos.has_value() && rendered.tokens.front() == *bos;
      const auto first = static_cast<std::ptrdiff_t>(keep_bos ? 1 : 0);
      const auto surplus = static_cast<std::ptrdiff_t>(rendered.tokens.size() - longest - 1);
      rendered.tokens.erase(rendered.tokens.begin() + first, rendered.tokens.begin() + first + surplus);
      rendered.supervised.erase(rendered.supervised.begin() + first,
                                rendered.supervised.begin() + first + surplus);
    }
  }
  data::TokenSequence sequence = shift_labels(rendered.tokens, rendered.supervised);
  if (!sequence.empty()) return sequence;
  sequence.why_empty =
      length > longest + 1
          ? to_text("has nothing supervised in what max_length ", options_.max_length,
                    " (truncation: ", options_.truncation, ") leaves of its ", length,
                    " tokens; raise max_length")
          : std::string("has nothing supervised: no turn of a supervised role that is not empty");
  if (options_.nothing_supervised == "error") throw DataError(place_of(example), " ", sequence.why_empty);
  return sequence;
}

LossSum Sft::loss(models::LanguageModel& model, const Batch& batch, const nn::ForwardContext& context) const {
  return next_token_loss(model, batch, context, languages_);
}

std::vector<text::TokenId> Sft::prompt(const std::vector<data::Message>& messages,
                                       const std::string& role) const {
  return render(messages, role, "prompt").tokens;
}

}  // namespace bitrain::objectives
