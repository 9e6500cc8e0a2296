#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitrain/io/file.h>
#include <bitrain/io/file_identity.h>
#include <bitrain/io/line_reader.h>

namespace bitrain::data {

/// The rows of a file, to be read in any order: plain files stay mapped, compressed ones and pipes are
/// unpacked into memory. Costs 16 bytes a kept row beside that.
class RowStore {
 public:
  /// Called with each row (without its line end), its number from 1 and the line it begins on; says whether
  /// to keep it.
  using Accept = std::function<bool(std::string_view row, std::int64_t number, std::int64_t line)>;

  /// Opens the file and reads no row yet. Throws IoError; DataError for what is no UTF-8 text at all
  /// (io/file_kind.h), and for a pipe unless `pipes`: that can be read once only.
  RowStore(const std::filesystem::path& path, bool pipes);

  /// The first bytes, unpacked: io::ByteReader::head.
  [[nodiscard]] std::string_view head() const;

  /// Reads at most `max_rows` lines (0: all). Once, and not beside read_json. Throws as io::LineReader, and
  /// IoError where the file changes meanwhile.
  void read_lines(std::int64_t max_rows, const Accept& accept);
  /// Reads at most `max_rows` JSON values, as JsonValues tells them apart.
  void read_json(std::int64_t max_rows, const Accept& accept);

  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(rows_.size()); }
  [[nodiscard]] std::string_view text(std::int64_t row) const;
  /// Before rows are looked at: throws IoError when somebody has written to the file since it was opened. One
  /// that was deleted or replaced stays what it was, and so does what came through a pipe or was unpacked.
  void check_unchanged() const;
  /// Among all rows of the file, from 1; of lines the line number.
  [[nodiscard]] std::int64_t number(std::int64_t row) const;

 private:
  struct Row {
    std::uint64_t offset;
    std::uint32_t length;
    std::uint32_t number;
  };
  void add(std::uint64_t offset, std::string_view row, std::int64_t number);
  void read_mapped(std::int64_t max_rows, const Accept& accept);
  void read_stream(std::int64_t max_rows, const Accept& accept);
  void read_values(std::int64_t max_rows, const Accept& accept);

  /// Calls `read` with a file that must not change meanwhile.
  void read_unchanged(const std::function<void()>& read);

  std::filesystem::path path_;
  io::FileIdentity identity_;  ///< While the file's own bytes are read.
  io::MappedFile file_;
  std::optional<io::LineReader> stream_;
  std::string unpacked_;
  bool is_unpacked_ = false;
  std::vector<Row> rows_;
};

}  // namespace bitrain::data
