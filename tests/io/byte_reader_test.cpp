#include <bitrain/io/byte_reader.h>

#include <sys/stat.h>

#include <fstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/io/line_reader.h>

#include "support/compressed.h"
#include "support/temporary_directory.h"

namespace bitrain::io {
namespace {

namespace fs = std::filesystem;
using test::gzip;
using test::zstd;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kSkippable = std::string("\x50\x2a\x4d\x18\x08\x00\x00\x00", 8) + "bitrain!";

/// A frame of one raw block whose header asks for a window of 2^log bytes, or more by `eighths` of that.
std::string zstd_of_window(int log, const std::string& text, int eighths = 0) {
  const auto window = static_cast<char>((log - 10) << 3 | eighths);
  const std::size_t block = text.size() << 3 | 1;
  return std::string("\x28\xb5\x2f\xfd\0", 5) + window + static_cast<char>(block) +
         static_cast<char>(block >> 8) + static_cast<char>(block >> 16) + text;
}

class ByteReaderTest : public testing::Test {
 protected:
  void put(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  /// The lines, or the error.
  std::vector<std::string> read(const std::string& bytes) const {
    put(bytes);
    return read_path(path_);
  }
  static std::vector<std::string> read_path(const fs::path& path) {
    std::vector<std::string> lines;
    try {
      LineReader reader(path);
      for (std::string line; reader.next(line);) lines.push_back(line);
    } catch (const Error& error) {
      lines.push_back(std::string(kind_name(error.kind())) + ": " + error.what());
    }
    return lines;
  }

  test::TemporaryDirectory directory_;
  fs::path path_ = directory_.path() / "file.gz";
};

TEST_F(ByteReaderTest, ZerosBehindGzipArePadding) {
  const std::string zeros(300'000, '\0');
  EXPECT_THAT(read(gzip("a\n") + zeros), ElementsAre("a"));
  EXPECT_THAT(read(gzip("a\n") + zeros.substr(0, 1)), ElementsAre("a"));
  EXPECT_THAT(read(gzip("a\n") + zeros + gzip("b\n") + gzip("") + zeros), ElementsAre("a", "b"));
  EXPECT_THAT(read(gzip("")), ElementsAre());
}

TEST_F(ByteReaderTest, BytesBehindPackedDataAreNamed) {
  for (const std::string& packed : {gzip("a\n"), gzip("a\n") + std::string(7, '\0'), zstd("a\n")}) {
    const std::vector<std::string> lines = read(packed + "trailing words");
    ASSERT_EQ(lines.size(), 2u);
    EXPECT_THAT(lines.back(), HasSubstr("file.gz:2: behind the"));
    EXPECT_THAT(lines.back(), HasSubstr("at byte " + std::to_string(packed.size() + 1) + " of the file"));
  }
}

TEST_F(ByteReaderTest, SkippableFramesMayStandAnywhere) {
  EXPECT_THAT(read(kSkippable + zstd("a\n") + kSkippable + zstd("b\n") + kSkippable), ElementsAre("a", "b"));
  EXPECT_THAT(read(kSkippable), ElementsAre());
}

TEST_F(ByteReaderTest, ZstdWindowsUpToTwoGibAreRead) {
  EXPECT_THAT(read(zstd_of_window(28, "a\nb\n")), ElementsAre("a", "b"));
  EXPECT_THAT(read(zstd_of_window(31, "a\nb\n")), ElementsAre("a", "b"));
  EXPECT_THAT(read(zstd_of_window(31, "a\n", 4)).back(), HasSubstr("need a window of 3.0 GiB"));
  EXPECT_THAT(read(zstd_of_window(40, "a\n")).back(), HasSubstr("need a window of 1.0 TiB"));
}

TEST_F(ByteReaderTest, TextsAsLongAsTheBuffersEndWhereTheyEnd) {
  for (const std::size_t size :
       {(1 << 16) - 1, 1 << 16, (1 << 17) - 1, 1 << 17, (1 << 17) + 1, 3 << 16, 1 << 18}) {
    const std::string text = std::string(size - 1, 'x') + "\n";
    EXPECT_THAT(read(zstd(text)), ElementsAre(text.substr(0, size - 1))) << size;
    EXPECT_THAT(read(zstd(text) + zstd("a\n")), ElementsAre(text.substr(0, size - 1), "a")) << size;
    EXPECT_THAT(read(gzip(text)), ElementsAre(text.substr(0, size - 1))) << size;
  }
}

TEST_F(ByteReaderTest, EveryTruncationIsToldFromTheWhole) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += std::to_string(i * 7919) + "\n";
  for (const std::string& whole : {gzip(text), zstd(text), kSkippable + zstd(text)}) {
    path_ = directory_.path() / (whole[0] == '\x1f' ? "file.gz" : "file.zst");
    for (std::size_t size = 1; size < whole.size(); ++size) {
      // A skippable frame by itself is a whole file, and before its magic is complete there is no telling.
      if (whole[0] == '\x50' && (size == kSkippable.size() || size < 4)) continue;
      EXPECT_THAT(read(whole.substr(0, size)).back(),
                  testing::AllOf(HasSubstr("format error"), HasSubstr("truncated"), HasSubstr("file.")))
          << size << " of " << whole.size();
    }
    EXPECT_EQ(read(whole).size(), 40u);
  }
}

TEST_F(ByteReaderTest, FlippedBitsNeitherHangNorPassForText) {
  std::string text;
  for (int i = 0; i < 60; ++i) text += std::to_string(i * 7919) + " words\n";
  std::vector<std::string> expected = read(text);
  for (std::string whole : {gzip(text)}) {  // zstd has no checksum unless it was asked for.
    for (std::size_t i = 10; i < whole.size(); ++i) {
      std::string broken = whole;
      broken[i] = static_cast<char>(broken[i] ^ 0x10);
      const std::vector<std::string> lines = read(broken);
      EXPECT_TRUE(lines == expected || lines.back().find("error") != std::string::npos) << i;
    }
  }
  const std::string whole = zstd(text);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string broken = whole;
    broken[i] = static_cast<char>(broken[i] ^ 0x10);
    (void)read(broken);
  }
}

TEST_F(ByteReaderTest, PipesAreReadToTheirEnd) {
  const fs::path pipe = directory_.path() / "pipe";
  for (const std::string& bytes : {std::string("a\nb\n"), gzip("a\nb\n"), zstd("a\nb\n")}) {
    fs::remove(pipe);
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    std::thread writer([&] {
      std::ofstream out(pipe, std::ios::binary);
      out << bytes.substr(0, 3) << std::flush << bytes.substr(3);
    });
    EXPECT_THAT(read_path(pipe), ElementsAre("a", "b"));
    writer.join();
  }
}

TEST_F(ByteReaderTest, WhatIsNoFileIsNamed) {
  EXPECT_THAT(read_path(directory_.path()).back(), HasSubstr("it is a folder"));
  EXPECT_THAT(read_path("/dev/null").back(), HasSubstr("i/o error: cannot read /dev/null: it is a device"));
  EXPECT_THAT(read_path(directory_.path() / "none").back(), HasSubstr("none: No such file"));
  EXPECT_THAT(read("version https://git-lfs.github.com/spec/v1\noid sha256:1\n").back(),
              HasSubstr("git lfs pull"));
  EXPECT_EQ(kind_of(directory_.path()), PathKind::kFolder);
  EXPECT_EQ(kind_of(directory_.path() / "none"), PathKind::kMissing);
}

TEST_F(ByteReaderTest, LinesOfOldMacAreLinesAndOtherBreaksAreNot) {
  EXPECT_THAT(read("one\rtwo\r\rfour\r"), ElementsAre("one", "two", "", "four"));
  EXPECT_THAT(read("one\r\ntwo\nth\rree\r\n\r\nfive"), ElementsAre("one", "two", "th\rree", "", "five"));
  const std::string breaks = "a\xe2\x80\xa8 b\xc2\x85 c\x0b d\x0c e\x1c f";
  EXPECT_THAT(read(breaks + "\n" + breaks), ElementsAre(breaks, breaks));
}

TEST_F(ByteReaderTest, JoinedFilesHaveByteOrderMarksInside) {
  EXPECT_THAT(read("\xef\xbb\xbf"
                   "a\n\xef\xbb\xbf"
                   "b\n"),
              ElementsAre("a", "b"));
  EXPECT_THAT(read(gzip("\xef\xbb\xbf"
                        "a\n") +
                   gzip("\xef\xbb\xbf"
                        "b\n")),
              ElementsAre("a", "b"));
}

TEST_F(ByteReaderTest, LinesWithoutEndSaySo) {
  const std::string line = std::string(kMaxLineBytes + 1, 'x');
  EXPECT_THAT(read("a\n" + line).back(), HasSubstr("file.gz:2: a line of more than 64 MiB"));
}

}  // namespace
}  // namespace bitrain::io
