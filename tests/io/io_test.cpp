#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/io/line_reader.h>
#include <bitrain/io/safetensors.h>

#include "support/compressed.h"
#include "support/temporary_directory.h"

namespace bitrain::io {
namespace {

namespace fs = std::filesystem;
using test::gzip;
using test::zstd;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

void put(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

template <class Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return std::string(kind_name(error.kind())) + ": " + error.what();
  }
  return "nothing was thrown";
}

std::vector<std::string> lines_of(const fs::path& path) {
  LineReader reader(path);
  std::vector<std::string> lines;
  for (std::string line; reader.next(line);) lines.push_back(line);
  return lines;
}

std::string safetensors(const std::string& header, std::size_t data) {
  const std::uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + std::string(data, '\x01');
}

class IoTest : public testing::Test {
 protected:
  test::TemporaryDirectory directory_;
  fs::path path_ = directory_.path() / "file";
};

TEST_F(IoTest, AtomicFileAppearsOnlyWhenCommitted) {
  {
    AtomicFile file(path_);
    file.write("half");
    EXPECT_FALSE(fs::exists(path_));
  }
  EXPECT_TRUE(fs::is_empty(directory_.path()));
  write_file_atomic(path_, "one");
  write_file_atomic(path_, "two");
  EXPECT_EQ(read_file(path_), "two");
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_.path()), {}), 1);
}

TEST_F(IoTest, FileErrorsNameTheFile) {
  EXPECT_THAT(message_of([&] { (void)read_file(path_); }), HasSubstr(path_.string() + ": No such file"));
  EXPECT_THAT(message_of([&] { (void)MappedFile::open(directory_.path()); }), HasSubstr("it is a folder"));
  EXPECT_THAT(message_of([&] { write_file_atomic(directory_.path() / "no" / "x", ""); }),
              HasSubstr("cannot create"));
}

TEST_F(IoTest, PointersOfGitLfsAreNamed) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 499723\n";
  write_file_atomic(path_, pointer);
  EXPECT_THAT(message_of([&] { (void)MappedFile::open(path_); }), HasSubstr("fetch it with 'git lfs pull'"));
  EXPECT_THAT(message_of([&] { (void)read_file(path_); }), HasSubstr(path_.string()));
  EXPECT_THAT(message_of([&] { (void)read_json(path_); }), HasSubstr("git lfs pull"));
  write_file_atomic(path_, pointer + std::string(2000, 'x'));  // A text about pointers.
  EXPECT_EQ(read_file(path_).size(), pointer.size() + 2000);
}

TEST_F(IoTest, MappingIsCopiedOnWrite) {
  put(path_, "abc");
  const MappedFile mapped = MappedFile::open(path_);
  EXPECT_EQ(mapped.view(), "abc");
  const_cast<std::uint8_t*>(mapped.data())[0] = 'X';
  EXPECT_EQ(read_file(path_), "abc");
  put(path_, "");
  EXPECT_EQ(MappedFile::open(path_).size(), 0u);
}

TEST_F(IoTest, FullDiskLeavesTheOldFile) {
  put(path_, "old");
  const pid_t child = fork();
  if (child == 0) {
    // The same error path as a full disk, without one: no file may grow over 4 KiB.
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_file_atomic(path_, std::string(100'000, 'x'));
    } catch (const IoError& error) {
      _exit(std::strstr(error.what(), path_.c_str()) != nullptr ? 0 : 2);
    }
    _exit(1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(read_file(path_), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_.path()), {}), 1);
}

TEST_F(IoTest, AtomicDirectoryReplacesWhole) {
  const fs::path final_path = directory_.path() / "model";
  {
    AtomicDirectory folder(final_path);
    put(folder.path() / "a", "1");
    EXPECT_FALSE(fs::exists(final_path));
    folder.commit();
  }
  EXPECT_EQ(read_file(final_path / "a"), "1");
  {
    AtomicDirectory folder(final_path);
    make_directories(folder.path() / "sub");
    put(folder.path() / "sub" / "b", "2");
    folder.commit();
  }
  EXPECT_FALSE(fs::exists(final_path / "a"));
  EXPECT_EQ(read_file(final_path / "sub" / "b"), "2");
  { AtomicDirectory forgotten(final_path); }
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_.path()), {}), 1);
}

TEST_F(IoTest, LeftoversThatNobodyHoldsAreRemoved) {
  const auto entries = [&] {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory_.path())) names.insert(entry.path().filename());
    return names;
  };
  const TemporaryName held(directory_.path() / "held", TemporaryName::Kind::kFolder);
  const TemporaryName file(directory_.path() / "file", TemporaryName::Kind::kFile);
  const fs::path own = directory_.path() / "own.tmp-2024";  // Somebody's own.
  put(own, "");
  const pid_t child = fork();
  if (child == 0) {
    const TemporaryName folder(directory_.path() / "killed", TemporaryName::Kind::kFolder);
    const TemporaryName inside(directory_.path() / "killed", TemporaryName::Kind::kFile);
    kill(getpid(), SIGKILL);
  }
  waitpid(child, nullptr, 0);
  EXPECT_EQ(entries().size(), 5U);
  remove_leftovers(directory_.path());
  EXPECT_THAT(entries(),
              UnorderedElementsAre(own.filename(), held.path().filename(), file.path().filename()));
}

TEST_F(IoTest, TemporaryNamesNeverMeet) {
  // Two processes of the same pid, in two containers, choose names apart.
  std::set<fs::path> names;
  for (int i = 0; i < 200; ++i) names.insert(unused_name(directory_.path() / "x", ".tmp-"));
  EXPECT_EQ(names.size(), 200U);
}

TEST_F(IoTest, ALockNoticesThatItsFolderIsGone) {
  const fs::path folder = directory_.path() / "run";
  const DirectoryLock lock(folder);
  EXPECT_NO_THROW(lock.check());
  fs::rename(folder, directory_.path() / "elsewhere");
  EXPECT_THAT(message_of([&] { lock.check(); }), HasSubstr("was removed, renamed or replaced"));
  fs::create_directory(folder);
  put(folder / ".lock", "");
  EXPECT_THAT(message_of([&] { lock.check(); }), HasSubstr("was removed, renamed or replaced"));
}

TEST_F(IoTest, DirectoryLockNamesTheOtherProcess) {
  const fs::path folder = directory_.path() / "run";
  {
    const DirectoryLock lock(folder);
    const std::string message = message_of([&] { DirectoryLock second(folder); });
    EXPECT_THAT(message, HasSubstr("in use by another run"));
    EXPECT_THAT(message, HasSubstr("process " + std::to_string(getpid())));
  }
  EXPECT_NO_THROW(DirectoryLock third(folder));
}

TEST_F(IoTest, JsonKeepsOrderAndRefusesWhatIsNotJson) {
  EXPECT_EQ(parse_json(R"({"z": 1, "a": [true, null, -2.5, "é"]})", "x").dump(),
            R"({"z":1,"a":[true,null,-2.5,"é"]})");
  const auto message = [](std::string_view text) {
    return message_of([&] { (void)parse_json(text, "f.json"); });
  };
  EXPECT_THAT(message(R"({"a": 1, "a": 2})"), HasSubstr("f.json: the key 'a' occurs twice"));
  EXPECT_THAT(message("{\"a\": \"\xff\"}"), HasSubstr("f.json: not valid JSON at byte"));
  EXPECT_THAT(message("{\"a\": 1"), HasSubstr("unexpected end of input"));
  EXPECT_THAT(message("{} x"), HasSubstr("not valid JSON"));
  EXPECT_THAT(message(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(message(std::string(1000, '[')), HasSubstr("nested deeper than 128"));
  EXPECT_EQ(parse_json(std::string(128, '[') + std::string(128, ']'), "x").size(), 1u);
}

TEST_F(IoTest, JsonFileRoundTrip) {
  const Json value = {{"b", 1}, {"a", {1, 2}}};
  write_json(path_, value);
  EXPECT_EQ(read_json(path_), value);
  EXPECT_EQ(read_file(path_).back(), '\n');
}

TEST_F(IoTest, LinesOfEveryCompression) {
  const std::string text = "\xef\xbb\xbfuno\r\ndos\n\ncuatro";
  for (const std::string& bytes : {text, gzip(text), zstd(text)}) {
    put(path_, bytes);
    EXPECT_THAT(lines_of(path_), ElementsAre("uno", "dos", "", "cuatro"));
  }
  put(path_, "");
  EXPECT_THAT(lines_of(path_), ElementsAre());
}

TEST_F(IoTest, JoinedCompressedFilesAreOne) {
  put(path_, gzip("a\n") + gzip("b\n"));
  EXPECT_THAT(lines_of(path_), ElementsAre("a", "b"));
  put(path_, zstd("a\n") + zstd("b\n"));
  EXPECT_THAT(lines_of(path_), ElementsAre("a", "b"));
}

TEST_F(IoTest, LongTextsCrossTheBuffers) {
  std::string text;
  std::vector<std::string> expected;
  for (int i = 0; i < 3000; ++i) {
    expected.push_back(std::string(i % 400, static_cast<char>('a' + i % 26)) + std::to_string(i));
    text += expected.back() + "\n";
  }
  for (const std::string& bytes : {text, gzip(text), zstd(text)}) {
    put(path_, bytes);
    EXPECT_EQ(lines_of(path_), expected);
  }
}

TEST_F(IoTest, DamagedCompressionNamesFileAndLine) {
  std::string text;
  for (int i = 0; i < 50000; ++i) text += std::to_string(i * 7919) + "\n";
  for (const std::string& whole : {gzip(text), zstd(text)}) {
    put(path_, whole.substr(0, whole.size() / 2));
    const std::string truncated = message_of([&] { (void)lines_of(path_); });
    EXPECT_THAT(truncated, HasSubstr(path_.string() + ":"));
    EXPECT_THAT(truncated, HasSubstr("truncated"));
    std::string broken = whole;
    for (std::size_t i = 5; i < 45; ++i) broken[i] = static_cast<char>(~broken[i]);
    put(path_, broken);
    EXPECT_THAT(message_of([&] { (void)lines_of(path_); }), HasSubstr("format error"));
  }
}

TEST_F(IoTest, SafetensorsRoundTripWithoutCopies) {
  const at::Tensor a = at::arange(6, at::kFloat).view({2, 3});
  const at::Tensor b = at::arange(5, at::kByte);
  const at::Tensor c = at::arange(4, at::kFloat).to(at::kBFloat16).view({2, 2}).t();
  write_safetensors(path_,
                    {{"b", b}, {"a", a}, {"c", c}, {"empty", at::zeros({0, 4})}, {"one", at::ones({})}});
  const SafetensorsFile file = SafetensorsFile::open(path_);
  EXPECT_THAT(file.names(), UnorderedElementsAre("a", "b", "c", "empty", "one"));
  EXPECT_TRUE(at::equal(file.tensor("a"), a));
  EXPECT_TRUE(at::equal(file.tensor("b"), b));
  EXPECT_TRUE(at::equal(file.tensor("c"), c));
  EXPECT_EQ(file.tensor("empty").sizes().vec(), (std::vector<std::int64_t>{0, 4}));
  EXPECT_EQ(file.shape("one"), std::vector<std::int64_t>{});
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.tensor("a").data_ptr(), file.tensor("a").data_ptr());
  // The tensor outlives the file object, and the file on disk.
  at::Tensor kept = SafetensorsFile::open(path_).tensor("a");
  fs::remove(path_);
  EXPECT_EQ(kept[1][2].item<float>(), 5);
}

TEST_F(IoTest, SafetensorsUnalignedTensorsAreCopied) {
  put(path_,
      safetensors(
          R"({"u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
          5));
  const at::Tensor f = SafetensorsFile::open(path_).tensor("f");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(f.data_ptr()) % 4, 0u);
  std::uint32_t bits = 0;
  std::memcpy(&bits, f.data_ptr(), 4);
  EXPECT_EQ(bits, 0x01010101u);
}

TEST_F(IoTest, DamagedSafetensorsAreRefused) {
  const auto message = [&](const std::string& bytes) {
    put(path_, bytes);
    return message_of([&] { (void)SafetensorsFile::open(path_); });
  };
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(message(safetensors(good, 8)), "nothing was thrown");
  EXPECT_THAT(message("abc"), HasSubstr("3 bytes are too few"));
  EXPECT_THAT(message(safetensors(good, 7)), HasSubstr("truncated"));
  EXPECT_THAT(message(safetensors(good, 9)), HasSubstr("1 bytes follow the last tensor"));
  EXPECT_THAT(message(safetensors(good, 8).substr(0, 30)), HasSubstr("truncated"));
  EXPECT_THAT(message(std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8) + good), HasSubstr("header claims"));
  EXPECT_THAT(message("PK\x03\x04 a pickle in a zip"), HasSubstr("save_pretrained"));
  EXPECT_THAT(message(safetensors("[]", 0)), HasSubstr("does not begin with"));
  EXPECT_THAT(message(safetensors(" {}", 0)), HasSubstr("does not begin with"));
  EXPECT_THAT(message(safetensors("{\"a\":1}", 0)), HasSubstr("lacks dtype"));
  const auto entry = [&](const std::string& dtype, const std::string& shape, const std::string& offsets,
                         std::size_t size) {
    return message(safetensors(
        R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
        size));
  };
  EXPECT_THAT(entry("F32", "[3]", "[0,8]", 8), HasSubstr("needs 12 bytes"));
  EXPECT_THAT(entry("F32", "[-1]", "[0,8]", 8), HasSubstr("not a whole number"));
  EXPECT_THAT(entry("F32", "[1.5]", "[0,8]", 8), HasSubstr("not a whole number"));
  EXPECT_THAT(entry("F32", "[4294967296,4294967296,4294967296]", "[0,8]", 8),
              HasSubstr("larger than any file"));
  EXPECT_THAT(entry("F32", "[2]", "[8,0]", 8), HasSubstr("ends (0) before it begins"));
  EXPECT_THAT(entry("F32", "[2]", "[4,12]", 12), HasSubstr("hole"));
  EXPECT_THAT(entry("F32", "[2]", "[0,99999999999]", 8), HasSubstr("truncated"));
  EXPECT_THAT(entry("F32", "[2]", "[0]", 8), HasSubstr("not a pair"));
  EXPECT_THAT(entry("Q7", "[2]", "[0,8]", 8), HasSubstr("unsupported"));
  EXPECT_THAT(
      message(safetensors(
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
          12)),
      HasSubstr("overlaps"));
  EXPECT_THAT(
      message(safetensors(
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
          8)),
      HasSubstr("occurs twice"));
  EXPECT_THAT(message(safetensors(R"({"__metadata__":{"x":1}})", 0)), HasSubstr("is no string"));
}

TEST_F(IoTest, SafetensorsShards) {
  NamedTensors tensors;
  for (int i = 0; i < 5; ++i) tensors.emplace_back("t" + std::to_string(i), at::ones({100}) * i);
  write_safetensors_folder(directory_.path(), tensors, 900);
  EXPECT_TRUE(fs::exists(directory_.path() / "model-00001-of-00003.safetensors"));
  const SafetensorsFolder folder = SafetensorsFolder::open(directory_.path());
  EXPECT_THAT(folder.names(), ElementsAre("t0", "t1", "t2", "t3", "t4"));
  EXPECT_EQ(folder.tensor("t3")[7].item<float>(), 3);
  EXPECT_THAT(message_of([&] { (void)folder.tensor("t9"); }), HasSubstr("there is no tensor 't9'"));

  const fs::path index = directory_.path() / "model.safetensors.index.json";
  write_json(index, {{"weight_map", {{"t0", "../secret"}}}});
  EXPECT_THAT(message_of([&] { (void)SafetensorsFolder::open(directory_.path()); }),
              HasSubstr("not the name of a file"));
  write_json(index, {{"weight_map", {{"t9", "model-00001-of-00003.safetensors"}}}});
  EXPECT_THAT(message_of([&] { (void)SafetensorsFolder::open(directory_.path()); }),
              HasSubstr("'t9' should be in"));
  write_json(index, {{"weights", 1}});
  EXPECT_THAT(message_of([&] { (void)SafetensorsFolder::open(directory_.path()); }), HasSubstr("weight_map"));
}

TEST_F(IoTest, PickledCheckpointsAreRefusedWithTheFix) {
  put(directory_.path() / "pytorch_model.bin", "PK");
  const std::string message = message_of([&] { (void)SafetensorsFolder::open(directory_.path()); });
  EXPECT_THAT(message, HasSubstr("pytorch_model.bin"));
  EXPECT_THAT(message, HasSubstr("save_pretrained"));
}

TEST_F(IoTest, HeaderLengthsThatBeginLikeAPickle) {
  // The low bytes of these lengths are 80 02 to 80 05, a pickle's first, and PK, a zip archive's.
  const NamedTensors tensors = {{"a", at::ones({3})}};
  for (const std::size_t length : {640, 896, 1152, 1408, 66176, 19280}) {
    Metadata metadata = {{"k", ""}};
    write_safetensors(path_, tensors, metadata);
    std::uint64_t header = 0;
    std::memcpy(&header, read_file(path_).data(), 8);
    metadata["k"] = std::string(length - header, 'x');
    write_safetensors(path_, tensors, metadata);
    std::memcpy(&header, read_file(path_).data(), 8);
    ASSERT_EQ(header, length);
    EXPECT_TRUE(at::equal(SafetensorsFile::open(path_).tensor("a"), at::ones({3}))) << length;
  }
  for (const std::string& pickle :
       {std::string("\x80\x02}q\0.....", 10), std::string("PK\x03\x04........")}) {
    put(path_, pickle);
    EXPECT_THAT(message_of([&] { (void)SafetensorsFile::open(path_); }), HasSubstr("pickled"));
  }
}

TEST_F(IoTest, TensorsThatAnIndexLeavesOut) {
  const auto shard = [&](int i) {
    return directory_.path() / ("model-0000" + std::to_string(i) + "-of-00002.safetensors");
  };
  write_safetensors(shard(1), {{"a", at::ones({3})}, {"both", at::ones({2})}});
  write_safetensors(shard(2), {{"b", at::ones({4})}, {"both", at::ones({2})}, {"more", at::ones({5})}});
  write_json(directory_.path() / "model.safetensors.index.json", {{"weight_map",
                                                                   {{"a", shard(1).filename().string()},
                                                                    {"both", shard(1).filename().string()},
                                                                    {"b", shard(2).filename().string()}}}});
  EXPECT_THAT(SafetensorsFolder::open(directory_.path()).names(), ElementsAre("a", "both", "b", "more"));
  EXPECT_EQ(SafetensorsFolder::open(directory_.path()).tensor("more").numel(), 5);
  write_safetensors(shard(2), {{"b", at::ones({4})}, {"both", at::zeros({2})}});
  EXPECT_THAT(message_of([&] { (void)SafetensorsFolder::open(directory_.path()); }),
              AllOf(HasSubstr("'both' is in two files with other numbers"), HasSubstr("model-00001-of-00002"),
                    HasSubstr("model-00002-of-00002")));
}

TEST_F(IoTest, WritingRefusesNamesUsedTwice) {
  EXPECT_THROW(write_safetensors(path_, {{"a", at::ones({1})}, {"a", at::ones({1})}}), StateError);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(IoTest, TensorsAreLoadedWhenTheirTurnComes) {
  const NamedTensors later = {{"a", at::ones({2})},
                              {"b", at::empty({3}, at::TensorOptions().device(at::kMeta))}};
  std::vector<std::string> asked;
  write_safetensors(path_, later, {}, [&](const std::string& name) {
    asked.push_back(name);
    return at::full({3}, 7.0F);
  });
  EXPECT_EQ(asked, std::vector<std::string>{"b"});
  EXPECT_TRUE(at::equal(SafetensorsFile::open(path_).tensor("b"), at::full({3}, 7.0F)));
  EXPECT_THROW(write_safetensors(path_, later, {}, [](const std::string&) { return at::ones({4}); }),
               StateError);
  EXPECT_THROW(
      write_safetensors(path_, later, {}, [](const std::string&) { return at::ones({3}, at::kDouble); }),
      StateError);
  EXPECT_TRUE(at::equal(SafetensorsFile::open(path_).tensor("b"), at::full({3}, 7.0F))) << "what was there";
}

}  // namespace
}  // namespace bitrain::io
