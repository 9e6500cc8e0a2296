#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bitrain::text {

/// Characters that Unicode 15 and 16 brought, or gave other properties, stand in texts that are matched for
/// older ones like them: the engine of `tokenizers` knows Unicode 16, those of Debian 12 know Unicode 14. An
/// older character has the same length in UTF-8, the same general category, is a letter (and small, and
/// capital) or not alike, and is of the same script where there is one such.
class StandIns {
 public:
  enum class For { kPcre2, kOniguruma };

  /// For texts that `expression` is matched on by an engine; `where` is for messages.
  StandIns(std::string_view expression, For engine, std::string where);

  /// `text` itself, or a copy in `buffer` of the same length with stand-ins. Throws DataError for a
  /// character that the expression could tell from its stand-in.
  [[nodiscard]] std::string_view apply(std::string_view text, std::string& buffer) const;

 private:
  enum class Use : std::uint8_t { kReplace, kLeave, kRefuse };
  std::string where_;
  std::vector<Use> uses_;  ///< Of the rows of the table.
};

/// The older character that stands for `code`, itself where it is old.
[[nodiscard]] std::uint32_t stand_in_of(std::uint32_t code);

/// The name of a character property as Oniguruma compares it: in small letters, without blanks, '_' and '-'.
[[nodiscard]] std::string plain_property_name(std::string_view name);

/// Whether Oniguruma before and after Unicode 14 means the same by \p{name}, stand-ins taken into account.
[[nodiscard]] bool is_known_property(const std::string& plain_name);

}  // namespace bitrain::text
