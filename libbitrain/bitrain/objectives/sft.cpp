#include <bitrain/objectives/sft.h>

#include <algorithm>
#include <utility>

#include <bitrain/base/error.h>
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

/// Text between two EOS, with the byte spans that are to be learnt.
struct Stretch {
  std::string text;
  std::vector<Span> spans;
};

bool overlaps(const text::Offset& offset, const std::vector<Span>& spans) {
  const auto begin = static_cast<std::size_t>(offset.begin);
  const auto end = static_cast<std::size_t>(offset.end);
  return std::any_of(spans.begin(), spans.end(),
                     [&](const Span& span) { return begin < span.end && end > span.begin; });
}

std::string place_of(const data::Example& example) {
  return to_text("row ", example.id + 1, " of source '", example.source, "'");
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
    const text::Encoding encoding = tokenizer_->encode_with_offsets(stretch.text);
    for (std::size_t i = 0; i < encoding.ids.size(); ++i) {
      append(encoding.ids[i], overlaps(encoding.offsets[i], stretch.spans));
    }
  };

  if (options_.bos && special.bos) append(*special.bos, false);
  Stretch stretch;
  for (const data::Message& message : messages) {
    const RoleFormat& format = format_of(message.role, where);
    const std::size_t begin = stretch.text.size() + without_trailing_spaces(format.prefix);
    stretch.text += format.prefix + message.content + format.suffix;
    if (!format.supervised) continue;
    // An empty reply is no example of how to reply; its prefix's spaces alone must not count as one.
    if (!trim(message.content).empty()) stretch.spans.push_back({begin, stretch.text.size()});
    if (options_.eos) {
      append_stretch(stretch);
      append(*special.eos, !stretch.spans.empty() && !trim(message.content).empty());
      stretch = {};
    }
  }
  if (!reply_role.empty()) {
    const std::string& prefix = format_of(reply_role, where).prefix;
    stretch.text += prefix.substr(0, without_trailing_spaces(prefix));
  }
  append_stretch(stretch);
  return result;
}

data::TokenSequence Sft::encode(const data::Example& example) const {
  if (example.messages.empty()) {
    throw DataError(place_of(example),
                    " has no messages; sft reads conversations: JSONL with prompt and response or messages, "
                    "or text through a transform such as translation_instruction");
  }
  Rendered rendered = render(example.messages, "", place_of(example));
  const auto longest = static_cast<std::size_t>(options_.max_length);
  // The last token is only predicted, so one more than max_length are read as max_length.
  if (rendered.tokens.size() > longest + 1) {
    if (options_.truncation == "error") {
      throw DataError(place_of(example), " has ", rendered.tokens.size(), " tokens, max_length is ",
                      options_.max_length);
    }
    if (options_.truncation == "drop") return {};
    if (options_.truncation == "right") {
      rendered.tokens.resize(longest + 1);
      rendered.supervised.resize(longest + 1);
    } else {
      const bool keep_bos = options_.bos && tokenizer_->special_tokens().bos.has_value();
      const auto first = static_cast<std::ptrdiff_t>(keep_bos ? 1 : 0);
      const auto surplus = static_cast<std::ptrdiff_t>(rendered.tokens.size() - longest - 1);
      rendered.tokens.erase(rendered.tokens.begin() + first, rendered.tokens.begin() + first + surplus);
      rendered.supervised.erase(rendered.supervised.begin() + first,
                                rendered.supervised.begin() + first + surplus);
    }
  }
  data::TokenSequence sequence = shift_labels(rendered.tokens, rendered.supervised);
  if (sequence.empty() && options_.nothing_supervised == "error") {
    throw DataError(place_of(example),
                    " has nothing supervised: no turn of a supervised role, or all of it truncated");
  }
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
