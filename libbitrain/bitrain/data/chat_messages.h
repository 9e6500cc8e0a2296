#pragma once

#include <string>
#include <vector>

#include <bitrain/data/example.h>
#include <bitrain/io/json.h>

namespace bitrain::data {

/// Appends the messages of a list of {role, content} or {from, value}. Content is a text or a list of parts
/// of type text, which are joined; human becomes user, and gpt, model, bot, chatbot and ai become assistant.
/// `learnt` are the roles whose turns are learnt; empty: all may be.
/// Throws DataError, naming `key` and the message by its number, for anything else: no text, calls of tools,
/// reasoning beside the content, parts of other types, pictures, a turn of a role in `learnt` that is marked
/// as not to be learnt (weight 0, train false, loss false, masked true, ...), or as to be learnt in part.
void append_messages(const io::Json& list, const std::string& key, const std::vector<std::string>& learnt,
                     std::vector<Message>& messages);

/// Whether a value is a list of objects that have a role and a content, under any of their names.
[[nodiscard]] bool is_message_list(const io::Json& value);

/// Whether a row's key or a message's key names reasoning in front of a reply, whatever its letters' case.
[[nodiscard]] bool names_reasoning(const std::string& key);
/// Likewise tools that are offered, or calls of them.
[[nodiscard]] bool names_tools(const std::string& key);
/// Likewise pictures and other data that are no text.
[[nodiscard]] bool names_media(const std::string& key);
/// Whether a value of such a key has something to read; not null, empty, a switch ("on") or true.
[[nodiscard]] bool has_more_text(const io::Json& value);

}  // namespace bitrain::data
