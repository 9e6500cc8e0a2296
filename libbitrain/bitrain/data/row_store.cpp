#include <bitrain/data/row_store.h>

#include <limits>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/data/json_values.h>
#include <bitrain/io/byte_reader.h>
#include <bitrain/io/file_kind.h>

namespace bitrain::data {

RowStore::RowStore(const std::filesystem::path& path, bool pipes) : path_(path) {
  const io::PathKind kind = io::kind_of(path);
  if (kind == io::PathKind::kPipe && !pipes)
    throw DataError(
        path.string(),
        ": is a pipe, which can be read only once, and this reads it several times; write it to a "
        "file and name that");
  if (kind == io::PathKind::kFile || kind == io::PathKind::kMissing) file_ = io::MappedFile::open(path);
  // Files that say they are empty may have text all the same, as those of /proc do; they change all the time.
  if (file_.size() > 0) identity_ = file_.identity();
  if (file_.size() == 0 || io::is_packed(path, file_.view())) {
    file_ = io::MappedFile();
    is_unpacked_ = true;
    stream_.emplace(path);
  } else {
    io::refuse_binary(head(), path.string());
  }
}

std::string_view RowStore::head() const {
  return stream_ ? stream_->head() : file_.view().substr(0, io::kHeadBytes);
}

std::string_view RowStore::text(std::int64_t row) const {
  const Row& entry = rows_[static_cast<std::size_t>(row)];
  const std::string_view all = is_unpacked_ ? std::string_view(unpacked_) : file_.view();
  return all.substr(entry.offset, entry.length);
}

std::int64_t RowStore::number(std::int64_t row) const {
  return rows_[static_cast<std::size_t>(row)].number;
}

void RowStore::add(std::uint64_t offset, std::string_view row, std::int64_t number) {
  constexpr auto kMost = std::numeric_limits<std::uint32_t>::max();
  if (row.size() > kMost || number > static_cast<std::int64_t>(kMost)) {
    throw DataError(path_.string(), ": row ", number, " of ", row.size(),
                    " bytes: files of more than 2^32 rows or with rows of 4 GiB must be split");
  }
  rows_.push_back({offset, static_cast<std::uint32_t>(row.size()), static_cast<std::uint32_t>(number)});
}

void RowStore::read_lines(std::int64_t max_rows, const Accept& accept) {
  read_unchanged([&] { is_unpacked_ ? read_stream(max_rows, accept) : read_mapped(max_rows, accept); });
}

void RowStore::read_unchanged(const std::function<void()>& read) {
  try {
    read();
  } catch (const Error&) {  // A row that somebody is writing may look broken: the change comes first.
    check_unchanged();
    throw;
  }
  check_unchanged();
  if (is_unpacked_) identity_ = {};
  rows_.shrink_to_fit();
}

void RowStore::check_unchanged() const {
  identity_.check_not_written();
}

void RowStore::read_mapped(std::int64_t max_rows, const Accept& accept) {
  const std::string_view all = file_.view();
  const char line_end = io::line_end_of(head());
  std::size_t begin = 0;
  for (std::int64_t number = 1; begin < all.size() && (max_rows == 0 || number <= max_rows); ++number) {
    const std::size_t newline = all.find(line_end, begin);
    const std::size_t end = newline == std::string_view::npos ? all.size() : newline;
    // A byte order mark is no text; joined files have them inside.
    std::string_view line = io::without_byte_order_marks(all.substr(begin, end - begin));
    begin = end - line.size();
    if (line_end == '\n' && ends_with(line, "\r")) line.remove_suffix(1);
    if (accept(line, number, number)) add(begin, line, number);
    begin = end + 1;
  }
}

void RowStore::read_stream(std::int64_t max_rows, const Accept& accept) {
  std::string line;
  for (std::int64_t number = 1; (max_rows == 0 || number <= max_rows) && stream_->next(line); ++number) {
    if (!accept(line, number, number)) continue;
    add(unpacked_.size(), line, number);
    unpacked_.append(line);
  }
  stream_.reset();
  unpacked_.shrink_to_fit();
}

void RowStore::read_json(std::int64_t max_rows, const Accept& accept) {
  read_unchanged([&] { read_values(max_rows, accept); });
}

void RowStore::read_values(std::int64_t max_rows, const Accept& accept) {
  if (is_unpacked_) {
    unpacked_ = stream_->read_rest();
    stream_.reset();
  }
  const std::string_view all = is_unpacked_ ? std::string_view(unpacked_) : file_.view();
  JsonValues values(io::without_byte_order_marks(all), path_.string());
  std::string_view value;
  for (std::int64_t number = 1; (max_rows == 0 || number <= max_rows) && values.next(value); ++number)
    if (accept(value, number, values.line()))
      add(static_cast<std::uint64_t>(value.data() - all.data()), value, number);
}

}  // namespace bitrain::data
