#include <bitrain/io/unpacked_size.h>

#include <fstream>

#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>

#include "support/compressed.h"
#include "support/temporary_directory.h"

namespace bitrain::io {
namespace {

namespace fs = std::filesystem;

class UnpackedSizeTest : public testing::Test {
 protected:
  [[nodiscard]] std::uint64_t size_of(const std::string& bytes) const {
    const fs::path path = directory_.path() / "file";
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return unpacked_size(path);
  }
  test::TemporaryDirectory directory_;
  const std::string text_ = std::string(100'000, 'a') + "b\n";
};

TEST_F(UnpackedSizeTest, IsTheSizeOfAFileThatIsNotPacked) {
  EXPECT_EQ(size_of(""), 0U);
  EXPECT_EQ(size_of(text_), text_.size());
}

TEST_F(UnpackedSizeTest, ReadsWhatPackedFilesSay) {
  EXPECT_EQ(size_of(test::gzip(text_)), text_.size());
  EXPECT_EQ(size_of(test::zstd(text_)), text_.size());
  EXPECT_EQ(size_of(test::zstd(text_) + test::zstd("more")), text_.size() + 4);
  const std::string skippable("\x50\x2a\x4d\x18\x08\0\0\0bitrain!", 16);
  EXPECT_EQ(size_of(test::zstd(text_) + skippable), text_.size());
}

TEST_F(UnpackedSizeTest, EstimatesWherePackedFilesDoNotSay) {
  const std::string cut = test::zstd(text_).substr(0, 12);
  EXPECT_EQ(size_of(cut), 4 * cut.size());
  // The last member of a gzip says less than the file holds.
  std::string noise(4096, '\0');
  for (std::size_t i = 0; i < noise.size(); ++i) noise[i] = static_cast<char>(i * 2654435761U >> 13U);
  const std::string members = test::gzip(noise) + test::gzip("x");
  EXPECT_EQ(size_of(members), 4 * members.size());
  EXPECT_THROW((void)unpacked_size(directory_.path() / "none"), IoError);
}

TEST_F(UnpackedSizeTest, APageThatIsForgottenIsReadAgain) {
  const fs::path path = directory_.path() / "file";
  std::ofstream(path, std::ios::binary) << text_;
  const MappedFile file = MappedFile::open(path);
  ASSERT_EQ(file.view(), text_);
  file.forget(1, text_.size() - 1);
  EXPECT_EQ(file.view(), text_);
  file.forget(0, std::string::npos);  // Past the end.
  file.forget(5, 3);                  // Nothing.
  EXPECT_EQ(file.view(), text_);
}

}  // namespace
}  // namespace bitrain::io
