#include <bitrain/hub/late_interaction_dir.h>

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include <bitrain/base/error.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/io/json.h>

#include "support/gradcheck.h"
#include "support/letter_tokenizer.h"
#include "support/temporary_directory.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::hub {
namespace {

namespace fs = std::filesystem;
using models::LateInteractionEncoder;
using models::LateInteractionOptions;
using ::testing::HasSubstr;
using testing::random_batch;
using ::testing::ThrowsMessage;
using testing::tiny_bert;

at::Tensor vectors_of(LateInteractionEncoder& model) {
  const at::NoGradGuard no_grad;
  return model.forward(random_batch({5, 1, 9}, 23), {});
}

class LateInteractionFolder : public ::testing::Test {
 protected:
  [[nodiscard]] fs::path path() const { return folder_.path() / "model"; }
  [[nodiscard]] OpenedLateInteraction open(bool tokenizer = false) const {
    OpenOptions options;
    options.tokenizer = tokenizer;
    return open_late_interaction(path(), options);
  }
  void save(const LateInteractionOptions& options = test::late_options(12, 30)) {
    model_ = std::make_unique<LateInteractionEncoder>(tiny_bert(), 6, options);
    models::initialise_projection(*model_, 3);
    save_late_interaction(path(), *model_, nullptr);
  }
  /// With a vocabulary and its tokenizer.
  void save_with_tokenizer(const LateInteractionOptions& options) const {
    const auto tokenizer = test::letter_tokenizer();
    models::BertConfig config = testing::tiny_bert_config();
    config.vocab_size = tokenizer->vocab_size();
    LateInteractionEncoder model(tiny_bert(at::kFloat, config), 6, options);
    models::initialise_projection(model, 3);
    save_late_interaction(path(), model, tokenizer.get());
  }
  /// Changes one key of a file.
  void edit(const char* file, const char* key, const io::Json& value) const {
    io::Json json = io::read_json(path() / file);
    json[key] = value;
    io::write_json(path() / file, json);
  }
  void remove_module(const std::string& type) const {
    io::Json kept = io::Json::array();
    for (const io::Json& module : io::read_json(path() / "modules.json"))
      if (module["type"].get<std::string>().find(type) == std::string::npos) kept.push_back(module);
    io::write_json(path() / "modules.json", kept);
  }

  test::TemporaryDirectory folder_;
  std::unique_ptr<LateInteractionEncoder> model_;
};

TEST_F(LateInteractionFolder, SurvivesWritingAndReading) {
  for (const bool expansion : {true, false}) {
    save({.query_length = 12,
          .query_expansion = expansion,
          .document_length = 30,
          .query_prompt = "find: ",
          .document_prompt = "",
          .skiplist_words = {".", "!"}});
    ASSERT_TRUE(is_late_interaction(path()));
    const OpenedLateInteraction again = open();
    EXPECT_TRUE(at::equal(vectors_of(*again.model), vectors_of(*model_)));
    const LateInteractionOptions& options = again.model->options();
    EXPECT_EQ(options.query_length, 12);
    EXPECT_EQ(options.query_expansion, expansion);
    EXPECT_EQ(options.document_length, 30);
    EXPECT_EQ(options.query_prompt, "find: ");
    EXPECT_EQ(options.document_prompt, "");
    EXPECT_EQ(options.skiplist_words, (std::vector<std::string>{".", "!"}));
    fs::remove_all(path());
  }
}

TEST_F(LateInteractionFolder, FoldersOfOtherKindsAreNamed) {
  EXPECT_FALSE(is_late_interaction(path()));
  models::SentenceEncoder sentence(tiny_bert(), {{nn::Pooling::kMean}, true});
  save_sentence_encoder(path(), sentence, nullptr, {});
  EXPECT_FALSE(is_late_interaction(path()));
  EXPECT_THAT([&] { (void)open(); }, ThrowsMessage<FormatError>(HasSubstr("have no projection")));
  fs::remove(path() / "modules.json");
  EXPECT_THAT(
      [&] { (void)open(); },
      ThrowsMessage<FormatError>(HasSubstr("the stage late_interaction gives an encoder a projection")));
  fs::remove_all(path());
  save();
  // The other way round: the folder is no sentence encoder.
  EXPECT_THAT([&] { (void)open_sentence_encoder(path()); },
              ThrowsMessage<UnsupportedError>(HasSubstr("MultiVectorMask")));
  remove_module("Normalize");
  EXPECT_THAT([&] { (void)open(); }, ThrowsMessage<UnsupportedError>(
                                         HasSubstr("Transformer, Dense, MultiVectorMask are not supported")));
  remove_module("MultiVectorMask");
  EXPECT_THAT([&] { (void)open(); }, ThrowsMessage<FormatError>(HasSubstr("PyLate")));
  remove_module("Dense");
  EXPECT_THAT([&] { (void)open(); }, ThrowsMessage<FormatError>(HasSubstr("have no projection")));
}

TEST_F(LateInteractionFolder, WhatWouldBeComputedOtherwiseIsRefused) {
  const auto refused = [&](const char* file, const char* key, const io::Json& value, const char* message) {
    save();
    edit(file, key, value);
    EXPECT_THAT([&] { (void)open(); }, ThrowsMessage<Error>(HasSubstr(message))) << key;
    fs::remove_all(path());
  };
  const char* lengths = "sentence_bert_config.json";
  const io::Json expansion = {{"strategy", "fixed"}, {"attend", true}, {"token", nullptr}, {"length", 12}};
  const auto with = [&](const char* key, const io::Json& value) {
    io::Json json = expansion;
    json[key] = value;
    return json;
  };
  refused(lengths, "query_expansion", with("attend", false), "attend true and the mask token");
  refused(lengths, "query_expansion", with("strategy", "min"), "strategy fixed");
  refused(lengths, "query_expansion", with("token", "[PAD]"), "the mask token");
  refused(lengths, "query_expansion", with("length", 35), "do not fit the 34 positions");
  refused(lengths, "query_expansion", with("length", nullptr), "length");
  refused(lengths, "document_length", 2, "3 is the least");
  refused(lengths, "do_lower_case", true, "do_lower_case");
  refused("config_sentence_transformers.json", "similarity_fn_name", "meanmaxsim", "there is maxsim");
  refused("1_Dense/config.json", "module_input_name", "sentence_embedding", "there is token_embeddings");
  refused("1_Dense/config.json", "use_residual", true, "use_residual");
  refused("2_MultiVectorMask/config.json", "skiplist_tasks", {"query", "document"}, "only documents");
  refused("2_MultiVectorMask/config.json", "keep_only_token_ids", {3}, "only documents");
  refused("2_MultiVectorMask/config.json", "skiplist_words", {3}, "a list of strings was expected");
  refused("3_Normalize/config.json", "module_input_name", "sentence_embedding",
          "only unit vectors of tokens");
}

TEST_F(LateInteractionFolder, MarkersThatAreTokensAreRefused) {
  LateInteractionOptions options = test::late_options(12, 30);
  options.query_prompt = "[unused0] ";
  save_with_tokenizer(options);
  EXPECT_THAT([&] { (void)open(/*tokenizer=*/true); },
              ThrowsMessage<UnsupportedError>(HasSubstr("the prompt '[unused0] ' is a token of its own")));
  fs::remove_all(path());
  options.query_prompt = "a ";
  options.document_prompt = "find: ";
  save_with_tokenizer(options);
  EXPECT_NO_THROW((void)open(/*tokenizer=*/true));
}

}  // namespace
}  // namespace bitrain::hub
