#include <bitrain/io/file_kind.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain::io {
namespace {

using namespace std::string_view_literals;

struct Magic {
  std::string_view bytes;
  std::string_view name;
  std::string_view remedy;
};

constexpr std::string_view kPack = "unpack it, or pack it with gzip or zstd";
constexpr std::string_view kUnpack = "unpack it and name the text file in it";
constexpr std::string_view kTable =
    "write it as JSONL, in Python: datasets.Dataset.from_parquet(\"in.parquet\").to_json(\"out.jsonl\")";
constexpr std::string_view kArrow =
    "write it as JSONL, in Python: datasets.Dataset.from_file(\"in.arrow\").to_json(\"out.jsonl\")";
/// datasets reads streams alone.
constexpr std::string_view kFeather =
    "write it as JSONL, in Python: pandas.read_feather(\"in.arrow\").to_json(\"out.jsonl\", "
    "orient=\"records\", "
    "lines=True, force_ascii=False)";
constexpr std::string_view kPickle = "write it as JSONL, in Python: json.dumps of each row, one a line";
constexpr std::string_view kText = "name a text, TSV or JSONL file";

/// Gzip and zstd are here for what is packed twice: once they are unpacked by the reader.
constexpr Magic kMagics[] = {
    {"\x1f\x8b"sv, "gzip data within packed data", "unpack it once"},
    {"\x28\xb5\x2f\xfd"sv, "zstd data within packed data", "unpack it once"},
    {"\xfd\x37zXZ\0"sv, "an xz file", kPack},
    {"BZh"sv, "a bzip2 file", kPack},
    {"\x04\x22\x4d\x18"sv, "an lz4 file", kPack},
    {"\x02\x21\x4c\x18"sv, "an lz4 file", kPack},
    {"\x5d\0\0"sv, "an lzma file", kPack},
    {"LZIP"sv, "an lzip file", kPack},
    {"\x89LZO\0"sv, "an lzop file", kPack},
    {"\x1f\x9d"sv, "a file of compress (.Z)", kPack},
    {"\xff\x06\0\0sNaPpY"sv, "a snappy file", kPack},
    {"7z\xbc\xaf\x27\x1c"sv, "a 7-Zip archive", kUnpack},
    {"Rar!\x1a\x07"sv, "a RAR archive", kUnpack},
    {"PAR1"sv, "a Parquet file", kTable},
    {"PARE"sv, "an encrypted Parquet file", kTable},
    {"ARROW1"sv, "an Arrow file", kFeather},
    {"\xff\xff\xff\xff"sv, "an Arrow stream", kArrow},
    {"FEA1"sv, "a Feather file", kFeather},
    {"ORC"sv, "an ORC file", "write it as JSONL"},
    {"Obj\x01"sv, "an Avro file", "write it as JSONL"},
    {"SQLite format 3\0"sv, "an SQLite database",
     "write a table of it as JSONL or TSV, for example with sqlite3 -tabs"},
    {"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"sv, "an old Office file (XLS, DOC)", "save it as UTF-8 text or TSV"},
    {"\x89HDF\r\n\x1a\n"sv, "an HDF5 file", "write it as JSONL"},
    {"\x93NUMPY"sv, "a NumPy array", kText},
    {"\x80\x02"sv, "a Python pickle", kPickle},
    {"\x80\x03"sv, "a Python pickle", kPickle},
    {"\x80\x04"sv, "a Python pickle", kPickle},
    {"\x80\x05"sv, "a Python pickle", kPickle},
    {"]q\0"sv, "a Python pickle", kPickle},
    {"}q\0"sv, "a Python pickle", kPickle},
    {"GGUF"sv, "a GGUF model", kText},
    {"\x7f"
     "ELF"sv,
     "a program", kText},
    {"\x89PNG"sv, "an image", kText},
    {"\xff\xd8\xff"sv, "an image", kText},
    {"GIF8"sv, "an image", kText},
};

/// Control characters that texts do not have; tabs, line ends, form feeds and escapes they do.
bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 && !(byte >= 0x09 && byte <= 0x0d) && byte != 0x1b;
}

/// Whether the first KiB has what no text has. A magic of printable letters may begin a text, too.
bool has_binary_bytes(std::string_view head) {
  const std::string_view first = head.substr(0, 1024);
  if (std::any_of(first.begin(), first.end(), is_control)) return true;
  const std::size_t bad = find_invalid_utf8(first);
  return bad != std::string_view::npos && bad + 4 <= first.size();  // not merely cut within a character
}

FileKind zip_kind(std::string_view head) {
  // The name of the first entry stands 30 bytes in.
  const std::string_view names = head.substr(0, 4096);
  const auto has = [&](std::string_view name) { return names.find(name) != std::string_view::npos; };
  if (has("xl/")) return {"an Excel workbook (XLSX)", "save it as TSV in UTF-8"};
  if (has("word/")) return {"a Word document (DOCX)", "save it as text in UTF-8"};
  if (has("opendocument")) return {"an OpenDocument file", "save it as text or TSV in UTF-8"};
  if (has("[Content_Types].xml"))
    return {"an Office file (XLSX, DOCX, ...)", "save it as text or TSV in UTF-8"};
  return {"a ZIP archive", std::string(kUnpack)};
}

/// Whether a line is how pickles of protocol 0 note a value for later: "p0".
bool is_pickle_memo(std::string_view line) {
  return line.size() >= 2 && line.size() <= 6 && line[0] == 'p' &&
         line.find_first_not_of("0123456789", 1) == std::string_view::npos;
}

/// Pickles of protocol 0, which are lines of ASCII: a list "(lp0", a dictionary "(dp0", a text "Vwords" or
/// "S'words'" with "p0" behind it, an object "cmodule" with its class and "p0"; protocol 1 has counted texts.
bool is_old_pickle(std::string_view head) {
  std::array<std::string_view, 3> lines;
  std::string_view rest = head;
  for (std::string_view& line : lines) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  std::string_view first = lines[0];
  if ((starts_with(first, "(l") || starts_with(first, "(d")) && is_pickle_memo(first.substr(2))) return true;
  while (starts_with(first, "(")) first.remove_prefix(1);
  if (starts_with(first, "V") || starts_with(first, "S'") || starts_with(first, "S\""))
    return is_pickle_memo(lines[1]);
  if (starts_with(first, "c") && first.find(' ') == std::string_view::npos)
    return is_pickle_memo(lines[2]) || starts_with(lines[2], "q\0"sv);
  while (starts_with(head, "(")) head.remove_prefix(1);
  return head.size() > 5 && head[0] == 'X' && head.substr(3, 2) == "\0\0"sv;
}

/// CRC-32C of bytes, as TFRecord masks it.
std::uint32_t masked_crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xffffffffU;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0x82f63b78U : 0U);
  }
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

/// A TFRecord begins with the length of its first record and a checksum of that.
bool is_tfrecord(std::string_view head) {
  if (head.size() < 16) return false;
  std::uint32_t checksum = 0;
  for (std::size_t i = 0; i < 4; ++i)
    checksum |= static_cast<std::uint32_t>(static_cast<unsigned char>(head[8 + i])) << (8 * i);
  return checksum == masked_crc32c(head.substr(0, 8));
}

FileKind encoding(const std::string& name, const char* what) {
  return {what, "convert it: iconv -f " + name + " -t UTF-8 IN > OUT"};
}

/// How often each control character stands at each place of four.
using Controls = std::array<std::array<std::size_t, 0x20>, 4>;

Controls count_controls(std::string_view head) {
  Controls counts{};
  for (std::size_t i = 0; i < head.size(); ++i)
    if (is_control(head[i])) ++counts[i % 4][static_cast<unsigned char>(head[i])];
  return counts;
}

/// Whether bytes at one place of two are those of UTF-16 that tell blocks of Unicode apart: zeros, of spaces
/// and line ends at least, or one control character nearly throughout (0x0E of Thai, 0x04 of Cyrillic).
bool tells_blocks(const Controls& counts, std::size_t side, std::size_t size) {
  const auto at = [&](std::size_t place, std::size_t byte) {
    return counts[place][byte] + counts[place + 2][byte];
  };
  const std::size_t zeros = at(side, 0);
  if (zeros >= 2 && zeros * 50 >= size && at(1 - side, 0) * 20 <= zeros) return true;
  for (std::size_t byte = 1; byte < 0x20; ++byte)
    if (at(side, byte) >= 16 && at(side, byte) * 5 >= size && at(1 - side, byte) * 4 <= at(side, byte))
      return true;
  return false;
}

/// UTF-16 and UTF-32 by their byte order mark, or by what stands in every second or fourth byte.
std::optional<FileKind> wide_kind(std::string_view head) {
  if (starts_with(head, "\xff\xfe\0\0"sv)) return encoding("UTF-32", "UTF-32 text");
  if (starts_with(head, "\0\0\xfe\xff"sv)) return encoding("UTF-32", "UTF-32 text");
  if (starts_with(head, "\xff\xfe"sv) || starts_with(head, "\xfe\xff"sv))
    return encoding("UTF-16", "UTF-16 text");
  const Controls counts = count_controls(head);
  const std::size_t half = head.size() / 4 * 2;
  const std::size_t first = counts[0][0] + counts[1][0];
  const std::size_t last = counts[2][0] + counts[3][0];
  if (half >= 4 && last >= half && first < half)
    return encoding("UTF-32LE", "UTF-32 text (little-endian, without a byte order mark)");
  if (half >= 4 && first >= half && last < half)
    return encoding("UTF-32BE", "UTF-32 text (big-endian, without a byte order mark)");
  if (tells_blocks(counts, 1, head.size()))
    return encoding("UTF-16LE", "UTF-16 text (little-endian, without a byte order mark)");
  if (tells_blocks(counts, 0, head.size()))
    return encoding("UTF-16BE", "UTF-16 text (big-endian, without a byte order mark)");
  return std::nullopt;
}

}  // namespace

std::string_view without_byte_order_marks(std::string_view text) {
  while (starts_with(text, "\xef\xbb\xbf")) text.remove_prefix(3);
  return text;
}

std::optional<FileKind> binary_kind(std::string_view head) {
  const auto first = static_cast<unsigned char>(head.empty() ? 0 : head[0]);
  if (first >= 0x1e && first <= 0x27 && head.substr(1, 3) == "\xb5\x2f\xfd"sv)
    return FileKind{"zstd data of a format older than 0.8", "pack it anew with a zstd of today"};
  if (is_tfrecord(head))
    return FileKind{"a TFRecord file", "write its records as JSONL, in Python with tf.data.TFRecordDataset"};
  if (is_old_pickle(head)) return FileKind{"a Python pickle", std::string(kPickle)};
  if (has_binary_bytes(head)) {
    for (const Magic& magic : kMagics)
      if (starts_with(head, magic.bytes)) return FileKind{std::string(magic.name), std::string(magic.remedy)};
    if (starts_with(head, "PK\x03\x04"sv) || starts_with(head, "PK\x05\x06"sv)) return zip_kind(head);
    if (head.size() > 262 && head.substr(257, 5) == "ustar")
      return FileKind{"a tar archive", std::string(kUnpack)};
    if (head.size() > 9 && head[8] == '{' && head.substr(3, 5) == "\0\0\0\0\0"sv)
      return FileKind{"a safetensors file", std::string(kText)};
    if (starts_with(head, "%PDF-")) return marked_up_kind(head);
  }
  if (const std::optional<FileKind> wide = wide_kind(head)) return wide;
  const auto controls = static_cast<std::size_t>(std::count_if(head.begin(), head.end(), is_control));
  if (controls >= 16 && controls * 10 > head.size())
    return FileKind{
        to_text("no text: of its first ", head.size(), " bytes ", controls, " are control characters"),
        std::string(kText)};
  return std::nullopt;
}

std::optional<FileKind> marked_up_kind(std::string_view head) {
  head = without_byte_order_marks(head);
  const std::string begin = lower_ascii(std::string(trim(head.substr(0, 1024)).substr(0, 64)));
  if (starts_with(begin, "<!doctype html") || starts_with(begin, "<html"))
    return FileKind{"HTML",
                    "take the text out of it; where it should be a data file, the download went wrong"};
  if (starts_with(begin, "<?xml")) return FileKind{"XML", "write its texts as lines, TSV or JSONL"};
  if (starts_with(begin, "%pdf-"))
    return FileKind{"PDF", "take the text out of it, for example with pdftotext"};
  if (starts_with(begin, "{\\rtf")) return FileKind{"RTF", "save it as text in UTF-8"};
  return std::nullopt;
}

void refuse_binary(std::string_view head, const std::string& path) {
  if (const std::optional<FileKind> kind = binary_kind(head))
    throw DataError(path, ": is ", kind->name, "; ", kind->remedy);
}

char line_end_of(std::string_view head) {
  const bool old_mac = head.find('\n') == std::string_view::npos && head.find('\r') != std::string_view::npos;
  return old_mac ? '\r' : '\n';
}

}  // namespace bitrain::io
