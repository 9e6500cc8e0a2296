#include <bitrain/io/directory.h>

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>
#include <bitrain/io/home.h>
#include <bitrain/io/json_difference.h>

#include "support/temporary_directory.h"

/// Folders under names as people give them: links, mounts, ".", files, "~".
namespace bitrain::io {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

template <class Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return std::string(kind_name(error.kind())) + ": " + error.what();
  }
  return "nothing was thrown";
}

void put(const fs::path& path, const std::string& text) {
  std::ofstream(path) << text;
}

/// Writes a folder with one file through AtomicDirectory.
void write(const fs::path& name, const std::string& file = "config.json", const std::string& text = "new") {
  AtomicDirectory folder(name);
  put(folder.path() / file, text);
  folder.commit();
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  return names;
}

class DirectoryTest : public ::testing::Test {
 protected:
  [[nodiscard]] fs::path at(const std::string& name) const { return directory_.path() / name; }
  test::TemporaryDirectory directory_;
};

TEST_F(DirectoryTest, ALinkStaysAndWhatItNamesIsReplaced) {
  fs::create_directories(at("real"));
  put(at("real") / "old", "x");
  fs::create_directory_symlink("real", at("link"));
  fs::create_symlink(at("link"), at("second"));
  for (const char* name : {"link", "second", "link/"}) {
    put(at("real") / "old", "x");
    write(directory_.path() / name);
    EXPECT_TRUE(fs::is_symlink(at("link")));
    EXPECT_THAT(names_in(at("real")), UnorderedElementsAre("config.json")) << name;
  }
  fs::create_directory_symlink(at("later") / "deep", at("dangling"));
  write(at("dangling"));
  EXPECT_EQ(read_file(at("later") / "deep" / "config.json"), "new");
  EXPECT_THAT(names_in(directory_.path()),
              UnorderedElementsAre("real", "link", "second", "later", "dangling"));
}

TEST_F(DirectoryTest, ALinkToAFolderThatIsNotThereYet) {
  fs::create_directory_symlink(fs::path("later") / "deep", at("dangling"));
  fs::create_directory_symlink("dangling", at("second"));
  make_directories(at("second"));
  EXPECT_TRUE(fs::is_directory(at("later") / "deep"));
  EXPECT_TRUE(fs::is_symlink(at("second")));
  make_directories(at("second") / "more");
  EXPECT_TRUE(fs::is_directory(at("later") / "deep" / "more"));
}

TEST_F(DirectoryTest, WhereNoFolderCanBeMadeIsSaidBefore) {
  EXPECT_THAT(message_of([] { check_output_directory("/proc/run"); }),
              HasSubstr("cannot write the folder /proc/run"));
  EXPECT_THAT(message_of([] { check_output_directory("/dev/null"); }),
              HasSubstr("a file of that name is there"));
  EXPECT_THAT(message_of([] { check_output_directory("/dev/null/run"); }), HasSubstr("/dev/null is a file"));
  check_output_directory(at("new"));
  EXPECT_THAT(names_in(directory_.path()), testing::IsEmpty());
}

TEST_F(DirectoryTest, NamesThatEndInDotsAndSlashes) {
  fs::create_directories(at("a"));
  for (const char* name : {"a/trail/", "a/trail/.", "a/./trail", "a/trail/sub/..", "a/../a/trail"}) {
    fs::remove_all(at("a/trail"));
    write(directory_.path() / name);
    EXPECT_EQ(read_file(at("a/trail/config.json")), "new") << name;
    EXPECT_EQ(names_in(at("a")).size(), 1U) << name;
  }
}

TEST_F(DirectoryTest, AFileIsRefusedBeforeAnyWork) {
  put(at("afile"), "precious");
  fs::create_symlink(at("afile"), at("link"));
  fs::create_symlink("b", at("a"));
  fs::create_symlink("a", at("b"));
  for (const char* name : {"afile", "link", "afile/below", "afile/below/further"}) {
    for (const bool only_check : {true, false})
      EXPECT_THAT(message_of([&] {
                    if (only_check)
                      check_output_directory(directory_.path() / name);
                    else
                      AtomicDirectory folder(directory_.path() / name);
                  }),
                  AllOf(HasSubstr("config"), HasSubstr("cannot write the folder"), HasSubstr("afile"),
                        HasSubstr("file")))
          << name;
  }
  EXPECT_THAT(message_of([&] { check_output_directory(at("a")); }), HasSubstr("too many symbolic links"));
  EXPECT_THAT(message_of([] { check_output_directory(""); }), HasSubstr("empty"));
  EXPECT_EQ(read_file(at("afile")), "precious");
}

TEST_F(DirectoryTest, CheckingMakesNothing) {
  check_output_directory(at("x") / "y" / "z");
  check_output_directory(at(""));
  EXPECT_TRUE(fs::is_empty(directory_.path()));
  if (::geteuid() == 0) return;  // May write anywhere.
  fs::create_directories(at("locked"));
  fs::permissions(at("locked"), fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_THAT(message_of([&] { check_output_directory(at("locked") / "x"); }),
              AllOf(HasSubstr("i/o"), HasSubstr("may not be written to")));
}

TEST_F(DirectoryTest, TheWorkingDirectoryIsFilled) {
  const fs::path before = fs::current_path();
  fs::create_directories(at("dot") / "inside");
  put(at("dot") / "notes.txt", "mine");
  for (const char* old :
       {"model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.model"})
    put(at("dot") / old, "old");
  put(at("dot") / "config.json", "old");
  fs::create_directories(at("dot") / "1_Pooling");
  put(at("dot") / "1_Pooling" / "config.json", "old");
  fs::current_path(at("dot"));
  {
    AtomicDirectory folder(".");
    fs::create_directories(folder.path() / "1_Pooling");
    put(folder.path() / "1_Pooling" / "config.json", "new");
    put(folder.path() / "config.json", "new");
    EXPECT_EQ(read_file("config.json"), "old");
    folder.commit();
  }
  EXPECT_EQ(read_file("config.json"), "new");
  EXPECT_EQ(read_file("1_Pooling/config.json"), "new");
  EXPECT_EQ(read_file("notes.txt"), "mine");
  // What a reader of models would have taken for parts of the new one is gone.
  EXPECT_THAT(names_in("."), UnorderedElementsAre("config.json", "1_Pooling", "notes.txt", "inside"));
  { AtomicDirectory forgotten("."); }
  EXPECT_EQ(names_in(".").size(), 4U);
  // The folder above the working one is not pulled away either.
  fs::current_path("inside");
  write("..", "config.json", "again");
  EXPECT_TRUE(fs::exists("../inside"));
  EXPECT_EQ(read_file("../config.json"), "again");
  fs::current_path(before);
}

TEST_F(DirectoryTest, AMountPointIsFilled) {
  const fs::path mount = at("mount");
  fs::create_directories(mount);
  fs::create_directory_symlink(mount, at("link"));
  if (::mount("none", mount.c_str(), "tmpfs", 0, "size=1m") != 0) GTEST_SKIP() << "mounting is not allowed";
  fs::create_directories(mount / "lost+found");
  write(mount);
  write(at("link"), "config.json", "second");
  write(mount / "below");
  EXPECT_EQ(read_file(mount / "config.json"), "second");
  EXPECT_THAT(names_in(mount), UnorderedElementsAre("config.json", "lost+found", "below"));
  EXPECT_THAT(names_in(directory_.path()), UnorderedElementsAre("mount", "link"));
  ASSERT_EQ(::umount(mount.c_str()), 0);
}

TEST_F(DirectoryTest, WhatCannotTakeItsPlaceIsKept) {
  std::string message;
  {
    AtomicDirectory folder(at("model"));
    put(folder.path() / "config.json", "hours of work");
    put(at("model"), "a file that came meanwhile");
    message = message_of([&] { folder.commit(); });
  }
  EXPECT_THAT(message, AllOf(HasSubstr("i/o"), HasSubstr("cannot put the folder"), HasSubstr(".finished-")));
  const fs::path kept = message.substr(message.find("computed is in ") + 15);
  EXPECT_EQ(read_file(kept / "config.json"), "hours of work");
  remove_leftovers(directory_.path());
  EXPECT_TRUE(fs::exists(kept));
}

TEST(ExpandHome, AsAShell) {
  const char* before = std::getenv("HOME");
  const std::string saved = before != nullptr ? before : "";
  ::setenv("HOME", "/home/someone", 1);
  EXPECT_EQ(expand_home("~"), "/home/someone");
  EXPECT_EQ(expand_home("~/x/y"), "/home/someone/x/y");
  EXPECT_EQ(expand_home("~/"), "/home/someone/");
  for (const char* same : {"", "x", "./~", "a~b", "/~", "x/~/y"}) EXPECT_EQ(expand_home(same), same);
  EXPECT_EQ(expand_home("~root/x"), "/root/x");
  ::unsetenv("HOME");
  EXPECT_EQ(expand_home("~/x").front(), '/');  // The user's, of the system's list.
  EXPECT_THAT(message_of([] { (void)expand_home("~nobody-of-this-name/x"); }),
              AllOf(HasSubstr("config"), HasSubstr("no user 'nobody-of-this-name'"),
                    HasSubstr("./~nobody-of-this-name/x")));
  if (before != nullptr) ::setenv("HOME", saved.c_str(), 1);
}

TEST(JsonDifferences, AreNamedWithBothValues) {
  const Json was = {{"a", 1}, {"b", {{"c", "x"}, {"d", {1, 2}}}}, {"gone", true}};
  const Json is = {{"b", {{"d", {1, 3}}, {"c", "x"}}}, {"a", 1}, {"come", nullptr}};
  EXPECT_EQ(describe(differences(was, is)),
            "b.d.1 (was 2, is 3), gone (was true, is not set), come (was not set, is null)");
  EXPECT_TRUE(differences(was, was).empty());
  EXPECT_EQ(describe(differences(was, is), 1), "b.d.1 (was 2, is 3) and 2 more");
}

}  // namespace
}  // namespace bitrain::io
