#pragma once

#include <string>
#include <vector>

#include <bitrain/data/example.h>
#include <bitrain/io/json.h>

namespace bitrain::data {

/// "a list", "null", "a number", ..., for messages.
[[nodiscard]] const char* kind_of_json(const io::Json& value);

/// Appends the messages of a list of {role, content} or {from, value}. Content is a text or a list of parts
/// of type text, which are joined; human becomes user, and gpt, model, bot, chatbot and ai become assistant.
/// Throws DataError, naming `key` and the message by its number, for anything else: no text, calls of tools,
/// parts of other types, a turn marked as not to be learnt.
void append_messages(const io::Json& list, const std::string& key, std::vector<Message>& messages);

}  // namespace bitrain::data
