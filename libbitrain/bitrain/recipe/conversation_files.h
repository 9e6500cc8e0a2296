#pragma once

#include <string>

#include <bitrain/fields/rule.h>

namespace bitrain::recipe {

/// A file of conversations. A recipe may write its path alone.
struct ConversationFileOptions {
  std::string path;
  std::string name;
  std::string format = "auto";
  std::string language;
  std::string messages_field;
  std::string prompt_field;
  std::string response_field;
  bool skip_invalid = false;
};
template <class Visitor>
void visit_fields(Visitor& v, ConversationFileOptions& o) {
  v.field("path", o.path, names_file(required(not_empty())),
          "JSON file, one row a line or an array; also as .gz or .zst.");
  v.field("name", o.name, any(), "In mixtures; empty: the file's name without its ending.");
  v.field("format", o.format, one_of({"auto", "jsonl"}), "jsonl: whatever the name's ending says.");
  v.field("language", o.language, any(), "Code of the replies' language.");
  v.field(
      "messages_field", o.messages_field, any(),
      "Key of a list of {role, content} or {from, value}. Where no key is named, rows are read in the layout "
      "that the first one has: messages, conversations (ShareGPT), instruction and output (Alpaca), prompt "
      "and completion or response, question and answer, query and response.");
  v.field("prompt_field", o.prompt_field, any(), "Key of a prompt: a text, or a list of messages.");
  v.field("response_field", o.response_field, any(), "Key of the response to it, likewise.");
  v.field("skip_invalid", o.skip_invalid, any(),
          "Leave out and count rows of this file that cannot be read; the recipe's skip_invalid does so for "
          "all.");
}

/// What a recipe writes where it gives no map.
inline std::string& short_form(ConversationFileOptions& o) {
  return o.path;
}

}  // namespace bitrain::recipe
