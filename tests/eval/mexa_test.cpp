#include <bitrain/eval/mexa.h>

#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/models/llama/model.h>
#include <support/byte_tokenizer.h>

namespace bitrain::eval {
namespace {

using ::testing::HasSubstr;

at::Tensor draw(std::int64_t rows, std::int64_t dim, const std::string& purpose, std::uint64_t seed = 1) {
  at::Tensor values = at::empty({rows, dim}, at::TensorOptions().dtype(at::kFloat));
  RandomStream stream(seed, purpose);
  auto* to = values.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < values.numel(); ++i) to[i] = static_cast<float>(stream.normal());
  return values;
}

TEST(MexaAlignment, IdenticalSidesCountUnlessTheyTie) {
  at::Tensor x = draw(100, 16, "x");
  EXPECT_DOUBLE_EQ(mexa_alignment(x, x), 1);
  x[17] = x[60];
  EXPECT_DOUBLE_EQ(mexa_alignment(x, x), 0.98);
}

TEST(MexaAlignment, RandomSidesHitAsOftenAsChance) {
  double sum = 0;
  constexpr int kDraws = 2000;
  for (int i = 0; i < kDraws; ++i)
    sum += mexa_alignment(draw(20, 32, "x", static_cast<std::uint64_t>(i)),
                          draw(20, 32, "y", static_cast<std::uint64_t>(i)));
  EXPECT_NEAR(sum / kDraws, 1.0 / 39, 0.004);  // A row's own must beat 38 others.
}

// MEXA's own size: 100 sentences hit by chance 1 / 199 of the time.
TEST(MexaAlignment, OfAHundredRandomPairsAlmostNoneHit) {
  double sum = 0;
  constexpr int kDraws = 400;
  for (int i = 0; i < kDraws; ++i)
    sum += mexa_alignment(draw(100, 32, "x", static_cast<std::uint64_t>(i)),
                          draw(100, 32, "y", static_cast<std::uint64_t>(i)));
  EXPECT_NEAR(sum / kDraws, 1.0 / 199, 0.0015);
}

// The last token of every sentence is a full stop: all embeddings of layer 0 are one.
TEST(MexaAlignment, EqualRowsAllTie) {
  const at::Tensor one = draw(1, 257, "x");
  EXPECT_DOUBLE_EQ(mexa_alignment(one.expand({101, 257}), one.expand({101, 257})), 0);
  EXPECT_DOUBLE_EQ(mexa_alignment(one.expand({101, 257}), draw(101, 257, "y")), 0);
}

TEST(MexaAlignment, DirectionAloneCounts) {
  const at::Tensor x = draw(30, 8, "x");
  const at::Tensor y = x + 0.7 * draw(30, 8, "noise");
  const double score = mexa_alignment(x, y);
  EXPECT_GT(score, 0.1);
  EXPECT_LT(score, 1.0);
  EXPECT_DOUBLE_EQ(mexa_alignment(x * 3.0, y * draw(30, 1, "scale").abs().clamp_min(0.1)), score);
  EXPECT_DOUBLE_EQ(mexa_alignment(y, x), score);
}

TEST(MexaAlignment, BadInput) {
  at::Tensor x = draw(3, 4, "x");
  EXPECT_THROW((void)mexa_alignment(x, x.narrow(0, 0, 2)), StateError);
  EXPECT_THROW((void)mexa_alignment(x.narrow(0, 0, 0), x.narrow(0, 0, 0)), DataError);
  EXPECT_THAT([&] { (void)mexa_alignment(x.narrow(0, 0, 1), x.narrow(0, 0, 1)); },
              ::testing::ThrowsMessage<DataError>(HasSubstr("1 pair has nothing to be told from")));
  x[1] = 0.0;
  EXPECT_THROW((void)mexa_alignment(x, x), DataError);
  x[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW((void)mexa_alignment(x, x), DataError);
}

class Mexa : public ::testing::Test {
 protected:
  void SetUp() override {
    models::LlamaConfig config;
    config.vocab_size = 259;
    config.hidden_size = 32;
    config.intermediate_size = 48;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 2;
    config.initializer_range = 0.2;
    model_ = models::make_llama(config);
    models::initialise(*model_, 3);
  }
  std::unique_ptr<models::LanguageModel> model_;
  test::ByteTokenizer tokenizer_;
  std::vector<std::string> sentences_ = {"uno", "dos y tres", "cuatro", "cinco o seis, siete"};
};

TEST_F(Mexa, EmbeddingsAreTheirFormulaInAnyBatch) {
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> whole = layer_embeddings(*model_, tokenizer_, sentences_);
  ASSERT_EQ(whole.size(), 3U);  // Embedding, two layers.
  const std::vector<at::Tensor> single =
      layer_embeddings(*model_, tokenizer_, sentences_, {.batch_tokens = 1});
  for (std::size_t layer = 0; layer < whole.size(); ++layer)
    EXPECT_TRUE(at::allclose(whole[layer], single[layer], 1e-5, 1e-6));
  std::vector<std::int32_t> ids = tokenizer_.encode(sentences_[1]);
  ids.insert(ids.begin(), 256);
  const Batch batch = make_batch({ids}, {std::vector<std::int32_t>(ids.size(), kIgnoreIndex)});
  nn::ForwardContext context;
  context.all_hidden = true;
  const ModelOutput output = model_->forward(batch, context);
  at::Tensor sum = output.hidden[0] * 0.0;
  double total = 0;
  for (std::size_t t = 0; t < ids.size(); ++t) {
    sum += output.hidden[static_cast<std::int64_t>(t)] * static_cast<double>(t + 1);
    total += static_cast<double>(t + 1);
  }
  EXPECT_TRUE(at::allclose(whole[2][1], sum / total, 1e-4, 1e-5));
  const std::vector<at::Tensor> last = layer_embeddings(*model_, tokenizer_, sentences_, {.tokens = "last"});
  EXPECT_TRUE(
      at::allclose(last[1][1], output.all_hidden[1][static_cast<std::int64_t>(ids.size()) - 1], 1e-5, 1e-6));
}

TEST_F(Mexa, ScoresEveryLayer) {
  const MexaScores same = mexa(*model_, tokenizer_, sentences_, sentences_);
  EXPECT_THAT(same.layers, ::testing::ElementsAre(1, 1, 1));
  EXPECT_DOUBLE_EQ(same.mean, 1);
  const MexaScores mixed = mexa(*model_, tokenizer_, sentences_, {"one", "two and three", "four", "five"});
  EXPECT_DOUBLE_EQ(mixed.max, *std::max_element(mixed.layers.begin(), mixed.layers.end()));
  EXPECT_THROW((void)mexa(*model_, tokenizer_, sentences_, {"x"}), StateError);
  EXPECT_THROW((void)mexa(*model_, tokenizer_, {}, {}), DataError);
  EXPECT_THROW((void)mexa(*model_, tokenizer_, {"uno"}, {"one"}), DataError);
  EXPECT_THROW((void)mexa(*model_, tokenizer_, {"", "uno"}, {"x", "one"}), DataError);
}

}  // namespace
}  // namespace bitrain::eval
