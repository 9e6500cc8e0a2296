#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace bitrain::data {

/// One turn of a conversation, with Hugging Face's role names: system, user, assistant, tool.
struct Message {
  std::string role;
  std::string content;
};

/// What sources yield and transforms rewrite. Which members are filled depends on the source: plain text, a
/// prompt/response pair or conversation (`messages`), or a pair of translations (`text`, `pair_text`). An
/// example with nothing in it is skipped and counted by the loader.
struct Example {
  std::string text;
  std::string pair_text;
  std::vector<Message> messages;
  std::vector<std::string> negatives;       ///< Hard negatives of `pair_text`, in its language.
  std::vector<std::string> text_negatives;  ///< Hard negatives of `text`, in its language.
  std::string language;         ///< BCP-47 code, for example "es". Of the response in a conversation.
  std::string pair_language;    ///< Of `pair_text`.
  std::optional<bool> follows;  ///< For next sentences: `pair_text` follows on `text`, or does not.
  std::string source;           ///< Name of the source it came from.
  std::int64_t id = 0;          ///< Row in that source, from 0: stable, for held-out splits and reports.
  std::int64_t clone = 0;       ///< Ids are shifted by this many vocabularies (cloned languages).
  std::shared_ptr<const std::string> place;  ///< What names its row in front of its number: "file:".
  std::optional<double> score;               ///< How like `text` and `pair_text` are, as people judged it.

  [[nodiscard]] bool empty() const { return text.empty() && pair_text.empty() && messages.empty(); }
};

/// Where an example is from, for messages: "file:17", or "row 17 of source 'x'" where there is no file.
[[nodiscard]] std::string row_name(const Example& example);

}  // namespace bitrain::data
