#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/objectives/causal_lm.h>
#include <bitrain/objectives/sft.h>
#include <support/byte_tokenizer.h>

namespace bitrain::objectives {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::int32_t kNo = kIgnoreIndex;

data::Example plain(const std::string& text) {
  data::Example example;
  example.text = text;
  return example;
}

data::Example chat(std::vector<data::Message> messages) {
  data::Example example;
  example.messages = std::move(messages);
  example.source = "chats";
  example.id = 4;
  return example;
}

std::shared_ptr<test::ByteTokenizer> bytes(bool bos = true, bool eos = true) {
  return std::make_shared<test::ByteTokenizer>(bos, eos);
}

template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// Text of the labels that are to be learnt.
std::string learnt(const data::TokenSequence& sequence) {
  std::string text;
  for (std::int32_t label : sequence.labels) {
    if (label == kNo) continue;
    text += label == 257 ? '$' : static_cast<char>(label);
  }
  return text;
}

std::unique_ptr<models::LanguageModel> tiny_model() {
  models::LlamaConfig config;
  config.vocab_size = 259;
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 2;
  config.bos_token_id = 256;
  config.eos_token_id = {257};
  auto model = models::make_llama(config);
  models::initialise(*model, 3);
  return model;
}

TEST(CausalLm, PredictsEveryTokenAndTheEnd) {
  const auto both = CausalLm(bytes(), {}).encode(plain("ab"));
  EXPECT_THAT(both.ids, ElementsAre(256, 'a', 'b'));
  EXPECT_THAT(both.labels, ElementsAre('a', 'b', 257));
  const auto neither = CausalLm(bytes(), {}, {false, false}).encode(plain("abc"));
  EXPECT_THAT(neither.ids, ElementsAre('a', 'b'));
  EXPECT_THAT(neither.labels, ElementsAre('b', 'c'));
  EXPECT_THAT(CausalLm(bytes(false, false), {}).encode(plain("ab")).ids, ElementsAre('a'));
  EXPECT_TRUE(CausalLm(bytes(false, false), {}).encode(plain("a")).empty());
  EXPECT_TRUE(CausalLm(bytes(), {}).encode(plain("")).empty());
}

TEST(CausalLm, ShiftsIdsOfClones) {
  auto example = plain("a");
  example.clone = 2;
  EXPECT_THAT(CausalLm(bytes(), {}).encode(example).ids, ElementsAre(256 + 518, 'a' + 518));
}

TEST(CausalLm, RefusesConversations) {
  EXPECT_THAT(message_of([] {
                (void)CausalLm(bytes(), {}).encode(chat({{"user", "x"}}));
              }),
              AllOf(HasSubstr("row 5 of source 'chats'"), HasSubstr("objective sft")));
}

TEST(CausalLm, LossEqualsFullLogitsByLanguage) {
  auto model = tiny_model();
  const CausalLm objective(bytes(), {"en", "es"});
  const auto a = objective.encode(plain("hello there"));
  const auto b = objective.encode(plain("hola"));
  const Batch batch = make_batch({a.ids, b.ids, a.ids}, {a.labels, b.labels, a.labels}, {0, 1, 0});
  const LossSum loss = objective.loss(*model, batch, {});
  EXPECT_EQ(loss.weight, 12 + 5 + 12);

  const at::NoGradGuard no_grad;
  const auto reference = [&](const data::TokenSequence& sequence) {
    const Batch alone = make_batch({sequence.ids}, {sequence.labels});
    const at::Tensor logits = model->output_head().forward(model->forward(alone, {}).hidden, {});
    return -at::log_softmax(logits, -1).gather(1, alone.labels.unsqueeze(1)).sum().item<double>();
  };
  EXPECT_NEAR(loss.parts.at("language/en").sum, 2 * reference(a), 1e-3);
  EXPECT_NEAR(loss.parts.at("language/es").sum, reference(b), 1e-3);
  EXPECT_EQ(loss.parts.at("language/en").weight, 24);
  EXPECT_EQ(loss.parts.at("language/es").weight, 5);
  EXPECT_NEAR(loss.sum.item<double>(), 2 * reference(a) + reference(b), 2e-3);
}

TEST(CausalLm, SegmentWeightsScaleSumAndWeight) {
  auto model = tiny_model();
  const CausalLm objective(bytes(), {"en", "es"});
  const auto a = objective.encode(plain("hello"));
  const auto b = objective.encode(plain("hola"));
  Batch batch = make_batch({a.ids, b.ids}, {a.labels, b.labels}, {0, 1});
  const LossSum even = objective.loss(*model, batch, {});
  batch.weights = {2.0F, 0.0F};
  const LossSum loss = objective.loss(*model, batch, {});
  EXPECT_DOUBLE_EQ(loss.weight, 12);
  EXPECT_NEAR(loss.sum.item<double>(), 2 * even.parts.at("language/en").sum, 1e-3);
  EXPECT_EQ(loss.parts.count("language/es"), 0u);
  batch.weights = {1.0F};
  EXPECT_THROW((void)objective.loss(*model, batch, {}), StateError);
}

TEST(Sft, LearnsRepliesOnlyOverManyTurns) {
  const Sft sft(bytes(), {});
  const auto sequence = sft.encode(
      chat({{"system", "S"}, {"user", "hi"}, {"assistant", "yo"}, {"user", "and"}, {"assistant", "ok"}}));
  EXPECT_EQ(learnt(sequence), " yo$ ok$");
  EXPECT_EQ(bytes()->decode(sequence.ids), "S\nUser: hi\nAssistant: yoUser: and\nAssistant: ok");
  EXPECT_EQ(sequence.ids.front(), 256);
  EXPECT_EQ(sequence.labels.back(), 257);
}

TEST(Sft, FormatsAreData) {
  SftOptions o;
  o.roles = {{"user", {"<u>", "</u>", false}}, {"assistant", {"<a>", "</a>", true}}};
  o.bos = o.eos = false;
  const auto sequence =
      Sft(bytes(), {}, o).encode(chat({{"user", "q"}, {"assistant", "r"}, {"user", "later"}}));
  EXPECT_EQ(bytes()->decode(sequence.ids), "<u>q</u><a>r</a");  // nothing after the last target is read
  EXPECT_EQ(learnt(sequence), "r</a>");
}

TEST(Sft, APromptIsTheBeginningOfWhatWasLearnt) {
  const Sft sft(bytes(), {});
  const std::vector<data::Message> question = {{"user", "q"}};
  const auto prompt = sft.prompt(question);
  EXPECT_EQ(bytes()->decode(prompt), "User: q\nAssistant:");
  auto whole = question;
  whole.push_back({"assistant", "r"});
  const auto sequence = sft.encode(chat(whole));
  ASSERT_LE(prompt.size(), sequence.ids.size());
  EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), sequence.ids.begin()));
  EXPECT_EQ(sequence.labels[prompt.size() - 1], ' ');
}

TEST(Sft, TruncationPolicies) {
  SftOptions o;
  o.max_length = 24;
  const auto example = chat({{"user", "question"}, {"assistant", "a long reply"}});
  o.truncation = "right";
  auto sequence = Sft(bytes(), {}, o).encode(example);
  EXPECT_EQ(sequence.size(), 0);  // the prompt alone fills it
  o.max_length = 34;
  sequence = Sft(bytes(), {}, o).encode(example);
  EXPECT_EQ(sequence.size(), 34);
  EXPECT_EQ(learnt(sequence), " a long r");
  o.truncation = "left";
  sequence = Sft(bytes(), {}, o).encode(example);
  EXPECT_EQ(sequence.size(), 34);
  EXPECT_EQ(sequence.ids.front(), 256);
  EXPECT_EQ(learnt(sequence), " a long reply$");
  o.truncation = "drop";
  EXPECT_TRUE(Sft(bytes(), {}, o).encode(example).empty());
  EXPECT_THAT(Sft(bytes(), {}, o).encode(example).why_empty,
              AllOf(HasSubstr("tokens, max_length is 34"), HasSubstr("truncation: drop")));
  o.truncation = "error";
  EXPECT_THAT(message_of([&] { (void)Sft(bytes(), {}, o).encode(example); }),
              AllOf(HasSubstr("row 5 of source 'chats'"), HasSubstr("max_length is 34")));
}

TEST(Sft, NothingSupervisedIsDroppedOrAnError) {
  for (const auto& example : {chat({{"user", "alone"}}), chat({{"user", "q"}, {"assistant", "  "}})}) {
    SftOptions o;
    EXPECT_TRUE(Sft(bytes(), {}, o).encode(example).empty());
    o.nothing_supervised = "error";
    EXPECT_THAT(message_of([&] { (void)Sft(bytes(), {}, o).encode(example); }),
                AllOf(HasSubstr("row 5 of source 'chats'"), HasSubstr("nothing supervised")));
  }
}

TEST(Sft, WrongInputIsNamed) {
  EXPECT_THAT(message_of([] {
                (void)Sft(bytes(), {}).encode(chat({{"asistant", "x"}}));
              }),
              AllOf(HasSubstr("row 5"), HasSubstr("did you mean 'assistant'")));
  EXPECT_THAT(message_of([] { (void)Sft(bytes(), {}).encode(plain("x")); }), HasSubstr("has no messages"));
  EXPECT_THAT(message_of([] { Sft sft(bytes(true, false), {}); }), HasSubstr("no EOS"));
  SftOptions o;
  o.truncation = "rigth";
  EXPECT_THAT(message_of([&] { Sft sft(bytes(), {}, o); }), HasSubstr("did you mean 'right'"));
  o = {};
  o.nothing_supervised = "warn";
  EXPECT_THAT(message_of([&] { Sft sft(bytes(), {}, o); }), HasSubstr("drop or error"));
  o = {};
  o.roles["assistant"].supervised = false;
  EXPECT_THAT(message_of([&] { Sft sft(bytes(), {}, o); }), HasSubstr("no role is supervised"));
}

}  // namespace
}  // namespace bitrain::objectives
