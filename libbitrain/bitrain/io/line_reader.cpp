#include <bitrain/io/line_reader.h>

#include <string_view>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/byte_reader.h>
#include <bitrain/io/file.h>
#include <bitrain/io/file_kind.h>

namespace bitrain::io {
namespace {

constexpr std::size_t kChunk = std::size_t{1} << 17;

}  // namespace

struct LineReader::State {
  explicit State(const std::filesystem::path& file) : path(file.string()), bytes(file), buffer(kChunk) {
    refuse_binary(bytes.head(), path);
    refuse_lfs_pointer(bytes.head(), file);
    line_end = line_end_of(bytes.head());
  }

  std::string path;
  ByteReader bytes;
  char line_end = '\n';
  std::vector<char> buffer;
  std::size_t begin = 0;
  std::size_t end = 0;
  std::int64_t number = 0;

  bool refill() {
    begin = 0;
    end = bytes.read(buffer.data(), buffer.size());
    return end > 0;
  }
};

LineReader::LineReader(const std::filesystem::path& path) : state_(std::make_unique<State>(path)) {}
LineReader::~LineReader() = default;
LineReader::LineReader(LineReader&&) noexcept = default;
LineReader& LineReader::operator=(LineReader&&) noexcept = default;

std::string_view LineReader::head() const {
  return state_->bytes.head();
}

std::int64_t LineReader::line_number() const {
  return state_->number;
}

std::string LineReader::where() const {
  return state_->path + ":" + std::to_string(state_->number);
}

bool LineReader::next(std::string& line) {
  State& s = *state_;
  line.clear();
  ++s.number;
  try {
    while (true) {
      if (s.begin == s.end && !s.refill()) {
        if (line.empty()) {
          --s.number;
          return false;
        }
        break;
      }
      const std::string_view rest(s.buffer.data() + s.begin, s.end - s.begin);
      const std::size_t newline = rest.find(s.line_end);
      line.append(rest.substr(0, newline));
      s.begin += newline == std::string_view::npos ? rest.size() : newline + 1;
      if (line.size() > kMaxLineBytes)
        throw FormatError("a line of more than ", kMaxLineBytes >> 20,
                          " MiB; break the text into lines, or unpack the file where it is packed");
      if (newline != std::string_view::npos) break;
    }
  } catch (Error& error) {
    if (error.kind() != ErrorKind::kIo) error.add_context(where());
    throw;
  }
  if (s.line_end == '\n' && !line.empty() && line.back() == '\r') line.pop_back();
  line.erase(0, line.size() - without_byte_order_marks(line).size());
  return true;
}

std::string LineReader::read_rest() {
  State& s = *state_;
  std::string rest(s.buffer.data() + s.begin, s.end - s.begin);
  try {
    while (s.refill()) rest.append(s.buffer.data(), s.end);
  } catch (Error& error) {
    if (error.kind() != ErrorKind::kIo) error.add_context(s.path);
    throw;
  }
  s.begin = s.end = 0;
  return rest;
}

}  // namespace bitrain::io
