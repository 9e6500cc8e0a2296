#include <bitrain/data/chat_messages.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

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

std::string content_of(const io::Json& content, const std::string& place) {
  if (content.is_string()) return content.get<std::string>();
  if (content.is_null()) throw DataError(place, " has no content (null)");
  if (!content.is_array())
    throw DataError("the content of ", place, " must be a text or a list of parts, not ",
                    kind_of_json(content));
  std::string text;
  for (const io::Json& part : content) {
    if (!part.is_object() || !part.contains("type") || !part.at("type").is_string())
      throw DataError(place, " has a part of content that is no {type, text}");
    const std::string type = part.at("type").get<std::string>();
    if (type != "text" || !part.contains("text") || !part.at("text").is_string())
      throw DataError(place, " has a part of type '", type, "' in its content; only texts can be read");
    text += part.at("text").get_ref<const std::string&>();
  }
  return text;
}

/// What a message has besides its text, and a text alone would lose.
void refuse_more(const io::Json& message, const std::string& place) {
  for (const char* key : {"tool_calls", "function_call"})
    if (message.contains(key) && !message.at(key).is_null() && !message.at(key).empty())
      throw DataError(place, " calls a tool ('", key,
                      "'), which has no form as text here; write the call into its content");
  const auto unlearnt = [&](const char* key) {
    const auto found = message.find(key);
    return found != message.end() && (*found == false || (found->is_number() && *found == 0));
  };
  for (const char* key : {"weight", "train"})
    if (unlearnt(key))
      throw DataError(place, " is marked as not to be learnt ('", key,
                      "'), but all turns of a supervised role are");
}

}  // namespace

const char* kind_of_json(const io::Json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "true or false";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a text";
  return value.is_array() ? "a list" : "an object";
}

void append_messages(const io::Json& list, const std::string& key, std::vector<Message>& messages) {
  if (!list.is_array() || list.empty())
    throw DataError("'", key, "' must be a list of {role, content}, not ",
                    list.is_array() ? "an empty one" : kind_of_json(list));
  for (std::size_t i = 0; i < list.size(); ++i) {
    const io::Json& message = list[i];
    const std::string place = to_text("message ", i + 1, " in '", key, "'");
    if (!message.is_object()) throw DataError(place, " must be an object {role, content}");
    const char* role = message.contains("role") ? "role" : "from";
    const char* content = message.contains("content") ? "content" : "value";
    if (!message.contains(role) || !message.at(role).is_string())
      throw DataError(place, " has no 'role' (nor 'from') that is a text");
    refuse_more(message, place);
    if (!message.contains(content)) throw DataError(place, " has no 'content' (nor 'value')");
    messages.push_back(
        {role_of(message.at(role).get<std::string>()), content_of(message.at(content), place)});
  }
}

}  // namespace bitrain::data
