#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bitrain::text {

/// SentencePiece's compiled normalisation table: a Darts double array over byte strings, and the strings they
/// become. Read, never made. Every index is checked, so that a damaged table gives wrong text at worst.
class CharsMap {
 public:
  CharsMap() = default;
  /// Throws FormatError naming `name` when the sizes do not fit.
  CharsMap(std::string_view blob, const std::string& name);

  [[nodiscard]] bool empty() const { return units_.empty(); }
  /// The longest entry that begins at `at`: its length and what it becomes; length 0 when there is none.
  [[nodiscard]] std::pair<std::size_t, std::string_view> longest(std::string_view text, std::size_t at) const;
  /// What the shortest entry that begins at `at` becomes.
  [[nodiscard]] std::optional<std::string_view> shortest(std::string_view text, std::size_t at) const;

 private:
  template <class Found>
  void prefixes(std::string_view text, std::size_t at, Found&& found) const;

  std::vector<std::uint32_t> units_;
  std::string strings_;  ///< Each ends with a zero byte.
};

}  // namespace bitrain::text
