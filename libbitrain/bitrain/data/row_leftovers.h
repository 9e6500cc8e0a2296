#pragma once

#include <string>
#include <vector>

#include <bitrain/data/example.h>
#include <bitrain/data/row_layout.h>
#include <bitrain/io/json.h>

/// What rows have beside the keys of a guessed layout.
namespace bitrain::data {

/// Whether a key names earlier turns: history, chat_history and the like.
[[nodiscard]] bool names_history(const std::string& key);
/// Whether a key names an instruction to the model that stands before all turns: system, system_prompt, ...
[[nodiscard]] bool names_system(const std::string& key);
/// Whether a key names a part of a prompt: input, context, question, choices, ...
[[nodiscard]] bool names_prompt(const std::string& key);

/// "messages_field: turns", or "prompt_field: question and response_field: answer".
[[nodiscard]] std::string fields_of(const RowLayout& layout);

/// Throws DataError, naming the key, where a row whose layout was guessed has text of its conversation at a
/// key that the layout does not read: parts of the prompt, a second reply, reasoning, tools, pictures, a
/// reply that is not to be learnt. Passes over keys that name something else (id, source, score), over empty
/// values, and over texts that are in `messages` already, or have all of them in a template. Other keys are
/// read by others: `read` says which.
void refuse_leftovers(const io::Json& row, const RowLayout& layout, const std::vector<std::string>& read,
                      const std::vector<Message>& messages);

}  // namespace bitrain::data
