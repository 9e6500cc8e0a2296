#include <sys/stat.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <limits>
#include <map>

#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/base/error.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/hub/peft.h>
#include <bitrain/hub/weights.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>

#include "support/message_of.h"
#include "support/temporary_directory.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

/// Model folders that somebody has damaged, or made to do damage.
namespace bitrain::hub {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

OpenOptions weights_only() {
  OpenOptions options;
  options.tokenizer = false;
  return options;
}

using test::message_of;

class HostileFolder : public ::testing::Test {
 protected:
  HostileFolder() {
    save_model(llama_, *testing::tiny_llama(), nullptr);
    for (const char* type : {"bert", "distilbert", "roberta", "xmod"})
      save_encoder(temporary_.path() / type, *testing::tiny_bert(at::kFloat, testing::tiny_bert_config(type)),
                   nullptr);
  }

  static void set(const fs::path& directory, const char* key, const io::Json& value) {
    io::Json config = io::read_json(directory / "config.json");
    ASSERT_TRUE(config.contains(key)) << key;
    config[key] = value;
    io::write_json(directory / "config.json", config);
  }

  void open_llama() const { (void)open_model(llama_, weights_only()); }

  test::TemporaryDirectory temporary_;
  fs::path llama_ = temporary_.path() / "llama";
};

/// Of sizes that no model has, and of sizes that some have but not these weights.
::testing::Matcher<std::string> refuses(const fs::path& folder) {
  return AllOf(HasSubstr(folder.string()),
               AnyOf(HasSubstr("must be at most"), HasSubstr("do not fit config.json")));
}

TEST_F(HostileFolder, HugeSizesOfLlamaAreRefusedBeforeTheyAreMade) {
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const std::string before = io::read_file(llama_ / "config.json");
  const std::map<const char*, std::int64_t> within = {
      {"num_hidden_layers", 4000}, {"vocab_size", 60'000'000}, {"intermediate_size", 1'000'000}};
  for (const auto& [key, size] : within) {
    set(llama_, key, size);
    EXPECT_THAT(message_of<FormatError>([&] { open_llama(); }),
                AllOf(HasSubstr(llama_.string()), HasSubstr("do not fit config.json"),
                      HasSubstr(std::to_string(size))))
        << key;
    io::write_file_atomic(llama_ / "config.json", before);
  }
  for (const char* key : {"num_hidden_layers", "vocab_size", "intermediate_size", "hidden_size", "head_dim"})
    for (const std::int64_t size : {std::int64_t{1'000'000'000}, std::int64_t{4'000'000'000}, most - 1}) {
      set(llama_, key, size);
      EXPECT_THAT(message_of<Error>([&] { open_llama(); }), refuses(llama_)) << key << " " << size;
      io::write_file_atomic(llama_ / "config.json", before);
    }
  EXPECT_NO_THROW(open_llama());
}

TEST_F(HostileFolder, HugeSizesOfEncodersAreRefusedBeforeTheyAreMade) {
  for (const char* type : {"bert", "distilbert", "roberta", "xmod"}) {
    const fs::path folder = temporary_.path() / type;
    const bool distil = std::string(type) == "distilbert";
    const std::string before = io::read_file(folder / "config.json");
    for (const char* key : {distil ? "n_layers" : "num_hidden_layers", "vocab_size",
                            distil ? "hidden_dim" : "intermediate_size", "max_position_embeddings",
                            distil ? "dim" : "hidden_size"})
      for (const std::int64_t size : {4000, 1'000'000, 1'000'000'000}) {
        set(folder, key, size);
        EXPECT_THAT(message_of<Error>([&] { (void)open_encoder(folder, weights_only()); }), refuses(folder))
            << type << " " << key << " " << size;
        io::write_file_atomic(folder / "config.json", before);
      }
    EXPECT_NO_THROW((void)open_encoder(folder, weights_only())) << type;
  }
}

TEST_F(HostileFolder, SizesThatAreNoNumbersAreNamed) {
  const std::string before = io::read_file(llama_ / "config.json");
  for (const io::Json& value : {io::Json("16"), io::Json(16.5), io::Json(-1), io::Json(0), io::Json(true),
                                io::Json(1e300), io::Json(std::uint64_t{1} << 63)}) {
    set(llama_, "hidden_size", value);
    const std::string message = message_of<Error>([&] { open_llama(); });
    EXPECT_THAT(message, AllOf(HasSubstr("config.json"), HasSubstr("hidden_size"))) << value;
    io::write_file_atomic(llama_ / "config.json", before);
  }
}

TEST_F(HostileFolder, ARankThatNoTensorHasIsRefused) {
  const auto model = testing::tiny_llama();
  adapters::LoraOptions lora;
  lora.target_modules = {"q_proj"};
  (void)adapters::attach(*model, lora, 1);
  const fs::path folder = temporary_.path() / "adapter";
  save_adapter(folder, *model, lora, llama_.string());
  io::Json config = io::read_json(folder / "adapter_config.json");
  config["r"] = 1'000'000;
  io::write_json(folder / "adapter_config.json", config);
  const auto base = testing::tiny_llama();
  EXPECT_THAT(message_of<FormatError>([&] { (void)load_adapter(folder, *base); }),
              AllOf(HasSubstr("adapter_config.json"), HasSubstr("1000000")));
}

TEST_F(HostileFolder, MoreLanguageAdaptersThanWeightsAreRefused) {
  const fs::path folder = temporary_.path() / "xmod";
  io::Json languages = io::Json::array();
  for (int i = 0; i < 100'000; ++i) languages.push_back("l" + std::to_string(i));
  set(folder, "languages", languages);
  set(folder, "default_language", "l0");
  EXPECT_THAT(message_of<FormatError>([&] { (void)open_encoder(folder, weights_only()); }),
              AllOf(HasSubstr("adapter_modules"), HasSubstr("do not fit config.json")));
}

TEST_F(HostileFolder, WhatIsNoFileIsRefusedByName) {
  const fs::path path = llama_ / "model.safetensors";
  for (const char* name : {"model.safetensors", "config.json", "generation_config.json"}) {
    const fs::path kept = temporary_.path() / "kept";
    fs::rename(llama_ / name, kept);
    ASSERT_EQ(::mkfifo((llama_ / name).c_str(), 0600), 0);
    EXPECT_THAT(message_of<IoError>([&] { open_llama(); }),
                AllOf(HasSubstr((llama_ / name).string()), HasSubstr("pipe")));
    fs::remove(llama_ / name);
    fs::create_directory(llama_ / name);
    EXPECT_THAT(message_of<IoError>([&] { open_llama(); }),
                AllOf(HasSubstr((llama_ / name).string()), HasSubstr("folder")));
    fs::remove(llama_ / name);
    fs::create_symlink(name, llama_ / name);              // To itself.
    if (std::string(name) != "generation_config.json") {  // That may be missing.
      EXPECT_THAT(message_of<IoError>([&] { open_llama(); }), HasSubstr(name));
    }
    fs::remove(llama_ / name);
    fs::rename(kept, llama_ / name);
  }
  EXPECT_NO_THROW(open_llama());
}

TEST_F(HostileFolder, AnIndexLeadsToFilesOfItsFolderOnly) {
  fs::remove(llama_ / "model.safetensors");
  const fs::path index = llama_ / "model.safetensors.index.json";
  for (const char* name : {"../../etc/passwd", "/etc/passwd", "a/../../b", "..", ""}) {
    io::write_json(index, {{"weight_map", {{"model.norm.weight", name}}}});
    EXPECT_THAT(message_of<FormatError>([&] { open_llama(); }),
                AllOf(HasSubstr(index.string()), HasSubstr("is not the name of a file in this folder")))
        << name;
  }
  const fs::path pipe = llama_ / "shard.safetensors";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  io::write_json(index, {{"weight_map", {{"model.norm.weight", "shard.safetensors"}}}});
  EXPECT_THAT(message_of<IoError>([&] { open_llama(); }), AllOf(HasSubstr(pipe.string()), HasSubstr("pipe")));
  io::write_json(index, {{"weight_map", {{"model.norm.weight", "."}}}});
  EXPECT_THAT(message_of<Error>([&] { open_llama(); }), HasSubstr(llama_.string()));
}

TEST_F(HostileFolder, WeightsThatSomebodyWritesToAreRefused) {
  const io::SafetensorsFolder source = io::SafetensorsFolder::open(llama_);
  const auto model = testing::tiny_llama();
  EXPECT_NO_THROW(load_weights(*model, source, at::kFloat, at::kCPU));
  const fs::path path = llama_ / "model.safetensors";
  fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(1));
  EXPECT_THAT(message_of<IoError>([&] { load_weights(*model, source, at::kFloat, at::kCPU); }),
              HasSubstr(path.string() + ": changed while it was in use"));
}

TEST_F(HostileFolder, ASparseTerabyteIsRefusedAtOnce) {
  const fs::path path = llama_ / "model.safetensors";
  std::error_code error;
  fs::resize_file(path, std::uintmax_t{1} << 40, error);
  if (error) GTEST_SKIP() << "this file system has no such files: " << error.message();
  EXPECT_THAT(message_of<FormatError>([&] { open_llama(); }),
              AllOf(HasSubstr(path.string()), HasSubstr("bytes follow the last tensor")));
}

TEST_F(HostileFolder, HeadersThatLieAreRefused) {
  const fs::path path = llama_ / "model.safetensors";
  const auto with_header = [&](const std::string& header, std::size_t data) {
    const std::uint64_t size = header.size();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&size), 8);
    file << header << std::string(data, '\0');
    file.close();
    return message_of<FormatError>([&] { (void)io::SafetensorsFile::open(path); });
  };
  EXPECT_THAT(with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                          R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                          12),
              HasSubstr("'b' overlaps"));
  EXPECT_THAT(with_header(R"({"a":{"dtype":"U8","shape":[9223372036854775808],)"
                          R"("data_offsets":[0,9223372036854775808]}})",
                          8),
              HasSubstr("whole number"));
  EXPECT_THAT(with_header(R"({"a":{"dtype":"F32","shape":[4611686018427387904],)"
                          R"("data_offsets":[0,8]}})",
                          8),
              HasSubstr("larger than any file"));
  EXPECT_THAT(with_header(R"({"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}})", 8),
              HasSubstr("not a whole number"));
  EXPECT_EQ(with_header(R"({"a":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}})", 0),
            "nothing was thrown");
}

}  // namespace
}  // namespace bitrain::hub
