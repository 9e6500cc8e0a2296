#include <bitrain/data/row_layout.h>

#include <algorithm>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/data/chat_messages.h>
#include <bitrain/data/row_leftovers.h>
#include <bitrain/data/row_values.h>

namespace bitrain::data {
namespace {

using Kind = RowLayout::Kind;

/// Layouts of conversations that public sets have; the first that fits is taken.
const std::vector<RowLayout>& chat_layouts() {
  static const std::vector<RowLayout> layouts = {
      {Kind::kMessages, "messages", "", true},
      {Kind::kMessages, "conversations", "", true},  // ShareGPT
      {Kind::kMessages, "conversation", "", true},
      {Kind::kPrompt, "instruction", "output", true},    // Alpaca
      {Kind::kPrompt, "instruction", "response", true},  // Dolly
      {Kind::kPrompt, "prompt", "completion", true},     // TRL
      {Kind::kPrompt, "prompt", "response", true},
      {Kind::kPrompt, "question", "answer", true},
      {Kind::kPrompt, "question", "response", true},
      {Kind::kPrompt, "query", "response", true},
      {Kind::kPrompt, "input", "output", true},
  };
  return layouts;
}

bool has(const io::Json& row, const std::string& key) {
  const auto found = row.find(key);
  return found != row.end() && !found->is_null();
}

std::string keys_of(const io::Json& row) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : row.items()) keys.push_back("'" + key + "'");
  if (keys.empty()) return "it has no keys";
  if (keys.size() > 12) {
    keys.resize(12);
    keys.emplace_back("...");
  }
  return "its keys are " + join(keys, ", ");
}

/// Whether a list of messages begins with the model's, as replies do.
bool begins_with_reply(const io::Json& list) {
  std::vector<Message> first;
  try {
    append_messages(io::Json::array({list.front()}), "", {}, first);
  } catch (const DataError&) {
    return false;
  }
  return first.front().role != "user" && first.front().role != "system";
}

/// The keys of a reply that preference data chose: by the prompt beside it, or as a whole conversation.
std::string advice_for_chosen(const io::Json& row) {
  if (!has(row, "chosen")) return "";
  const io::Json& chosen = row.at("chosen");
  const bool list = is_message_list(chosen);
  if (list && !begins_with_reply(chosen))
    return "; to learn the conversation in 'chosen' set messages_field: chosen";
  if (list || chosen.is_string())
    for (const char* prompt : {"prompt", "instruction", "question", "query", "input"})
      if (has(row, prompt))
        return to_text("; to learn the reply in 'chosen' set prompt_field: ", prompt,
                       " and response_field: chosen");
  return "";
}

/// How to read a conversation under another name, or a list of rows that lies within one object.
std::string advice_for_lists(const io::Json& row) {
  if (const std::string chosen = advice_for_chosen(row); !chosen.empty()) return chosen;
  for (const auto& [key, value] : row.items())
    if (is_message_list(value) && !begins_with_reply(value))
      return to_text("; '", key,
                     "' is a list of messages: where those are the conversation, set messages_field: ", key);
  // Written one a line, the rows of a list lose what stands beside it.
  for (const auto& [key, value] : row.items())
    if (names_prompt(key) || names_system(key) || names_history(key)) return "";
  for (const auto& [key, value] : row.items())
    if (value.is_array() && !value.empty() && value.front().is_object() && !is_message_list(value) &&
        !names_tools(key) && !names_media(key))
      return to_text("; '", key,
                     "' is a list of objects: where those are the rows, write them one a line: jq -c '",
                     jq_key(key), "[]' IN > OUT.jsonl");
  return "";
}

const std::string& string_at(const io::Json& row, const std::string& key) {
  const auto found = row.find(key);
  if (found == row.end()) throw DataError("'", key, "' is missing");
  if (!found->is_string()) throw DataError("'", key, "' is not a text but ", kind_of_json(*found));
  return found->get_ref<const std::string&>();
}

/// Text at an optional key: empty where it is missing, null or an empty list.
std::string optional_text(const io::Json& row, const std::string& key) {
  return row.contains(key) && !says_nothing(row.at(key)) ? string_at(row, key) : std::string();
}

std::size_t leading_system_turns(const std::vector<Message>& messages) {
  std::size_t count = 0;
  while (count < messages.size() && messages[count].role == "system") ++count;
  return count;
}

/// A prompt: a text, or a list of messages as TRL has.
void append_prompt(const io::Json& row, const RowLayout& layout, const SourceOptions& options,
                   std::vector<Message>& messages) {
  const auto found = row.find(layout.first);
  if (found != row.end() && found->is_array())
    append_messages(*found, layout.first, options.learnt_roles, messages);
  else
    messages.push_back({"user", string_at(row, layout.first)});
}

/// Puts a reply behind its prompt. A list of messages may begin with the prompt again, as UltraFeedback's do:
/// that is read once.
void append_reply(const io::Json& row, const RowLayout& layout, const SourceOptions& options,
                  std::vector<Message>& messages) {
  const auto found = row.find(layout.reply);
  if (found == row.end() || !found->is_array()) {
    messages.push_back({"assistant", string_at(row, layout.reply)});
    return;
  }
  std::vector<Message> reply;
  append_messages(*found, layout.reply, options.learnt_roles, reply);
  if (reply.front().role != "user" && reply.front().role != "system") {
    messages.insert(messages.end(), reply.begin(), reply.end());
    return;
  }
  const auto same = [](const Message& a, const Message& b) {
    return a.role == b.role && trim(a.content) == trim(b.content);
  };
  const std::size_t own = leading_system_turns(messages);
  const std::size_t theirs = leading_system_turns(reply);
  const bool same_system =
      own == 0 || theirs == 0 ||
      std::equal(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(own), reply.begin(),
                 reply.begin() + static_cast<std::ptrdiff_t>(theirs), same);
  const bool same_turns = reply.size() - theirs > messages.size() - own &&
                          std::equal(messages.begin() + static_cast<std::ptrdiff_t>(own), messages.end(),
                                     reply.begin() + static_cast<std::ptrdiff_t>(theirs), same);
  if (!same_system || !same_turns)
    throw DataError("'", layout.reply, "' begins with a turn of the ", reply.front().role, " that is not '",
                    layout.first, "'; a reply begins with the assistant's; where '", layout.reply,
                    "' is the whole conversation, set messages_field: ", layout.reply,
                    " alone, without prompt_field and response_field");
  if (theirs == 0)
    reply.insert(reply.begin(), messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(own));
  messages = std::move(reply);
}

bool is_history(const io::Json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [](const io::Json& turn) {
           return turn.is_array() && turn.size() == 2 && turn[0].is_string() && turn[1].is_string();
         });
}

/// Earlier turns, a list of [prompt, response] as Alpaca and ms-swift have it, in front of what was read but
/// behind an instruction to the model. Texts that are turns already are not read twice.
void add_history(const io::Json& row, const RowLayout& layout, std::vector<Message>& messages) {
  std::vector<Message> turns;
  std::string first;
  for (const auto& [key, value] : row.items()) {
    if (!names_history(key) || says_nothing(value) || !(value.is_string() || value.is_structured())) continue;
    if (!is_history(value))
      throw DataError("'", key,
                      "' must be a list of [prompt, response], both texts; write it so, or name the keys "
                      "to read (",
                      fields_of(layout), ") to leave '", key, "' out");
    if (!first.empty() && value != row.at(first))
      throw DataError("has '", first, "' and '", key, "', which are not the same; take one out: jq -c 'del(",
                      jq_key(key), ")' IN > OUT.jsonl");
    if (!first.empty()) continue;
    first = key;
    for (const io::Json& turn : value) {
      turns.push_back({"user", turn[0].get<std::string>()});
      turns.push_back({"assistant", turn[1].get<std::string>()});
    }
  }
  const auto begin = messages.begin() + static_cast<std::ptrdiff_t>(leading_system_turns(messages));
  const bool there = static_cast<std::size_t>(messages.end() - begin) >= turns.size() &&
                     std::equal(turns.begin(), turns.end(), begin, [](const Message& a, const Message& b) {
                       return a.role == b.role && trim(a.content) == trim(b.content);
                     });
  if (!there) messages.insert(begin, turns.begin(), turns.end());
}

/// A row's own instruction to the model, put in front. One that the messages have already is passed over;
/// where they have another, or the row has two, nothing says which counts.
void add_system(const io::Json& row, const RowLayout& layout, std::vector<Message>& messages) {
  std::string system;
  std::string from;
  for (const auto& [key, value] : row.items()) {
    if (!names_system(key) || key == layout.first || key == layout.reply) continue;
    const std::string text = optional_text(row, key);
    if (trim(text).empty()) continue;
    if (!from.empty() && trim(text) != trim(system))
      throw DataError("has '", from, "' and '", key, "', which are not the same; take one out: jq -c 'del(",
                      jq_key(key), ")' IN > OUT.jsonl");
    if (from.empty()) system = text;
    if (from.empty()) from = key;
  }
  if (from.empty()) return;
  if (leading_system_turns(messages) == 0) {
    messages.insert(messages.begin(), {"system", system});
    return;
  }
  if (!has_words(messages.front().content, system))
    throw DataError("has '", from,
                    "', but its messages begin with another turn of the system; take one out: jq -c "
                    "'del(",
                    jq_key(from), ")' IN > OUT.jsonl leaves that of the messages");
}

/// Keys that go behind an instruction, after a blank line: Alpaca's input, Dolly's context.
std::vector<std::string> inputs_of(const RowLayout& layout) {
  if (layout.kind != Kind::kPrompt || !layout.guessed || layout.first != "instruction") return {};
  return {"input", "context"};
}

void add_inputs(const io::Json& row, const RowLayout& layout, std::vector<Message>& messages) {
  for (const std::string& key : inputs_of(layout)) {
    const std::string text = optional_text(row, key);
    if (trim(text).empty()) continue;
    std::string& prompt = messages.back().content;
    prompt += (prompt.empty() ? "" : "\n\n") + text;
  }
}

void read_conversation(const io::Json& row, const RowLayout& layout, const SourceOptions& options,
                       std::vector<Message>& messages) {
  if (layout.kind == Kind::kMessages) {
    const auto found = row.find(layout.first);
    if (found == row.end()) throw DataError("'", layout.first, "' is missing; ", keys_of(row));
    append_messages(*found, layout.first, options.learnt_roles, messages);
  } else {
    append_prompt(row, layout, options, messages);
    add_inputs(row, layout, messages);
    append_reply(row, layout, options, messages);
  }
  // Training could skip an empty reply, but a measurement of replies cannot.
  if (messages.back().role == "assistant" && trim(messages.back().content).empty())
    throw DataError("ends with an empty reply ('", layout.kind == Kind::kPrompt ? layout.reply : layout.first,
                    "'), so there is nothing to learn");
  if (layout.guessed) {
    add_history(row, layout, messages);
    add_system(row, layout, messages);
    refuse_leftovers(row, layout, inputs_of(layout), messages);
    return;
  }
  add_system(row, layout, messages);
}

/// Fills what belongs to the text of a pair.
void read_pair(const io::Json& row, const SourceOptions& options, Example& example) {
  example.pair_text = string_at(row, options.pair_field);
  example.pair_language = options.pair_language;
  if (!options.score_field.empty()) {
    if (!row.contains(options.score_field) || !row.at(options.score_field).is_number())
      throw DataError("'", options.score_field, "' is missing or not a number");
    example.score = row.at(options.score_field).get<double>();
  }
  if (!row.contains(options.negatives_field)) return;
  const io::Json& negatives = row.at(options.negatives_field);
  const io::Json list = negatives.is_array() ? negatives : io::Json::array({negatives});
  for (const io::Json& negative : list) {
    if (!negative.is_string())
      throw DataError("'", options.negatives_field, "' must be a text or a list of texts");
    example.negatives.push_back(negative.get<std::string>());
  }
}

void check_roles(const std::vector<Message>& messages, const std::vector<std::string>& roles) {
  if (roles.empty()) return;
  for (std::size_t i = 0; i < messages.size(); ++i)
    if (std::find(roles.begin(), roles.end(), messages[i].role) == roles.end())
      throw DataError("message ", i + 1, " is of the role '", messages[i].role,
                      "', for which there is no format", did_you_mean(messages[i].role, roles),
                      "; there are: ", join(roles, ", "));
}

}  // namespace

std::string RowLayout::describe() const {
  return kind == Kind::kPrompt ? to_text("'", first, "' and '", reply, "'") : to_text("'", first, "'");
}

bool RowLayout::fits(const io::Json& row) const {
  return has(row, first) && (kind != Kind::kPrompt || has(row, reply));
}

std::optional<RowLayout> named_layout(const SourceOptions& options) {
  const bool prompt = !options.prompt_field.empty() || !options.response_field.empty();
  const int named =
      (options.text_field.empty() ? 0 : 1) + (prompt ? 1 : 0) + (options.messages_field.empty() ? 0 : 1);
  if (named > 1)
    throw ConfigError(
        options.path,
        ": set one of text_field, messages_field, or prompt_field with response_field; a file is "
        "read in one way");
  if (!options.messages_field.empty()) return RowLayout{Kind::kMessages, options.messages_field, "", false};
  if (prompt)
    return RowLayout{Kind::kPrompt, options.prompt_field.empty() ? "prompt" : options.prompt_field,
                     options.response_field.empty() ? "response" : options.response_field, false};
  if (!options.text_field.empty() || !options.pair_field.empty())
    return RowLayout{Kind::kText, options.text_field.empty() ? "text" : options.text_field, "", false};
  return std::nullopt;
}

RowLayout layout_of(const io::Json& row, const SourceOptions& options) {
  const bool chats = options.reads != "text";
  const RowLayout text{Kind::kText, "text", "", true};
  if (chats)
    for (const RowLayout& layout : chat_layouts())
      if (layout.fits(row)) return layout;
  if (options.reads != "conversations" && text.fits(row)) return text;
  const char* what = options.reads == "text" ? "has no key 'text'"
                     : options.reads == "conversations"
                         ? "is no conversation in a known layout"
                         : "has no key 'text' and is no conversation in a known layout";
  const char* advice = options.reads == "text"
                           ? "; name that of the text with text_field"
                           : "; name them: messages_field, or prompt_field and response_field";
  if (options.reads == "conversations" && text.fits(row))
    throw DataError(what,
                    "; it has a 'text' alone, and that is for stages that read plain text (cpt, pretrain)");
  throw DataError(what, "; ", keys_of(row), advice, advice_for_lists(row));
}

void read_row(const io::Json& row, const RowLayout& layout, const SourceOptions& options, Example& example) {
  if (layout.kind != Kind::kText) {
    read_conversation(row, layout, options, example.messages);
  } else {
    example.text = string_at(row, layout.first);
    if (!options.pair_field.empty()) read_pair(row, options, example);
  }
  check_roles(example.messages, options.roles);
}

}  // namespace bitrain::data
