#include <bitrain/io/line_reader.h>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

#include <zlib.h>
#include <zstd.h>

#include <bitrain/base/error.h>

namespace bitrain::io {
namespace {

constexpr std::size_t kChunk = std::size_t{1} << 17;

/// Bytes of an open file, in chunks.
class RawFile {
 public:
  explicit RawFile(const std::filesystem::path& path) : path_(path.string()) {
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0) throw IoError("cannot open ", path_, ": ", std::strerror(errno));
  }
  ~RawFile() { ::close(descriptor_); }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  std::size_t read(char* to, std::size_t size) {
    while (true) {
      const ssize_t got = ::read(descriptor_, to, size);
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno != EINTR) throw IoError("cannot read ", path_, ": ", std::strerror(errno));
    }
  }

 private:
  std::string path_;
  int descriptor_;
};

/// A stream of decompressed bytes.
class Decoder {
 public:
  virtual ~Decoder() = default;
  /// Fills up to `size` bytes; 0 at the end. Throws FormatError (without a place) for damage.
  virtual std::size_t read(char* to, std::size_t size) = 0;
};

/// The file's bytes again, the ones already taken for a look at the magic first.
class Input {
 public:
  Input(const std::filesystem::path& path) : file_(path), buffer_(kChunk) { refill(); }
  [[nodiscard]] std::string_view rest() const { return {buffer_.data() + begin_, end_ - begin_}; }
  void consume(std::size_t count) { begin_ += count; }
  bool refill() {
    begin_ = 0;
    end_ = file_.read(buffer_.data(), buffer_.size());
    return end_ > 0;
  }

 private:
  RawFile file_;
  std::vector<char> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

class PlainDecoder : public Decoder {
 public:
  explicit PlainDecoder(Input& input) : input_(input) {}
  std::size_t read(char* to, std::size_t size) override {
    if (input_.rest().empty() && !input_.refill()) return 0;
    const std::size_t count = std::min(size, input_.rest().size());
    std::memcpy(to, input_.rest().data(), count);
    input_.consume(count);
    return count;
  }

 private:
  Input& input_;
};

class GzipDecoder : public Decoder {
 public:
  explicit GzipDecoder(Input& input) : input_(input) {
    if (inflateInit2(&stream_, 15 + 16) != Z_OK) throw IoError("cannot start zlib");
  }
  ~GzipDecoder() override { inflateEnd(&stream_); }
  GzipDecoder(const GzipDecoder&) = delete;
  GzipDecoder& operator=(const GzipDecoder&) = delete;

  std::size_t read(char* to, std::size_t size) override {
    stream_.next_out = reinterpret_cast<Bytef*>(to);
    stream_.avail_out = static_cast<uInt>(size);
    while (stream_.avail_out == size) {
      if (input_.rest().empty() && !input_.refill()) {
        if (inside_member_) throw FormatError("the gzip data end too early: the file is truncated");
        return 0;
      }
      if (!inside_member_) {  // Several gzip files one after the other are one file.
        inflateReset(&stream_);
        inside_member_ = true;
      }
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input_.rest().data()));
      const std::size_t before = input_.rest().size();
      stream_.avail_in = static_cast<uInt>(before);
      const int result = inflate(&stream_, Z_NO_FLUSH);
      input_.consume(before - stream_.avail_in);
      if (result == Z_STREAM_END)
        inside_member_ = false;
      else if (result != Z_OK && result != Z_BUF_ERROR)
        throw FormatError("the gzip data are damaged",
                          stream_.msg != nullptr ? std::string(": ") + stream_.msg : "");
    }
    return size - stream_.avail_out;
  }

 private:
  Input& input_;
  z_stream stream_{};
  bool inside_member_ = true;
};

class ZstdDecoder : public Decoder {
 public:
  explicit ZstdDecoder(Input& input) : input_(input), stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) throw IoError("cannot start zstd");
  }
  ~ZstdDecoder() override { ZSTD_freeDStream(stream_); }
  ZstdDecoder(const ZstdDecoder&) = delete;
  ZstdDecoder& operator=(const ZstdDecoder&) = delete;

  std::size_t read(char* to, std::size_t size) override {
    ZSTD_outBuffer out{to, size, 0};
    while (out.pos == 0) {
      if (input_.rest().empty() && !flushing_ && !input_.refill()) {
        if (inside_frame_) throw FormatError("the zstd data end too early: the file is truncated");
        return 0;
      }
      ZSTD_inBuffer in{input_.rest().data(), input_.rest().size(), 0};
      const std::size_t result = ZSTD_decompressStream(stream_, &out, &in);
      input_.consume(in.pos);
      if (ZSTD_isError(result)) throw FormatError("the zstd data are damaged: ", ZSTD_getErrorName(result));
      inside_frame_ = result != 0;
      flushing_ = out.pos == out.size;  // More may wait inside the decoder.
    }
    return out.pos;
  }

 private:
  Input& input_;
  ZSTD_DStream* stream_;
  bool inside_frame_ = true;
  bool flushing_ = false;
};

std::unique_ptr<Decoder> make_decoder(Input& input) {
  const std::string_view magic = input.rest().substr(0, 4);
  if (magic.substr(0, 2) == "\x1f\x8b") return std::make_unique<GzipDecoder>(input);
  if (magic == "\x28\xb5\x2f\xfd") return std::make_unique<ZstdDecoder>(input);
  return std::make_unique<PlainDecoder>(input);
}

}  // namespace

struct LineReader::State {
  explicit State(const std::filesystem::path& file)
      : path(file.string()), input(file), decoder(make_decoder(input)), buffer(kChunk) {}

  std::string path;
  Input input;
  std::unique_ptr<Decoder> decoder;
  std::vector<char> buffer;
  std::size_t begin = 0;
  std::size_t end = 0;
  std::int64_t number = 0;

  bool refill() {
    begin = 0;
    end = decoder->read(buffer.data(), buffer.size());
    return end > 0;
  }
};

LineReader::LineReader(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) throw IoError("cannot read ", path.string(), ": it is a folder");
  state_ = std::make_unique<State>(path);
}
LineReader::~LineReader() = default;
LineReader::LineReader(LineReader&&) noexcept = default;
LineReader& LineReader::operator=(LineReader&&) noexcept = default;

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
      const std::size_t newline = rest.find('\n');
      line.append(rest.substr(0, newline));
      s.begin += newline == std::string_view::npos ? rest.size() : newline + 1;
      if (line.size() > kMaxLineBytes) throw FormatError("a line of more than ", kMaxLineBytes >> 20, " MiB");
      if (newline != std::string_view::npos) break;
    }
  } catch (Error& error) {
    if (error.kind() == ErrorKind::kFormat) error.add_context(where());
    throw;
  }
  if (!line.empty() && line.back() == '\r') line.pop_back();
  if (s.number == 1 && line.compare(0, 3, "\xef\xbb\xbf") == 0) line.erase(0, 3);
  return true;
}

}  // namespace bitrain::io
