#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/base/fields.h>
#include <bitrain/objectives/objective.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::objectives {

/// How turns of one role are written.
struct RoleFormat {
  std::string prefix;
  std::string suffix;
  bool supervised = false;
};

template <class Visitor>
void visit_fields(Visitor& v, RoleFormat& o) {
  v.field("prefix", o.prefix, any(), "Text before a turn.");
  v.field("suffix", o.suffix, any(), "Text after a turn.");
  v.field("supervised", o.supervised, any(), "Learn to write turns of this role, with their suffix.");
}

struct SftOptions {
  std::map<std::string, RoleFormat> roles = {{"system", {"", "\n", false}},
                                             {"user", {"User: ", "\n", false}},
                                             {"assistant", {"Assistant: ", "", true}}};
  bool bos = true;
  bool eos = true;
  std::int64_t max_length = 512;
  std::string truncation = "right";
  std::string nothing_supervised = "drop";
};

template <class Visitor>
void visit_fields(Visitor& v, SftOptions& o) {
  v.field("roles", o.roles, not_empty(), "How turns are written, by role.");
  v.field("bos", o.bos, any(), "Begin a conversation with BOS, where the tokenizer has one.");
  v.field("eos", o.eos, any(), "End every supervised turn with EOS, and learn it.");
  v.field("max_length", o.max_length, at_least(2),
          "Longest conversation in tokens; the sequence length or less.");
  v.field("truncation", o.truncation, one_of({"right", "left", "drop", "error"}),
          "What is done with a longer one: cut its end, cut its beginning, skip it, or stop.");
  v.field("nothing_supervised", o.nothing_supervised, one_of({"drop", "error"}),
          "What is done with a row that has nothing to learn from.");
}

/// Supervised fine-tuning on conversations: loss on the supervised turns only. A token is supervised when it
/// shares a byte with such a turn. Spaces that end a prefix belong to the turn after it, because tokenizers
/// join them with its first word; `prompt` leaves them out for the same reason.
class Sft : public Objective {
 public:
  /// Throws ConfigError when no role is supervised, or EOS is asked for and the tokenizer has none.
  Sft(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
      SftOptions options = {});

  /// Throws DataError, naming source and row, for an example without messages, a role without format, and
  /// what the options call an error.
  [[nodiscard]] data::TokenSequence encode(const data::Example& example) const override;
  [[nodiscard]] LossSum loss(models::LanguageModel& model, const Batch& batch,
                             const nn::ForwardContext& context) const override;

  /// Tokens to generate a reply from: `messages` and the beginning of a turn of `role`.
  [[nodiscard]] std::vector<text::TokenId> prompt(const std::vector<data::Message>& messages,
                                                  const std::string& role = "assistant") const;

 private:
  struct Rendered;
  [[nodiscard]] Rendered render(const std::vector<data::Message>& messages, const std::string& reply_role,
                                const std::string& where) const;
  [[nodiscard]] const RoleFormat& format_of(const std::string& role, const std::string& where) const;

  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::vector<std::string> languages_;
  SftOptions options_;
};

}  // namespace bitrain::objectives
