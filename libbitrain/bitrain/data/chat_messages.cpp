#include <bitrain/data/chat_messages.h>

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/data/row_values.h>

namespace bitrain::data {
namespace {

/// Hugging Face's name of a role.
std::string role_of(const std::string& name) {
  const std::string small = lower_ascii(name);
  if (small == "human" || small == "user") return "user";
  for (const char* model : {"assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai"})
    if (small == model) return "assistant";
  return small == "system" ? small : name;
}

/// A message, or a part of its content, as messages and jq name it.
struct Place {
  std::string name;  ///< "message 2 in 'messages'".
  std::string jq;    ///< ".messages[]?", or ".messages[]?.content[]?".
  bool is_learnt = true;
};

/// What a turn is marked with by sets that learn some of their turns. Whole turns are learnt here, or none.
void refuse_marks(const io::Json& marked, const Place& place) {
  for (const auto& [key, value] : marked.items()) {
    const std::string name = plain_name(key);
    const bool learn = is_one_of(name, {"weight", "train", "training", "trainable", "loss", "lossweight",
                                        "lossscale", "lossmask", "learn", "supervised", "trainonturn"});
    const bool hide = is_one_of(name, {"mask", "masked", "ignore", "maskloss"});
    const bool detail = is_one_of(name, {"traindetail", "trainingdetail"});
    if (!(learn || hide || detail) || says_nothing(value)) continue;
    std::optional<bool> kept = detail ? std::nullopt : mark_of(value);
    // A number may be a mask of the loss, whose 1 means "learn".
    if (hide) kept = value.is_number() || !kept ? std::nullopt : std::optional<bool>(!*kept);
    if (kept && (*kept || !place.is_learnt)) continue;
    const std::string remedy = to_text(
        "; leave such rows out, or take the mark away where the turn may be learnt as all others: jq -c "
        "'del(",
        place.jq, jq_key(key), ")' IN > OUT.jsonl");
    if (kept)
      throw DataError(place.name, " is marked as not to be learnt ('", key,
                      "'), but all turns of a supervised role are", remedy);
    throw DataError(place.name, " has '", key, "': ", value.dump().substr(0, 60),
                    ", but turns are learnt wholly or not at all", remedy);
  }
}

/// Turns that have both names of a member: which of two texts is meant, nothing says.
void refuse_both(const io::Json& message, const char* one, const char* other, const Place& place) {
  if (message.contains(one) && message.contains(other) && !says_nothing(message.at(other)) &&
      message.at(one) != message.at(other))
    throw DataError(place.name, " has '", one, "' and '", other,
                    "', which are not the same; take one out: jq -c 'del(", place.jq, ".", other,
                    ")' IN > OUT.jsonl");
}

/// What a message has besides its text, and a text alone would lose.
void refuse_more(const io::Json& message, const std::string& content, const Place& place) {
  refuse_marks(message, place);
  for (const auto& [key, value] : message.items()) {
    if (key == content || !has_more_text(value)) continue;
    const std::string path = place.jq + jq_key(key);
    const io::Json said = message.contains(content) ? message.at(content) : io::Json();
    // Without a content there would be nothing left.
    const std::string take = said.is_null() ? "leave such rows out"
                                            : to_text("take it out, where that may be lost: jq -c 'del(",
                                                      path, ")' IN > OUT.jsonl");
    if (is_one_of(plain_name(key), {"toolcalls", "functioncall", "functioncalls", "toolcall"}))
      throw DataError(place.name, " calls a tool ('", key,
                      "'), which has no form as text here; write the call into its content, or ", take);
    if (names_tools(key))
      throw DataError(place.name, " offers tools ('", key,
                      "'), which have no form as text here; write them into its content, or ", take);
    if (names_media(key))
      throw DataError(place.name, " has '", key, "' beside its content; only texts can be read: ", take);
    if (!names_reasoning(key)) continue;
    if (value.is_string() && said.is_string() &&
        has_words(said.get_ref<const std::string&>(), value.get_ref<const std::string&>()))
      continue;
    const std::string fault =
        to_text(place.name, " has '", key, "' beside its content, which would be lost; ");
    if (!value.is_string() || !(said.is_string() || said.is_null())) throw DataError(fault, take);
    throw DataError(fault, "put it there: jq -c '", place.jq, " |= (", jq_key(key), " as $r | del(",
                    jq_key(key), ") | if ($r // \"\") == \"\" then . else .", content,
                    " = $r + \"\\n\\n\" + .", content, " end)' IN > OUT.jsonl; or ", take);
  }
}

std::string content_of(const io::Json& content, const Place& place) {
  if (content.is_string()) return content.get<std::string>();
  if (content.is_null()) throw DataError(place.name, " has no content (null)");
  if (!content.is_array())
    throw DataError("the content of ", place.name, " must be a text or a list of parts, not ",
                    kind_of_json(content));
  std::string text;
  for (const io::Json& part : content) {
    if (!part.is_object() || !part.contains("type") || !part.at("type").is_string())
      throw DataError(place.name, " has a part of content that is no {type, text}");
    const std::string type = part.at("type").get<std::string>();
    if (type != "text" || !part.contains("text") || !part.at("text").is_string())
      throw DataError(place.name, " has a part of type '", type, "' in its content; only texts can be read");
    refuse_more(part, "text",
                {"a part of the content of " + place.name, place.jq + ".content[]?", place.is_learnt});
    text += part.at("text").get_ref<const std::string&>();
  }
  return text;
}

}  // namespace

bool names_reasoning(const std::string& key) {
  return is_one_of(plain_name(key), {"reasoning", "reasoningcontent", "reasoningtext", "reasoningdetails",
                                     "thinking", "thinkingcontent", "thought", "thoughts", "think",
                                     "rationale", "cot", "chainofthought", "scratchpad", "reasoningtrace"});
}

bool names_tools(const std::string& key) {
  return is_one_of(plain_name(key), {"tools", "functions", "toolcalls", "toolcall", "functioncalls",
                                     "functioncall", "availabletools", "tooldefinitions", "toolschemas",
                                     "functiondefinitions", "pythontools", "xmltools"});
}

bool names_media(const std::string& key) {
  return is_one_of(plain_name(key), {"image", "images", "video", "videos", "audio", "audios", "attachments"});
}

bool has_more_text(const io::Json& value) {
  if (says_nothing(value)) return false;
  if (!value.is_string()) return value.is_structured();
  const std::string word = lower_ascii(std::string(trim(value.get_ref<const std::string&>())));
  return !is_one_of(word, {"on", "off", "yes", "no", "true", "false", "low", "medium", "high", "none", "auto",
                           "n/a", "enabled", "disabled"});
}

bool is_message_list(const io::Json& value) {
  return value.is_array() && !value.empty() &&
         std::all_of(value.begin(), value.end(), [](const io::Json& message) {
           return message.is_object() && (message.contains("role") || message.contains("from")) &&
                  (message.contains("content") || message.contains("value"));
         });
}

void append_messages(const io::Json& list, const std::string& key, const std::vector<std::string>& learnt,
                     std::vector<Message>& messages) {
  if (!list.is_array() || list.empty())
    throw DataError("'", key, "' must be a list of {role, content}, not ",
                    list.is_array() ? "an empty one" : kind_of_json(list));
  for (std::size_t i = 0; i < list.size(); ++i) {
    const io::Json& message = list[i];
    Place place{to_text("message ", i + 1, " in '", key, "'"), jq_key(key) + "[]?"};
    if (!message.is_object()) throw DataError(place.name, " must be an object {role, content}");
    const char* role_key = message.contains("role") ? "role" : "from";
    const char* content = message.contains("content") ? "content" : "value";
    if (!message.contains(role_key) || !message.at(role_key).is_string())
      throw DataError(place.name, " has no 'role' (nor 'from') that is a text");
    const std::string role = role_of(message.at(role_key).get<std::string>());
    place.is_learnt = learnt.empty() || std::find(learnt.begin(), learnt.end(), role) != learnt.end();
    refuse_both(message, "content", "value", place);
    refuse_both(message, "role", "from", place);
    refuse_more(message, content, place);
    if (!message.contains(content)) throw DataError(place.name, " has no 'content' (nor 'value')");
    messages.push_back({role, content_of(message.at(content), place)});
  }
}

}  // namespace bitrain::data
