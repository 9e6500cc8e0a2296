#include <bitrain/data/row_leftovers.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string_view>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/data/chat_messages.h>
#include <bitrain/data/row_values.h>

namespace bitrain::data {
namespace {

using Kind = RowLayout::Kind;

/// What a leftover would be in the conversation.
enum class Part { kPrompt, kReply, kReasoning, kConversation, kRejected, kTools, kMedia };

/// option_a, choice1: a prompt's choices, one a key.
bool names_choice(std::string_view name) {
  for (const std::string_view word : {"option", "choice"})
    if (starts_with(name, word)) {
      const std::string_view rest = name.substr(word.size());
      return rest.size() == 1 && ((rest[0] >= 'a' && rest[0] <= 'f') || (rest[0] >= '0' && rest[0] <= '9'));
    }
  return false;
}

/// Choices as C-Eval has them: "A", "B", "C" and "D".
bool is_lettered_choice(const io::Json& row, const std::string& key) {
  if (key.size() != 1) return false;
  const auto has = [&](const char* letter) { return row.contains(letter) && row.at(letter).is_string(); };
  if (key[0] >= 'A' && key[0] <= 'F') return has("A") && has("B");
  return key[0] >= 'a' && key[0] <= 'f' && has("a") && has("b");
}

/// rejected, rejected_response: not rejected_score.
bool names_rejected(std::string_view name) {
  if (!starts_with(name, "rejected")) return false;
  return is_one_of(name.substr(8), {"", "response", "responses", "answer", "output", "completion", "message",
                                    "messages", "conversation", "conversations", "text", "reply"});
}

/// Keys of a second reply to the prompt of a layout.
bool is_other_reply(const std::string& name, const RowLayout& layout) {
  if (layout.kind != Kind::kPrompt || name == layout.reply) return false;
  if (layout.first == "instruction") return is_one_of(name, {"output", "response"});
  if (layout.first == "prompt") return is_one_of(name, {"completion", "response"});
  return layout.first == "question" && is_one_of(name, {"answer", "response"});
}

std::optional<Part> part_of(const io::Json& row, const std::string& key, const RowLayout& layout) {
  const std::string name = plain_name(key);
  if (names_prompt(key) || is_lettered_choice(row, key)) return Part::kPrompt;
  if (names_reasoning(key)) return Part::kReasoning;
  if (names_tools(key)) return Part::kTools;
  if (names_media(key)) return Part::kMedia;
  if (names_rejected(name)) return Part::kRejected;
  if (is_other_reply(name, layout)) return Part::kReply;
  if (is_one_of(name, {"messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat",
                       "chosen"}))
    return Part::kConversation;
  // Alpaca's text is the row in a template; beside a question it may be what is asked about.
  if (name == "text" && layout.kind == Kind::kPrompt && layout.first != "instruction") return Part::kPrompt;
  return std::nullopt;
}

/// Whether a value has something to lose. Reasoning and tools may be switches: "on", "auto".
bool has_text(const io::Json& value, Part part) {
  if (part == Part::kReasoning || part == Part::kTools) return has_more_text(value);
  return (value.is_string() || value.is_structured()) && !says_nothing(value);
}

/// Whether every text of a value is in a message that may have such a part.
bool is_in_messages(const io::Json& value, Part part, const std::vector<Message>& messages) {
  const auto may_have = [&](const Message& message) {
    if (part == Part::kPrompt || part == Part::kTools || part == Part::kMedia)
      return message.role != "assistant";
    return part == Part::kConversation || part == Part::kRejected || message.role == "assistant";
  };
  const std::vector<std::string> texts = texts_in(value);
  return std::all_of(texts.begin(), texts.end(), [&](const std::string& text) {
    return std::any_of(messages.begin(), messages.end(), [&](const Message& message) {
      return may_have(message) && has_words(message.content, text);
    });
  });
}

/// Whether a text is the whole conversation in a template.
bool is_rendering(const io::Json& value, const std::vector<Message>& messages) {
  constexpr std::size_t kTemplate = 512;  // Bytes that a template adds at most.
  if (!value.is_string()) return false;
  const auto& text = value.get_ref<const std::string&>();
  std::size_t size = kTemplate;
  for (const Message& message : messages) {
    if (!has_words(text, message.content)) return false;
    size += message.content.size();
  }
  return text.size() <= size;
}

/// Whether the chosen one of two replies is what is read, so that the other is left out rightly.
bool reads_chosen(const io::Json& row, const std::vector<Message>& messages) {
  const auto chosen = row.find("chosen");
  return chosen != row.end() && !says_nothing(*chosen) &&
         is_in_messages(*chosen, Part::kConversation, messages);
}

/// How to keep a text at `key`: put it into the prompt or the reply, where those are texts.
std::string advice_to_keep(const io::Json& row, const std::string& key, Part part, const RowLayout& layout) {
  const std::string& into = part == Part::kReasoning ? layout.reply : layout.first;
  const bool texts = layout.kind == Kind::kPrompt && row.at(key).is_string() && row.at(into).is_string();
  if (!texts || (part != Part::kPrompt && part != Part::kReasoning)) return "";
  const std::string from = jq_key(key);
  const std::string to = jq_key(into);
  const bool behind = is_one_of(plain_name(key), {"input", "choices", "options"});
  return to_text("; or put both into one text: jq -c 'if (", from, " // \"\") == \"\" then . else ", to,
                 " = ", behind ? to : from, " + \"\\n\\n\" + ", behind ? from : to, " end | del(", from,
                 ")' IN > OUT.jsonl");
}

const char* name_of(Part part) {
  switch (part) {
    case Part::kPrompt: return "which may belong to the prompt and would be lost";
    case Part::kReply: return "and so two replies";
    case Part::kReasoning: return "which may belong to the reply and would be lost";
    case Part::kConversation: return "which may be another conversation and would be lost";
    case Part::kRejected:
      return "as data of preferences have; of these the chosen reply alone is to be learnt";
    case Part::kTools: return "which have no form as text here and would be lost";
    case Part::kMedia: return "but only texts can be read";
  }
  return "";
}

/// Whole rows that are not to be learnt, or in part: weights of rows, and KTO's replies that people disliked.
void refuse_row_marks(const io::Json& row, const RowLayout& layout) {
  for (const auto& [key, value] : row.items()) {
    const std::string name = plain_name(key);
    const std::optional<bool> mark = mark_of(value);
    bool refused = false;
    if (is_one_of(name, {"weight", "sampleweight", "lossweight"}))
      refused = mark ? !*mark : value.is_number();
    else if (is_one_of(name, {"train", "trainable", "lossmask", "supervised"}))
      refused = mark && !*mark;
    else if (is_one_of(name, {"label", "ktotag", "loss"}))  // A number is a class or a measurement.
      refused = mark && !*mark && !value.is_number() && value != "0" && value != "no";
    if (refused)
      throw DataError("has '", key, "': ", value.dump(), " beside ", layout.describe(),
                      ", which may mark it as not to be learnt, or in part; leave such rows out: jq -c "
                      "'select(",
                      jq_key(key), " != ", value.dump(), ")' IN > OUT.jsonl; or name the keys to read (",
                      fields_of(layout), "), and the mark is not looked at");
  }
}

}  // namespace

bool names_history(const std::string& key) {
  return is_one_of(plain_name(key), {"history", "chathistory", "conversationhistory", "dialoghistory",
                                     "dialoguehistory", "previousturns", "previousmessages"});
}

bool names_system(const std::string& key) {
  return is_one_of(plain_name(key),
                   {"system", "systemprompt", "systemmessage", "systeminstruction", "sysprompt"});
}

bool names_prompt(const std::string& key) {
  const std::string name = plain_name(key);
  return names_choice(name) || is_one_of(name, {"prompt",
                                                "instruction",
                                                "instructions",
                                                "question",
                                                "query",
                                                "input",
                                                "inputs",
                                                "problem",
                                                "userprompt",
                                                "userinput",
                                                "userquery",
                                                "usermessage",
                                                "context",
                                                "contexts",
                                                "ctx",
                                                "ctxs",
                                                "passage",
                                                "passages",
                                                "document",
                                                "documents",
                                                "article",
                                                "paragraph",
                                                "paragraphs",
                                                "story",
                                                "background",
                                                "evidence",
                                                "definition",
                                                "taskdefinition",
                                                "schema",
                                                "table",
                                                "tables",
                                                "choices",
                                                "options",
                                                "answerchoices",
                                                "custominstruction",
                                                "custominstructions",
                                                "content"});
}

std::string fields_of(const RowLayout& layout) {
  return layout.kind == Kind::kPrompt
             ? to_text("prompt_field: ", layout.first, " and response_field: ", layout.reply)
             : to_text("messages_field: ", layout.first);
}

void refuse_leftovers(const io::Json& row, const RowLayout& layout, const std::vector<std::string>& read,
                      const std::vector<Message>& messages) {
  refuse_row_marks(row, layout);
  for (const auto& [key, value] : row.items()) {
    if (key == layout.first || key == layout.reply || std::find(read.begin(), read.end(), key) != read.end())
      continue;
    if (plain_name(key) == "chattemplatekwargs" && value.is_object())
      for (const auto& [name, argument] : value.items())
        if ((names_tools(name) || names_prompt(name)) && has_more_text(argument) &&
            !is_in_messages(argument, Part::kTools, messages))
          throw DataError("has '", key, ".", name, "' beside ", layout.describe(),
                          ", which no template reads here and would be lost; name the keys to read (",
                          fields_of(layout), ") to leave it out");
    const std::optional<Part> part = part_of(row, key, layout);
    if (!part || !has_text(value, *part) || is_in_messages(value, *part, messages)) continue;
    if (*part != Part::kReasoning && is_rendering(value, messages)) continue;
    if (*part == Part::kRejected && reads_chosen(row, messages)) continue;
    throw DataError("has '", key, "' beside ", layout.describe(), ", ", name_of(*part),
                    "; name the keys to read (", fields_of(layout), ") to leave '", key, "' out",
                    advice_to_keep(row, key, *part, layout));
  }
}

}  // namespace bitrain::data
