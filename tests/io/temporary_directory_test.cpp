#include <bitrain/io/temporary_directory.h>

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>

#include "support/temporary_directory.h"

namespace bitrain::io {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

void put(const fs::path& path, const std::string& text) {
  std::ofstream(path) << text;
}

/// TMPDIR is a folder of the test's while it lives.
class TemporaryDirectoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const char* before = std::getenv("TMPDIR")) before_ = before;
    setenv("TMPDIR", directory_.path().c_str(), 1);
  }
  void TearDown() override {
    if (before_.empty())
      unsetenv("TMPDIR");
    else
      setenv("TMPDIR", before_.c_str(), 1);
  }
  [[nodiscard]] std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(directory_.path()), fs::directory_iterator()));
  }
  /// Makes one in a process that is killed before it can remove it.
  static void leave_one() {
    const pid_t child = fork();
    if (child == 0) {
      const TemporaryDirectory left("bitrain-launch");
      put(left.path() / "0-1.json", "{}");
      kill(getpid(), SIGKILL);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
  }

  test::TemporaryDirectory directory_;
  std::string before_;
};

TEST_F(TemporaryDirectoryTest, IsPrivateAndGoesWithAllThatIsInIt) {
  fs::path path;
  {
    const TemporaryDirectory folder("bitrain-test");
    path = folder.path();
    struct stat status {};
    ASSERT_EQ(stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0700U);
    fs::create_directory(path / "inner");
    put(path / "inner" / "file", "text");
    const TemporaryDirectory other("bitrain-test");
    EXPECT_NE(other.path(), path);
    EXPECT_TRUE(fs::exists(path));  // The other one has not taken it for a dead one's.
  }
  EXPECT_FALSE(fs::exists(path));
  EXPECT_EQ(entries(), 0U);
}

TEST_F(TemporaryDirectoryTest, WhatAKilledProcessLeftIsRemovedByTheNext) {
  leave_one();
  leave_one();
  EXPECT_EQ(entries(), 1U);  // The second removed the first.
  { const TemporaryDirectory other("bitrain-other"); }
  EXPECT_EQ(entries(), 1U);
  { const TemporaryDirectory next("bitrain-launch"); }
  EXPECT_EQ(entries(), 0U);
}

TEST_F(TemporaryDirectoryTest, ForeignNamesAndLinksAreLeftAlone) {
  fs::create_directory(directory_.path() / "precious");
  put(directory_.path() / "precious" / "file", "text");
  fs::create_directory(directory_.path() / "bitrain-launch.notes");
  fs::create_directory(directory_.path() / "bitrain-launch.longer-than-that");
  fs::create_symlink(directory_.path() / "precious", directory_.path() / "bitrain-launch.abcdef");
  { const TemporaryDirectory folder("bitrain-launch"); }
  EXPECT_TRUE(fs::exists(directory_.path() / "precious" / "file"));
  EXPECT_TRUE(fs::is_symlink(directory_.path() / "bitrain-launch.abcdef"));
  EXPECT_TRUE(fs::exists(directory_.path() / "bitrain-launch.longer-than-that"));
  EXPECT_TRUE(fs::exists(directory_.path() / "bitrain-launch.notes"));
}

TEST_F(TemporaryDirectoryTest, AMissingTmpdirIsSaid) {
  setenv("TMPDIR", (directory_.path() / "nowhere").c_str(), 1);
  EXPECT_THAT([] { const TemporaryDirectory folder("bitrain-launch"); },
              ThrowsMessage<IoError>(HasSubstr("no temporary folder can be made in TMPDIR or /tmp")));
}

}  // namespace
}  // namespace bitrain::io
