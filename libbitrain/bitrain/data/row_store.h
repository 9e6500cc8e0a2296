#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <bitrain/io/file.h>

namespace bitrain::data {

/// The lines of a file, to be read in any order: plain files stay mapped, compressed ones are unpacked into
/// memory. Costs 16 bytes a kept line beside that.
class RowStore {
 public:
  /// Called with each line (without its end) and its number from 1; says whether to keep it.
  using Accept = std::function<bool(std::string_view line, std::int64_t number)>;

  /// Reads at most `max_lines` lines (0: all). Throws IoError.
  RowStore(const std::filesystem::path& path, std::int64_t max_lines, const Accept& accept);

  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(rows_.size()); }
  [[nodiscard]] std::string_view text(std::int64_t row) const;
  /// Line number in the file, from 1.
  [[nodiscard]] std::int64_t line_number(std::int64_t row) const;

 private:
  struct Row {
    std::uint64_t offset;
    std::uint32_t length;
    std::uint32_t line;
  };
  void add(std::uint64_t offset, std::string_view line, std::int64_t number);
  void read_mapped(std::int64_t max_lines, const Accept& accept);
  void read_compressed(const std::filesystem::path& path, std::int64_t max_lines, const Accept& accept);

  io::MappedFile file_;
  std::string unpacked_;
  std::vector<Row> rows_;
};

}  // namespace bitrain::data
