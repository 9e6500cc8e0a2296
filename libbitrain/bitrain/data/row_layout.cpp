#include <bitrain/data/row_layout.h>

#include <algorithm>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/data/chat_messages.h>

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

/// How to read a list of rows that lies within one object.
std::string advice_for_nested(const io::Json& row) {
  for (const auto& [key, value] : row.items())
    if (value.is_array() && !value.empty() && value.front().is_object())
      return to_text("; '", key,
                     "' is a list of objects: where those are the rows, write them one a line: jq -c '.", key,
                     "[]' IN > OUT.jsonl");
  return "";
}

const std::string& string_at(const io::Json& row, const std::string& key) {
  const auto found = row.find(key);
  if (found == row.end()) throw DataError("'", key, "' is missing");
  if (!found->is_string()) throw DataError("'", key, "' is not a text but ", kind_of_json(*found));
  return found->get_ref<const std::string&>();
}

/// Text at an optional key: empty where it is missing or null.
std::string optional_text(const io::Json& row, const std::string& key) {
  return has(row, key) ? string_at(row, key) : std::string();
}

/// Appends a side of a prompt and response: a text, or a list of messages as TRL has.
void append_side(const io::Json& row, const std::string& key, const char* role,
                 std::vector<Message>& messages) {
  const auto found = row.find(key);
  if (found != row.end() && found->is_array())
    append_messages(*found, key, messages);
  else
    messages.push_back({role, string_at(row, key)});
}

/// Alpaca's earlier turns: a list of [prompt, response].
void append_history(const io::Json& row, std::vector<Message>& messages) {
  if (!has(row, "history")) return;
  const io::Json& history = row.at("history");
  const bool pairs =
      history.is_array() && std::all_of(history.begin(), history.end(), [](const io::Json& turn) {
        return turn.is_array() && turn.size() == 2 && turn[0].is_string() && turn[1].is_string();
      });
  if (!pairs) throw DataError("'history' must be a list of [prompt, response]");
  for (const io::Json& turn : history) {
    messages.push_back({"user", turn[0].get<std::string>()});
    messages.push_back({"assistant", turn[1].get<std::string>()});
  }
}

/// A row's own instruction to the model, put in front where the messages do not begin with one.
void add_system(const io::Json& row, std::vector<Message>& messages) {
  if (!messages.empty() && messages.front().role == "system") return;
  for (const char* key : {"system", "system_prompt"}) {
    const std::string text = optional_text(row, key);
    if (trim(text).empty()) continue;
    messages.insert(messages.begin(), {"system", text});
    return;
  }
}

/// What a guessed layout puts behind a prompt, after a blank line: Alpaca's input, Dolly's context.
void add_input(const io::Json& row, const RowLayout& layout, std::vector<Message>& messages) {
  for (const char* key : {"input", "context"}) {
    if (key == layout.first) continue;
    const std::string text = optional_text(row, key);
    if (trim(text).empty()) continue;
    // Whether it goes before or behind a question, sets do not agree on.
    if (layout.first != "instruction")
      throw DataError("has '", key, "' beside ", layout.describe(),
                      "; put both into one text, or set prompt_field and response_field to leave '", key,
                      "' out");
    std::string& prompt = messages.back().content;
    prompt += (prompt.empty() ? "" : "\n\n") + text;
  }
}

void read_prompt(const io::Json& row, const RowLayout& layout, std::vector<Message>& messages) {
  if (layout.guessed && layout.first == "instruction") append_history(row, messages);
  append_side(row, layout.first, "user", messages);
  if (layout.guessed) add_input(row, layout, messages);
  append_side(row, layout.reply, "assistant", messages);
  add_system(row, messages);
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
  throw DataError(what, "; ", keys_of(row), advice, advice_for_nested(row));
}

void read_row(const io::Json& row, const RowLayout& layout, const SourceOptions& options, Example& example) {
  if (layout.kind == Kind::kMessages) {
    const auto found = row.find(layout.first);
    if (found == row.end()) throw DataError("'", layout.first, "' is missing; ", keys_of(row));
    append_messages(*found, layout.first, example.messages);
    add_system(row, example.messages);
  } else if (layout.kind == Kind::kPrompt) {
    read_prompt(row, layout, example.messages);
  } else {
    example.text = string_at(row, layout.first);
    if (!options.pair_field.empty()) read_pair(row, options, example);
  }
  check_roles(example.messages, options.roles);
}

}  // namespace bitrain::data
