#include <bitrain/io/byte_reader.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <bitrain/base/error.h>
#include <bitrain/base/failure.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file_kind.h>

namespace bitrain::io {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kChunk = std::size_t{1} << 17;
constexpr std::string_view kGzip = "\x1f\x8b";
constexpr std::string_view kZstd = "\x28\xb5\x2f\xfd";

bool is_skippable_zstd(std::string_view first) {
  return first.size() >= 4 && (static_cast<unsigned char>(first[0]) & 0xF0) == 0x50 &&
         first.substr(1, 3) == "\x2a\x4d\x18";
}

/// Bytes of an open file, in chunks.
class RawFile {
 public:
  explicit RawFile(const fs::path& path) : path_(path.string()) {
    const PathKind kind = kind_of(path);
    if (kind == PathKind::kFolder) throw IoError("cannot read ", path_, ": it is a folder");
    if (kind == PathKind::kDevice) throw IoError("cannot read ", path_, ": it is a device, not a file");
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

/// The file's bytes with a look ahead.
class Input {
 public:
  explicit Input(const fs::path& path) : file_(path), buffer_(kChunk) {}
  [[nodiscard]] std::string_view rest() const { return {buffer_.data() + begin_, end_ - begin_}; }
  void consume(std::size_t count) {
    begin_ += count;
    position_ += count;
  }
  /// Of the next byte, in the file, from 1.
  [[nodiscard]] std::uint64_t next_byte() const { return position_ + 1; }
  /// The next `count` bytes or more; fewer only at the end of the file.
  std::string_view ahead(std::size_t count) {
    while (end_ - begin_ < count) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
      const std::size_t got = file_.read(buffer_.data() + end_, buffer_.size() - end_);
      if (got == 0) break;
      end_ += got;
    }
    return rest();
  }

 private:
  RawFile file_;
  std::vector<char> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::uint64_t position_ = 0;
};

/// A stream of unpacked bytes.
class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual std::size_t read(char* to, std::size_t size) = 0;
};

class PlainDecoder : public Decoder {
 public:
  explicit PlainDecoder(Input& input) : input_(input) {}
  std::size_t read(char* to, std::size_t size) override {
    const std::string_view rest = input_.ahead(1);
    const std::size_t count = std::min(size, rest.size());
    std::memcpy(to, rest.data(), count);
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
      if (!inside_member_ && !begin_member()) return 0;
      const std::string_view rest = input_.ahead(1);
      if (rest.empty()) throw FormatError("the gzip data end too early: the file is truncated");
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(rest.data()));
      stream_.avail_in = static_cast<uInt>(rest.size());
      const int result = inflate(&stream_, Z_NO_FLUSH);
      input_.consume(rest.size() - stream_.avail_in);
      if (result == Z_STREAM_END)
        inside_member_ = false;
      else if (result == Z_MEM_ERROR)
        throw UnsupportedError("there is not enough memory to unpack the gzip data");
      else if (result != Z_OK && result != Z_BUF_ERROR)
        throw FormatError("the gzip data are damaged",
                          stream_.msg != nullptr ? std::string(": ") + stream_.msg : "");
    }
    return size - stream_.avail_out;
  }

 private:
  /// Several gzip files one after the other are one; archives that are padded to whole blocks have zeros
  /// behind them.
  bool begin_member() {
    for (std::string_view rest = input_.ahead(1); !rest.empty() && rest.front() == '\0';
         rest = input_.ahead(1))
      input_.consume(std::min(rest.find_first_not_of('\0'), rest.size()));
    const std::string_view next = input_.ahead(kGzip.size()).substr(0, kGzip.size());
    if (next.empty()) return false;
    if (next != kGzip)
      throw FormatError(
          "behind the gzip data, at byte ", input_.next_byte(),
          " of the file, stand bytes that are none; where they are of no use, gzip -dc IN | gzip > "
          "OUT leaves them out");
    inflateReset(&stream_);
    inside_member_ = true;
    return true;
  }

  Input& input_;
  z_stream stream_{};
  bool inside_member_ = true;
};

std::uint64_t little_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i > 0; --i)
    value = value << 8 | static_cast<unsigned char>(bytes[i - 1]);
  return value;
}

/// What a frame asks to be kept in memory (RFC 8878, 3.1.1.1); 0 where the header is cut.
std::uint64_t window_of(std::string_view frame) {
  constexpr std::size_t kIdBytes[] = {0, 1, 2, 4};
  constexpr std::size_t kSizeBytes[] = {1, 2, 4, 8};
  if (frame.size() < 6) return 0;
  const auto descriptor = static_cast<unsigned char>(frame[4]);
  if ((descriptor & 0x20) == 0) {
    const auto window = static_cast<unsigned char>(frame[5]);
    const std::uint64_t base = std::uint64_t{1} << (10 + (window >> 3));
    return base + base / 8 * (window & 7);
  }
  const std::size_t begin = 5 + kIdBytes[descriptor & 3];
  const std::size_t bytes = kSizeBytes[descriptor >> 6];
  return frame.size() < begin + bytes ? 0 : little_endian(frame.substr(begin, bytes));
}

class ZstdDecoder : public Decoder {
 public:
  explicit ZstdDecoder(Input& input) : input_(input), stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) throw IoError("cannot start zstd");
    // Large corpora are packed with windows of up to 2 GiB (zstd --long=31); the default stops at 128 MiB.
    ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax,
                           ZSTD_dParam_getBounds(ZSTD_d_windowLogMax).upperBound);
  }
  ~ZstdDecoder() override { ZSTD_freeDStream(stream_); }
  ZstdDecoder(const ZstdDecoder&) = delete;
  ZstdDecoder& operator=(const ZstdDecoder&) = delete;

  std::size_t read(char* to, std::size_t size) override {
    ZSTD_outBuffer out{to, size, 0};
    while (out.pos == 0) {
      if (!inside_frame_ && !begin_frame()) return 0;
      const std::string_view rest = flushing_ ? input_.rest() : input_.ahead(1);
      if (rest.empty() && !flushing_) throw FormatError("the zstd data end too early: the file is truncated");
      ZSTD_inBuffer in{rest.data(), rest.size(), 0};
      const std::size_t result = ZSTD_decompressStream(stream_, &out, &in);
      input_.consume(in.pos);
      if (ZSTD_isError(result)) fail(result);
      inside_frame_ = result != 0;
      flushing_ = inside_frame_ && out.pos == out.size;  // More may wait inside the decoder.
    }
    return out.pos;
  }

 private:
  bool begin_frame() {
    const std::string_view frame = input_.ahead(18);  // the longest header of a frame
    const std::string_view magic = frame.substr(0, 4);
    if (magic.empty()) return false;
    if (magic != kZstd && !is_skippable_zstd(magic) && !(magic.size() < 4 && starts_with(kZstd, magic)))
      throw FormatError("behind the zstd data, at byte ", input_.next_byte(),
                        " of the file, stand bytes that are none");
    window_ = is_skippable_zstd(magic) ? 0 : window_of(frame);
    inside_frame_ = true;
    return true;
  }

  [[noreturn]] void fail(std::size_t result) const {
    switch (ZSTD_getErrorCode(result)) {
      case ZSTD_error_frameParameter_windowTooLarge:
        throw FormatError("the zstd data need a window of ", human_bytes(window_),
                          ", more than can be unpacked; pack them anew with zstd --long=31 or less");
      case ZSTD_error_memory_allocation:
        throw OutOfMemoryError("the zstd data need a window of ", human_bytes(window_), ": ",
                               out_of_memory(window_));
      case ZSTD_error_dictionary_wrong:
        throw FormatError("the zstd data were packed with a dictionary; pack them anew without");
      default: throw FormatError("the zstd data are damaged: ", ZSTD_getErrorName(result));
    }
  }

  Input& input_;
  ZSTD_DStream* stream_;
  std::uint64_t window_ = 0;
  bool inside_frame_ = false;
  bool flushing_ = false;
};

/// A file shorter than what gzip and zstd begin with, and of their name.
bool is_cut_magic(const fs::path& path, std::string_view first) {
  return !first.empty() &&
         ((path.extension() == ".gz" && first.size() < kGzip.size() && starts_with(kGzip, first)) ||
          (path.extension() == ".zst" && first.size() < kZstd.size() && starts_with(kZstd, first)));
}

std::unique_ptr<Decoder> make_decoder(const fs::path& path, Input& input) {
  const std::string_view first = input.ahead(4).substr(0, 4);
  if (is_cut_magic(path, first))
    throw FormatError(path.string(), ": the packed data end too early: the file is truncated");
  if (first.substr(0, 2) == kGzip) return std::make_unique<GzipDecoder>(input);
  if (first == kZstd || is_skippable_zstd(first)) return std::make_unique<ZstdDecoder>(input);
  return std::make_unique<PlainDecoder>(input);
}

}  // namespace

PathKind kind_of(const fs::path& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) return PathKind::kMissing;
  if (S_ISDIR(status.st_mode)) return PathKind::kFolder;
  if (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode)) return PathKind::kPipe;
  return S_ISREG(status.st_mode) ? PathKind::kFile : PathKind::kDevice;
}

bool is_packed(const fs::path& path, std::string_view first) {
  return starts_with(first, kGzip) || starts_with(first, kZstd) || is_skippable_zstd(first) ||
         is_cut_magic(path, first);
}

struct ByteReader::State {
  explicit State(const fs::path& path) : input(path), decoder(make_decoder(path, input)), head(kHeadBytes) {
    std::size_t filled = 0;
    try {
      while (filled < head.size()) {
        const std::size_t got = decoder->read(head.data() + filled, head.size() - filled);
        if (got == 0) break;
        filled += got;
      }
    } catch (const Error&) {  // It waits until the lines before it are read, to be named by its line.
      damage = std::current_exception();
    }
    head.resize(filled);
  }

  Input input;
  std::unique_ptr<Decoder> decoder;
  std::vector<char> head;
  std::size_t given = 0;  ///< Of the head.
  std::exception_ptr damage;
};

ByteReader::ByteReader(const fs::path& path) : state_(std::make_unique<State>(path)) {}
ByteReader::~ByteReader() = default;
ByteReader::ByteReader(ByteReader&&) noexcept = default;
ByteReader& ByteReader::operator=(ByteReader&&) noexcept = default;

std::string_view ByteReader::head() const {
  return {state_->head.data(), state_->head.size()};
}

std::size_t ByteReader::read(char* to, std::size_t size) {
  State& s = *state_;
  if (s.given == s.head.size()) {
    if (s.damage) std::rethrow_exception(s.damage);
    return s.decoder->read(to, size);
  }
  const std::size_t count = std::min(size, s.head.size() - s.given);
  std::memcpy(to, s.head.data() + s.given, count);
  s.given += count;
  return count;
}

}  // namespace bitrain::io
