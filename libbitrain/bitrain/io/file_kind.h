#pragma once

#include <optional>
#include <string>
#include <string_view>

/// What a file is by its first bytes, where it is no plain UTF-8 text. Names and endings are not looked at.
namespace bitrain::io {

/// Bytes at the beginning of a file, unpacked, that are looked at to tell what it is.
inline constexpr std::size_t kHeadBytes = std::size_t{1} << 16;

/// Text without the byte order marks of UTF-8 in front of it: joining and converting files leaves several.
[[nodiscard]] std::string_view without_byte_order_marks(std::string_view text);

struct FileKind {
  std::string name;    ///< To stand behind "is ": "a Parquet file".
  std::string remedy;  ///< What to do, to stand behind "; ".
};

/// Containers, other compressions and encodings that no reader of text can read: archives, Parquet, Arrow,
/// SQLite, office files, pickles, TFRecords, images, UTF-16 and UTF-32 with or without a byte order mark, and
/// what is mostly control characters. Nothing for UTF-8 and for 8-bit encodings such as Latin-1.
[[nodiscard]] std::optional<FileKind> binary_kind(std::string_view head);

/// Text that holds something else than lines of a corpus or rows: HTML, XML, RTF, PDF.
[[nodiscard]] std::optional<FileKind> marked_up_kind(std::string_view head);

/// Throws DataError, "<path>: is <name>; <remedy>", where binary_kind finds something.
void refuse_binary(std::string_view head, const std::string& path);

/// What ends a line: "\n", or "\r" where the head has no "\n" (old Mac OS).
[[nodiscard]] char line_end_of(std::string_view head);

}  // namespace bitrain::io
