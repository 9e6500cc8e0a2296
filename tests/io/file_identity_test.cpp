#include <bitrain/io/file_identity.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>

#include "support/temporary_directory.h"

/// Files that change under a reader, and what is no file at all.
namespace bitrain::io {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class UnsteadyFile : public ::testing::Test {
 protected:
  void SetUp() override { std::ofstream(path_) << std::string(3 * 4096, 'x'); }

  static std::string message_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const IoError& error) {
      return error.what();
    }
    return "no IoError";
  }

  test::TemporaryDirectory directory_;
  fs::path path_ = directory_.path() / "file";
};

TEST_F(UnsteadyFile, EveryChangeIsNamed) {
  const FileIdentity before = FileIdentity::of(path_);
  EXPECT_NO_THROW(before.check_unchanged());
  const auto changed = [&] { return message_of([&] { before.check_unchanged(); }); };

  std::ofstream(path_, std::ios::app) << "more";
  EXPECT_THAT(changed(), AllOf(HasSubstr(path_.string()), HasSubstr("had 12288 bytes and has 12292")));
  fs::resize_file(path_, 12288);
  fs::last_write_time(path_, fs::last_write_time(path_) + std::chrono::seconds(1));
  EXPECT_THAT(changed(), HasSubstr("was written to"));
  EXPECT_THAT(message_of([&] { before.check_not_written(); }), HasSubstr("was written to"));
  const fs::path other = directory_.path() / "other";
  fs::copy(path_, other);
  fs::rename(other, path_);
  EXPECT_THAT(changed(), HasSubstr("another file has taken its place"));
  EXPECT_NO_THROW(before.check_not_written());  // Who has the first one open goes on.
}

TEST_F(UnsteadyFile, AMappingKnowsTheFileThatItIsOf) {
  const MappedFile mapped = MappedFile::open(path_);
  EXPECT_NO_THROW(mapped.identity().check_not_written());
  std::ofstream(path_, std::ios::app) << "more";
  EXPECT_THAT(message_of([&] { mapped.identity().check_not_written(); }), HasSubstr(path_.string()));
  EXPECT_NO_THROW(MappedFile().identity().check_not_written());
}

TEST_F(UnsteadyFile, AFileThatIsGoneHasNotChanged) {
  const FileIdentity before = FileIdentity::of(path_);
  fs::remove(path_);
  EXPECT_NO_THROW(before.check_unchanged());
  EXPECT_THAT(message_of([&] { (void)FileIdentity::of(path_); }), HasSubstr(path_.string()));
}

using UnsteadyFileDeathTest = UnsteadyFile;

TEST_F(UnsteadyFileDeathTest, ReadingPastACutEndsWithTheNameOfTheFile) {
  EXPECT_EXIT(
      {
        const MappedFile other = MappedFile::open(path_);
        const MappedFile mapped = MappedFile::open(path_);
        fs::resize_file(path_, 100);
        std::size_t sum = 0;
        for (const char c : mapped.view()) sum += static_cast<unsigned char>(c);
        ::_exit(sum == 0 ? 1 : 0);
      },
      ::testing::ExitedWithCode(5), "i/o error: cannot read .*/file: the file became shorter");
}

TEST_F(UnsteadyFileDeathTest, OtherFaultsDieAsBefore) {
  EXPECT_EXIT(
      {
        { const MappedFile unmapped_again = MappedFile::open(path_); }
        ::raise(SIGBUS);
      },
      ::testing::KilledBySignal(SIGBUS), "");
}

TEST_F(UnsteadyFile, PipesSocketsAndDevicesAreRefusedByName) {
  const fs::path pipe = directory_.path() / "pipe.json";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const auto& open : std::vector<std::function<void()>>{
           [&] { (void)read_file(pipe); }, [&] { (void)read_json(pipe); },
           [&] { (void)MappedFile::open(pipe); }, [&] { (void)SafetensorsFile::open(pipe); }})
    EXPECT_THAT(message_of(open), AllOf(HasSubstr(pipe.string()), HasSubstr("it is a pipe")));

  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const fs::path socket = directory_.path() / "s";
  socket.string().copy(address.sun_path, sizeof address.sun_path - 1);
  const int listening = ::socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(::bind(listening, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_THAT(message_of([&] { (void)read_file(socket); }),
              AllOf(HasSubstr(socket.string()), HasSubstr("device or socket")));
  ::close(listening);

  for (const char* device : {"/dev/zero", "/dev/null"})
    EXPECT_THAT(message_of([&] { (void)read_file(device); }), HasSubstr("device or socket")) << device;
}

TEST_F(UnsteadyFile, LoopsOfLinksAreNamed) {
  const fs::path a = directory_.path() / "a.json";
  fs::create_symlink("b.json", a);
  fs::create_symlink("a.json", directory_.path() / "b.json");
  EXPECT_THAT(message_of([&] { (void)read_json(a); }), HasSubstr(a.string()));
}

}  // namespace
}  // namespace bitrain::io
