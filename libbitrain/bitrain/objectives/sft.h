#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>
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
  v.field("prefix", o.prefix, any(),
          "Text before a turn; spellings of special tokens (<|im_start|>) in it are those tokens.");
  v.field("suffix", o.suffix, any(), "Text after a turn, likewise.");
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
  v.field("bos", o.bos, any(),
          "Begin a conversation with BOS, where the tokenizer has one and no prefix has spelled it.");
  v.field(
      "eos", o.eos, any(),
      "End every supervised turn with the tokenizer's EOS, and learn it. A suffix that ends in it already, "
      "but for white space, gets no second one.");
  v.field("max_length", o.max_length, at_least(2),
          "Longest conversation in tokens; the sequence length or less.");
  v.field("truncation", o.truncation, one_of({"right", "left", "drop", "error"}),
          "What is done with a longer one: cut its end, cut its beginning, skip it, or stop.");
  v.field("nothing_supervised", o.nothing_supervised, one_of({"drop", "error"}),
          "What is done with a row that has nothing to learn from.");
}

/// Supervised fine-tuning on conversations: loss on the supervised turns only. A conversation is one text,
/// read as a chat template's: spellings of special tokens in prefixes and suffixes are these tokens, those in
/// the contents of messages are plain text. A token is supervised when it shares a byte with a supervised
/// turn or its suffix; white space that a special token takes in beside its spelling does not count. Spaces
/// that end a prefix belong to the turn after it, because tokenizers join them with its first word; `prompt`
/// leaves them out for the same reason.
class Sft : public Objective {
 public:
  /// Throws ConfigError when no role is supervised, or EOS is asked for and the tokenizer has none. Warns of
  /// spellings in prefixes and suffixes that look like special tokens (<|end|>, [INST]) and are none.
  Sft(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
      SftOptions options = {});

  /// Throws DataError, naming source and row, for an example without messages, of a cloned language
  /// (clone_language), with a role without format, and for what the options call an error. Warns once of a
  /// message that spells a special token, as one does that a template was applied to before.
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
  [[nodiscard]] bool is_one_token(const std::string& spelling) const;
  [[nodiscard]] bool ends_in_eos(const RoleFormat& format) const;
  void warn_of_unknown_markers() const;
  void warn_of_markers_in(const data::Example& example) const;

  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::vector<std::string> languages_;
  SftOptions options_;
  std::string eos_spelling_;  ///< How the text of a template writes EOS; empty: no spelling gives it.
  mutable std::atomic<bool> warned_{false};
};

}  // namespace bitrain::objectives
