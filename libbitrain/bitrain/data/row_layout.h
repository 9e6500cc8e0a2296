#pragma once

#include <optional>
#include <string>

#include <bitrain/data/example.h>
#include <bitrain/data/source.h>
#include <bitrain/io/json.h>

namespace bitrain::data {

/// Which keys of a JSON row are read, and as what. The same for all rows of a file.
struct RowLayout {
  enum class Kind { kText, kPrompt, kMessages };
  Kind kind = Kind::kText;
  std::string first;     ///< Key of the text, of the prompt or of the list of messages.
  std::string reply;     ///< Key of the response to a prompt.
  bool guessed = false;  ///< By the keys of a row: no option names them.

  /// "'messages'", "'prompt' and 'response'".
  [[nodiscard]] std::string describe() const;
  /// Whether a row has the keys, null not counting as there.
  [[nodiscard]] bool fits(const io::Json& row) const;
};

/// The layout that options name by text_field, prompt_field or messages_field; nothing where they leave it to
/// the rows. Throws ConfigError where they name several.
[[nodiscard]] std::optional<RowLayout> named_layout(const SourceOptions& options);

/// The layout of a row by its keys: those of OpenAI, ShareGPT, Alpaca, Dolly, TRL and the like, and plain
/// text; of those what SourceOptions::reads asks for. Throws DataError, listing the row's keys, where it is
/// none.
[[nodiscard]] RowLayout layout_of(const io::Json& row, const SourceOptions& options);

/// Fills an example's text, pair or messages from a row. Throws DataError for a row that lacks a key or has
/// something else than its layout there; `where` is not in the message.
void read_row(const io::Json& row, const RowLayout& layout, const SourceOptions& options, Example& example);

}  // namespace bitrain::data
