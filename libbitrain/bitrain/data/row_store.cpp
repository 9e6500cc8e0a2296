#include <bitrain/data/row_store.h>

#include <limits>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/line_reader.h>

namespace bitrain::data {
namespace {

bool is_compressed(std::string_view bytes) {
  return starts_with(bytes, "\x1f\x8b") || starts_with(bytes, "\x28\xb5\x2f\xfd");
}

}  // namespace

RowStore::RowStore(const std::filesystem::path& path, std::int64_t max_lines, const Accept& accept)
    : file_(io::MappedFile::open(path)) {
  if (is_compressed(file_.view())) {
    file_ = io::MappedFile();
    read_compressed(path, max_lines, accept);
  } else {
    read_mapped(max_lines, accept);
  }
  rows_.shrink_to_fit();
}

std::string_view RowStore::text(std::int64_t row) const {
  const Row& entry = rows_[static_cast<std::size_t>(row)];
  const std::string_view all = unpacked_.empty() ? file_.view() : std::string_view(unpacked_);
  return all.substr(entry.offset, entry.length);
}

std::int64_t RowStore::line_number(std::int64_t row) const {
  return rows_[static_cast<std::size_t>(row)].line;
}

void RowStore::add(std::uint64_t offset, std::string_view line, std::int64_t number) {
  constexpr auto kMost = std::numeric_limits<std::uint32_t>::max();
  if (line.size() > kMost || number > static_cast<std::int64_t>(kMost)) {
    throw DataError("line ", number, " of ", line.size(),
                    " bytes: files of more than 2^32 lines or with lines of 4 GiB must be split");
  }
  rows_.push_back({offset, static_cast<std::uint32_t>(line.size()), static_cast<std::uint32_t>(number)});
}

void RowStore::read_mapped(std::int64_t max_lines, const Accept& accept) {
  const std::string_view all = file_.view();
  std::size_t begin = starts_with(all, "\xef\xbb\xbf") ? 3 : 0;  // a byte order mark is no text
  for (std::int64_t number = 1; begin < all.size() && (max_lines == 0 || number <= max_lines); ++number) {
    const std::size_t newline = all.find('\n', begin);
    const std::size_t end = newline == std::string_view::npos ? all.size() : newline;
    std::string_view line = all.substr(begin, end - begin);
    if (ends_with(line, "\r")) line.remove_suffix(1);
    if (accept(line, number)) add(begin, line, number);
    begin = end + 1;
  }
}

void RowStore::read_compressed(const std::filesystem::path& path, std::int64_t max_lines,
                               const Accept& accept) {
  io::LineReader reader(path);
  std::string buffer;
  for (std::int64_t number = 1; (max_lines == 0 || number <= max_lines) && reader.next(buffer); ++number) {
    if (!accept(buffer, number)) continue;
    add(unpacked_.size(), buffer, number);
    unpacked_.append(buffer);
  }
  unpacked_.shrink_to_fit();
}

}  // namespace bitrain::data
