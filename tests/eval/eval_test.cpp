#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/completion.h>
#include <bitrain/eval/perplexity.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/objectives/sft.h>
#include <support/byte_tokenizer.h>
#include <support/marker_tokenizer.h>

namespace bitrain::eval {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::unique_ptr<models::LanguageModel> tiny_model() {
  models::LlamaConfig config;
  config.vocab_size = 259;
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 2;
  config.bos_token_id = 256;
  config.eos_token_id = {257};
  config.initializer_range = 0.2;
  auto model = models::make_llama(config);
  models::initialise(*model, 3);
  return model;
}

/// Sum of -log p of tokens [from, end) of a row, by full logits.
double nll(models::LanguageModel& model, const std::vector<std::int32_t>& row, std::size_t from = 1) {
  const at::NoGradGuard no_grad;
  const Batch batch = make_batch({row}, {std::vector<std::int32_t>(row.size(), kIgnoreIndex)});
  const at::Tensor log_p =
      at::log_softmax(model.output_head().forward(model.forward(batch, {}).hidden, {}), -1);
  double sum = 0;
  for (std::size_t i = from; i < row.size(); ++i) {
    sum -= log_p[static_cast<std::int64_t>(i) - 1][row[i]].item<double>();
  }
  return sum;
}

std::vector<std::int32_t> row(std::initializer_list<std::int32_t> before, const std::string& text) {
  std::vector<std::int32_t> ids(before);
  for (char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

TEST(Perplexity, CountsTokensAndBytesOfEveryLanguage) {
  auto model = tiny_model();
  const test::ByteTokenizer tokenizer;
  const auto scores = perplexity(*model, tokenizer, {{"en", {"hello", "you"}}, {"es", {"señor"}}});
  ASSERT_EQ(scores.size(), 2u);
  const LanguageScore& en = scores.at("en");
  const double expected = nll(*model, row({256}, "hello")) + nll(*model, row({256}, "you"));
  EXPECT_EQ(en.tokens, 8);
  EXPECT_EQ(en.bytes, 8);
  EXPECT_EQ(en.documents, 2);
  EXPECT_NEAR(en.nll, expected, 1e-3);
  EXPECT_NEAR(en.loss_per_token, expected / 8, 1e-4);
  EXPECT_NEAR(en.bits_per_byte, expected / 8 / std::log(2.0), 1e-4);
  EXPECT_EQ(scores.at("es").bytes, 6);  // of UTF-8, not characters
}

TEST(Perplexity, FirstTokenFollowsBosOrEosOrIsLeftOut) {
  auto model = tiny_model();
  const auto only_eos = perplexity(*model, test::ByteTokenizer(false, true), {{"en", {"hello"}}}).at("en");
  EXPECT_NEAR(only_eos.nll, nll(*model, row({257}, "hello")), 1e-3);
  EXPECT_EQ(only_eos.bytes, 5);
  const auto neither = perplexity(*model, test::ByteTokenizer(false, false), {{"en", {"hello"}}}).at("en");
  EXPECT_NEAR(neither.nll, nll(*model, row({}, "hello")), 1e-3);
  EXPECT_EQ(neither.tokens, 4);
  EXPECT_EQ(neither.bytes, 4);
}

TEST(Perplexity, BatchesChangeNothingAndTheEndCountsOnRequest) {
  auto model = tiny_model();
  const test::ByteTokenizer tokenizer;
  const std::map<std::string, std::vector<std::string>> documents = {
      {"en", {"hello", "", "you", "there it is"}}};
  PerplexityOptions o;
  const auto together = perplexity(*model, tokenizer, documents, o).at("en");
  EXPECT_EQ(together.nll, perplexity(*model, tokenizer, documents, o).at("en").nll);
  EXPECT_EQ(together.documents, 3);
  o.batch_tokens = 1;
  EXPECT_NEAR(together.nll, perplexity(*model, tokenizer, documents, o).at("en").nll, 1e-3);
  o.score_eos = true;
  EXPECT_EQ(perplexity(*model, tokenizer, documents, o).at("en").tokens, together.tokens + 3);
}

TEST(Perplexity, WindowsScoreEveryTokenOnceWithContext) {
  auto model = tiny_model();
  const test::ByteTokenizer tokenizer;
  PerplexityOptions o;
  o.sequence_length = 8;
  o.overlap = 3;
  const auto whole = row({256}, "abcdefghijkl");  // 12 targets: read 0..7, then 5..11 with 3 of context
  const auto score = perplexity(*model, tokenizer, {{"en", {"abcdefghijkl"}}}, o).at("en");
  EXPECT_EQ(score.tokens, 12);
  const double first = nll(*model, {whole.begin(), whole.begin() + 9});
  const double second = nll(*model, {whole.begin() + 5, whole.end()}, 4);
  EXPECT_NEAR(score.nll, first + second, 1e-3);
}

TEST(Perplexity, NothingToScoreAndWrongOptionsAreErrors) {
  auto model = tiny_model();
  const test::ByteTokenizer tokenizer;
  EXPECT_THROW((void)perplexity(*model, tokenizer, {{"en", {""}}}), DataError);
  EXPECT_THROW((void)perplexity(*model, tokenizer, {{"en", {}}}), DataError);
  PerplexityOptions o;
  o.overlap = o.sequence_length;
  EXPECT_THROW((void)perplexity(*model, tokenizer, {{"en", {"a"}}}, o), ConfigError);
  o = {};
  o.batch_tokens = 0;
  EXPECT_THROW((void)perplexity(*model, tokenizer, {{"en", {"a"}}}, o), ConfigError);
}

TEST(ObjectiveLoss, IsThatOfTheReplies) {
  auto model = tiny_model();
  const objectives::Sft sft(std::make_shared<test::ByteTokenizer>(), {"es"});
  data::Example chat;
  chat.messages = {{"user", "q"}, {"assistant", "rs"}};
  data::Example dropped;
  dropped.messages = {{"user", "q"}};
  const auto scores = objective_loss(*model, sft, *data::make_source("held", "es", {chat, dropped}));
  const auto ids = row({256}, "User: q\nAssistant: rs");
  auto whole = ids;
  whole.push_back(257);
  EXPECT_EQ(scores.at("es").tokens, 4);  // " rs" and EOS
  EXPECT_EQ(scores.at("es").documents, 1);
  EXPECT_NEAR(scores.at("es").nll, nll(*model, whole, whole.size() - 4), 1e-3);
  EXPECT_THROW((void)objective_loss(*model, sft, *data::make_source("held", "es", {dropped})), DataError);
}

TEST(ObjectiveLoss, TakesNoMoreOfALanguageThanIsAskedFor) {
  auto model = tiny_model();
  const objectives::Sft sft(std::make_shared<test::ByteTokenizer>(), {"en", "es"});
  const auto chat = [](const std::string& reply, const std::string& language) {
    data::Example example;
    example.messages = {{"user", "q"}, {"assistant", reply}};
    example.language = language;
    return example;
  };
  // Dropped examples take no place; a language that comes late is scored as well.
  data::Example dropped = chat("", "en");
  dropped.messages.pop_back();
  const auto source = data::make_source(
      "held", "en", {dropped, chat("a", "en"), chat("bcd", "en"), chat("efgh", "en"), chat("x", "es")});
  const auto all = objective_loss(*model, sft, *source);
  EXPECT_EQ(all.at("en").documents, 3);
  const auto bounded = objective_loss(*model, sft, *source, 2);
  EXPECT_EQ(bounded.at("en").documents, 2);
  EXPECT_EQ(bounded.at("es").documents, 1);
  EXPECT_LT(bounded.at("en").tokens, all.at("en").tokens);
  EXPECT_EQ(objective_loss(*model, sft, *source, 100).at("en").tokens, all.at("en").tokens);
}

TEST(WorseThanNoModel, IsAboveEightBitsPerByte) {
  EXPECT_EQ(worse_than_no_model("es", 7.99), "");
  EXPECT_EQ(worse_than_no_model("es", 8), "");
  EXPECT_THAT(worse_than_no_model("es", 8.254),
              AllOf(HasSubstr("'es' costs 8.25 bits per byte"), HasSubstr("worse than no model"),
                    HasSubstr("tokenizer")));
  EXPECT_THAT(worse_than_no_model("es", std::nan("")), HasSubstr("nan bits per byte"));
}

/// Model whose every next token is a fixed function of the last one: the alphabet in order, then a space.
class Alphabet : public models::LanguageModel {
 public:
  Alphabet() : embedding_(259, 259), head_(259, 259, false) {
    const at::NoGradGuard no_grad;
    embedding_.weight.zero_();
    head_.weight.zero_();
    for (std::int64_t id = 0; id < 259; ++id) embedding_.weight[id][id] = 1;
    for (std::int64_t id = 0; id < 259; ++id) head_.weight[next(id)][id] = 1;
  }
  static std::int64_t next(std::int64_t id) {
    if (id == 'd') return ' ';
    if (id == ' ') return 'a';
    if (id == 'z') return 257;
    return id < 258 ? id + 1 : 'a';
  }
  ModelOutput forward(const Batch& batch, const nn::ForwardContext& context) override {
    return {embedding_.forward(batch.input_ids, context), {}};
  }
  at::Tensor forward_cached(const at::Tensor& ids, models::KeyValueCache&) override {
    return embedding_.forward(ids, {});
  }
  nn::Embedding& input_embeddings() override { return embedding_; }
  nn::Linear& output_head() override { return head_; }
  bool tied() const override { return false; }
  const models::LlamaConfig& config() const override { return config_; }
  models::LlamaConfig& config() override { return config_; }

 private:
  nn::Embedding embedding_;
  nn::Linear head_;
  models::LlamaConfig config_;
};

TEST(Completion, ComparesWholeWords) {
  Alphabet model;
  const test::ByteTokenizer tokenizer;
  const auto accuracy = [&](const std::string& prompt, const std::string& expected, std::int64_t words = 1) {
    CompletionOptions o;
    o.words = words;
    return completion_accuracy(model, tokenizer, {{row({256}, prompt), expected, "en"}}, o).at("en").accuracy;
  };
  EXPECT_EQ(accuracy("d", "abcd and more"), 1);  // writes " abcd abcd ..."
  EXPECT_EQ(accuracy("d", "abc"), 0);            // a beginning is not the word
  EXPECT_EQ(accuracy("d", "abcd abcd", 2), 1);
  EXPECT_EQ(accuracy("d", "abcd xyz", 2), 0);
  EXPECT_EQ(accuracy("x", "yz"), 1);       // ended by EOS
  EXPECT_EQ(accuracy("d", "abcd", 5), 1);  // fewer words expected than asked for
}

TEST(Completion, CountsByLanguageAndRefusesEmptyCases) {
  Alphabet model;
  const test::ByteTokenizer tokenizer;
  const std::vector<CompletionCase> cases = {
      {row({}, "d"), "abcd", "en"}, {row({}, "d"), "x", "es"}, {row({}, "d"), "abcd", "es"}};
  CompletionOptions o;
  o.batch_tokens = 1;
  const auto scores = completion_accuracy(model, tokenizer, cases, o);
  EXPECT_EQ(scores.at("en").correct, 1);
  EXPECT_EQ(scores.at("es").cases, 2);
  EXPECT_EQ(scores.at("es").accuracy, 0.5);
  EXPECT_THROW((void)completion_accuracy(model, tokenizer, {}), DataError);
  EXPECT_THROW((void)completion_accuracy(model, tokenizer, {{{}, "a", "en"}}), DataError);
  try {
    (void)completion_accuracy(model, tokenizer, {{{1}, " ", "en", "x.jsonl:3"}});
    FAIL() << "nothing is expected";
  } catch (const DataError& error) {
    EXPECT_STREQ(error.what(), "x.jsonl:3 has an empty reply: there is nothing to complete; leave it out");
  }
}

TEST(Completion, SplitsTextsAtWords) {
  const test::ByteTokenizer tokenizer;
  const auto split = split_case(tokenizer, " uno dos  tres ", "es", 2);
  EXPECT_EQ(tokenizer.decode(split.prompt), " uno dos");
  EXPECT_EQ(split.prompt.front(), 256);
  EXPECT_EQ(split.expected, "tres ");
  EXPECT_EQ(split_case(tokenizer, "uno dos", "es", 2).expected, "");
}

TEST(Completion, APromptMaySpellSpecialTokens) {
  const test::MarkerTokenizer tokenizer({"<|user|>"});
  EXPECT_EQ(encode_prompt(tokenizer, "<|user|>a"), (std::vector<text::TokenId>{256, 300, 'a'}));
  EXPECT_EQ(encode_prompt(tokenizer, "<s>a"), (std::vector<text::TokenId>{256, 'a'}));
  EXPECT_EQ(encode_prompt(tokenizer, ""), (std::vector<text::TokenId>{256}));
  EXPECT_TRUE(encode_prompt(test::ByteTokenizer(false, false), "").empty());
}

}  // namespace
}  // namespace bitrain::eval
