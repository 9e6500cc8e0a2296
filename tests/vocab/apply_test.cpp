#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/models/llama/config.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/vocab/apply.h>
#include <bitrain/vocab/piece_learner.h>

namespace bitrain::vocab {
namespace {

using ::testing::HasSubstr;
using text::TokenId;

/// A BPE model over a few characters, with byte fallback: unk, s, /s, 256 bytes, then pieces from id 259.
ExtensionPlan small_plan() {
  text::SpmModel model;
  model.type = text::SpmType::kBpe;
  model.byte_fallback = true;
  model.pieces = {{"<unk>", 0, text::PieceType::kUnknown, {}},
                  {"<s>", 0, text::PieceType::kControl, {}},
                  {"</s>", 0, text::PieceType::kControl, {}}};
  for (int byte = 0; byte < 256; ++byte)
    model.pieces.push_back(
        {text::byte_piece(static_cast<std::uint8_t>(byte)), 0, text::PieceType::kByte, {}});
  float score = 0;
  for (const char* piece : {"ab", "▁", "a", "b", "c"})
    model.pieces.push_back({piece, score -= 1, text::PieceType::kNormal, {}});
  // trainer_spec: bpe (field 3), byte_fallback (field 35).
  model.trainer_spec = std::string("\x18\x02\x98\x02\x01", 5);
  const auto base = text::make_sentencepiece_tokenizer(model);
  // "▁ab" from two pieces of three and two bytes, "abc" from two, "é" from two bytes, "éc" from those and c.
  return plan_between(base,
                      text::make_sentencepiece_tokenizer(append_below(model, {"▁ab", "abc", "é", "éc"})));
}

constexpr std::int64_t kOld = 264;
constexpr std::int64_t kNew = 268;
constexpr std::int64_t kAb = 259, kSpace = 260, kC = 263, kE1 = 3 + 0xC3, kE2 = 3 + 0xA9;

std::unique_ptr<models::LanguageModel> small_model(std::int64_t rows = kOld, bool tied = false,
                                                   at::ScalarType dtype = at::kFloat) {
  models::LlamaConfig config;
  config.vocab_size = rows;
  config.hidden_size = 16;
  config.intermediate_size = 32;
  config.num_hidden_layers = 1;
  config.num_attention_heads = 2;
  config.tie_word_embeddings = tied;
  auto model = models::make_llama(config, at::TensorOptions().dtype(dtype));
  models::initialise(*model, 3);
  return model;
}

InitialiserOptions named(const std::string& preset) {
  InitialiserOptions options;
  options.preset = preset;
  return options;
}

at::Tensor input_of(models::LanguageModel& model) {
  return model.input_embeddings().weight.detach().to(at::kDouble);
}
at::Tensor head_of(models::LanguageModel& model) {
  return model.output_head().weight.detach().to(at::kDouble);
}
double difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

TEST(SmallPlan, IsWhatTheTestsAssume) {
  const ExtensionPlan plan = small_plan();
  ASSERT_EQ(plan.old_vocab_size(), kOld);
  ASSERT_EQ(plan.vocab_size(), kNew);
  EXPECT_EQ(plan.pieces[0].source, (std::vector<TokenId>{kSpace, kAb}));
  EXPECT_EQ(plan.pieces[1].source, (std::vector<TokenId>{kAb, kC}));
  EXPECT_EQ(plan.pieces[2].source, (std::vector<TokenId>{kE1, kE2}));
  EXPECT_EQ(plan.pieces[3].source, (std::vector<TokenId>{kE1, kE2, kC}));
}

TEST(Apply, ZipTieIsTheMeanOfTheOldPiecesInBothMatrices) {
  const auto model = small_model();
  const at::Tensor input = input_of(*model);
  const at::Tensor head = head_of(*model);
  const ApplyReport report = apply_extension(*model, small_plan(), {}, 1);
  EXPECT_EQ(report.old_rows, kOld);
  EXPECT_EQ(report.rows, kNew);
  EXPECT_EQ(report.added, 4);
  EXPECT_EQ(report.reused_padding, 0);
  EXPECT_LT(report.new_norm, report.old_norm);
  EXPECT_EQ(model->config().vocab_size, kNew);
  EXPECT_EQ(model->output_head().out_features, kNew);
  for (const auto& [old, now] : {std::pair(input, input_of(*model)), std::pair(head, head_of(*model))}) {
    ASSERT_EQ(now.size(0), kNew);
    EXPECT_TRUE(at::equal(now.narrow(0, 0, kOld), old));
    EXPECT_LT(difference(now[kOld], (old[kSpace] + old[kAb]) / 2), 1e-8);
    EXPECT_LT(difference(now[kOld + 1], (old[kAb] + old[kC]) / 2), 1e-8);
    EXPECT_LT(difference(now[kOld + 3], (old[kE1] + old[kE2] + old[kC]) / 3), 1e-8);
  }
}

TEST(Apply, StrictTieCopiesTheNewInputRows) {
  const auto model = small_model();
  apply_extension(*model, small_plan(), named("zip_tie_strict_tie"), 1);
  EXPECT_TRUE(at::equal(input_of(*model).narrow(0, kOld, 4), head_of(*model).narrow(0, kOld, 4)));
}

TEST(Apply, PieceRules) {
  const at::Tensor old = input_of(*small_model());
  const auto filled = [&](const std::string& rule) {
    const auto model = small_model();
    apply_extension(*model, small_plan(), named(rule), 1);
    return input_of(*model);
  };
  const at::Tensor first = filled("first");
  EXPECT_TRUE(at::equal(first[kOld], old[kSpace]));
  EXPECT_TRUE(at::equal(first[kOld + 3], old[kE1]));
  const at::Tensor last = filled("last");
  EXPECT_TRUE(at::equal(last[kOld], old[kAb]));
  EXPECT_TRUE(at::equal(last[kOld + 3], old[kC]));
  // Weighted by bytes: "▁" has three, "ab" two.
  EXPECT_LT(difference(filled("weighted_mean")[kOld], (old[kSpace] * 3 + old[kAb] * 2) / 5), 1e-8);
  EXPECT_TRUE(at::equal(filled("copy")[kOld], old[kSpace]));
  EXPECT_TRUE(at::equal(filled("copy")[kOld + 1], old[kAb]));
  InitialiserOptions copy = named("copy");
  copy.copy_of = "c";
  const auto model = small_model();
  apply_extension(*model, small_plan(), copy, 1);
  EXPECT_TRUE(at::equal(input_of(*model)[kOld], old[kC]));
  EXPECT_TRUE(at::equal(input_of(*model)[kOld + 2], old[kC]));
  EXPECT_LT(difference(filled("global_mean")[kOld + 2], old.mean(0)), 1e-8);
}

TEST(Apply, MixesRules) {
  const auto model = small_model();
  const at::Tensor input = input_of(*model);
  const at::Tensor head = head_of(*model);
  InitialiserOptions options = named("zip_tie");
  options.input = "last";
  options.head = "first";
  apply_extension(*model, small_plan(), options, 1);
  EXPECT_TRUE(at::equal(input_of(*model)[kOld], input[kAb]));
  EXPECT_TRUE(at::equal(head_of(*model)[kOld], head[kSpace]));
}

TEST(Apply, RoundsOnceInBfloat16) {
  const auto model = small_model(kOld, false, at::kBFloat16);
  const at::Tensor old = model->input_embeddings().weight.detach().clone();
  apply_extension(*model, small_plan(), {}, 1);
  const at::Tensor now = model->input_embeddings().weight.detach();
  EXPECT_EQ(now.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(now.narrow(0, 0, kOld), old));
  const at::Tensor wide = old.to(at::kFloat);
  EXPECT_TRUE(at::equal(now[kOld], ((wide[kSpace] + wide[kAb]) / 2).to(at::kBFloat16)));
  EXPECT_TRUE(at::equal(now[kOld + 3], ((wide[kE1] + wide[kE2] + wide[kC]) / 3).to(at::kBFloat16)));
}

TEST(Apply, OldTokensSeeTheSameModel) {
  const auto model = small_model();
  const Batch batch = make_batch({{1, 259, 5, 263, 200}}, {{-100, -100, -100, -100, -100}});
  const at::Tensor before = model->forward(batch, {}).hidden.detach().clone();
  const at::Tensor logits = model->output_head().forward(before, {}).detach();
  apply_extension(*model, small_plan(), {}, 1);
  const at::Tensor after = model->forward(batch, {}).hidden.detach();
  EXPECT_TRUE(at::equal(before, after));
  const at::Tensor wider = model->output_head().forward(after, {}).detach();
  EXPECT_LT((wider.narrow(1, 0, kOld) - logits).abs().max().item<double>(), 1e-6);
  // A mean of rows gives the mean of their logits, so never more than the greatest.
  EXPECT_LT(difference(wider.select(1, kOld), (logits.select(1, kSpace) + logits.select(1, kAb)) / 2), 1e-6);
}

TEST(Apply, TiedStaysTied) {
  const auto model = small_model(kOld, true);
  apply_extension(*model, small_plan(), named("zip_tie_strict_tie"), 1);
  EXPECT_TRUE(model->tied());
  EXPECT_TRUE(model->output_head().weight.is_alias_of(model->input_embeddings().weight));
  EXPECT_EQ(model->output_head().weight.size(0), kNew);
  model->input_embeddings().weight.data_ptr<float>()[0] = 42;
  EXPECT_EQ(model->output_head().weight.data_ptr<float>()[0], 42);
}

TEST(Apply, PaddingIsUsedKeptAndNeverShrunk) {
  // 266 rows for 264 pieces: two of the four new pieces take padding rows, two are appended.
  const auto partly = small_model(266);
  const ApplyReport two = apply_extension(*partly, small_plan(), {}, 1);
  EXPECT_EQ(two.reused_padding, 2);
  EXPECT_EQ(two.rows, kNew);
  // 300 rows: nothing grows, rows above the new pieces stay as they are.
  const auto wide = small_model(300);
  const at::Tensor old = input_of(*wide);
  const ApplyReport report = apply_extension(*wide, small_plan(), {}, 1);
  EXPECT_EQ(report.reused_padding, 4);
  EXPECT_EQ(report.rows, 300);
  EXPECT_EQ(wide->config().vocab_size, 300);
  const at::Tensor now = input_of(*wide);
  ASSERT_EQ(now.size(0), 300);
  EXPECT_TRUE(at::equal(now.narrow(0, 0, kOld), old.narrow(0, 0, kOld)));
  EXPECT_TRUE(at::equal(now.narrow(0, kNew, 300 - kNew), old.narrow(0, kNew, 300 - kNew)));
  EXPECT_LT(difference(now[kOld], (old[kSpace] + old[kAb]) / 2), 1e-8);
  // Statistics are over the rows of old pieces, not over padding.
  const auto mean = small_model(300);
  apply_extension(*mean, small_plan(), named("global_mean"), 1);
  EXPECT_LT(difference(input_of(*mean)[kOld], old.narrow(0, 0, kOld).mean(0)), 1e-8);
}

TEST(Apply, PadsToAMultiple) {
  const auto model = small_model();
  const at::Tensor old = input_of(*model);
  EXPECT_EQ(apply_extension(*model, small_plan(), {}, 1, 64).rows, 320);
  EXPECT_EQ(model->config().vocab_size, 320);
  EXPECT_LT(difference(input_of(*model)[319], old.mean(0)), 1e-8);
}

TEST(Apply, NewRowsCanBeFilledAgain) {
  const auto model = small_model();
  const ExtensionPlan plan = small_plan();
  EXPECT_THROW(initialise_new_rows(*model, plan, {}, 1), StateError);
  apply_extension(*model, plan, {}, 1);
  const at::Tensor zip = input_of(*model);
  initialise_new_rows(*model, plan, named("gaussian"), 1);
  EXPECT_FALSE(at::equal(input_of(*model), zip));
  EXPECT_TRUE(at::equal(input_of(*model).narrow(0, 0, kOld), zip.narrow(0, 0, kOld)));
  const ApplyReport again = initialise_new_rows(*model, plan, {}, 1);
  EXPECT_EQ(again.rows, kNew);
  EXPECT_TRUE(at::equal(input_of(*model), zip));
}

TEST(Apply, RefusesWhatCannotGrow) {
  const ExtensionPlan plan = small_plan();
  const auto message_of = [&](models::LanguageModel& model,
                              const InitialiserOptions& options = {}) -> std::string {
    const std::int64_t rows = model.config().vocab_size;
    try {
      apply_extension(model, plan, options, 1);
    } catch (const Error& error) {
      EXPECT_EQ(model.config().vocab_size, rows);
      EXPECT_EQ(model.input_embeddings().weight.size(0), rows);
      return std::string(kind_name(error.kind())) + ": " + error.what();
    }
    return "none";
  };
  EXPECT_THAT(message_of(*small_model(200)),
              HasSubstr("state error: the model has 200 rows for a tokenizer of 264"));
  const auto adapted = small_model();
  adapted->input_embeddings().adapters.emplace_back();
  EXPECT_THAT(message_of(*adapted), HasSubstr("state error: the embedding or the head has an adapter"));
  const auto rows = small_model();
  rows->output_head().trainable_rows.emplace();
  EXPECT_THAT(message_of(*rows), HasSubstr("has an adapter"));
  const auto quantised = small_model();
  quantised->output_head().quantize({});
  EXPECT_THAT(message_of(*quantised), HasSubstr("state error: the output head is quantised"));
  InitialiserOptions options = named("copy");
  options.copy_of = "absent";
  EXPECT_THAT(message_of(*small_model(), options),
              HasSubstr("config error: copy_of: 'absent' is not a piece"));
  EXPECT_THAT(message_of(*small_model(), named("zip_tei")), HasSubstr("did you mean 'zip_tie'?"));
}

TEST(Initialisers, NamesParse) {
  for (const std::string& name : initialiser_names())
    EXPECT_NO_THROW(static_cast<void>(rules_of(named(name)))) << name;
  EXPECT_EQ(initialiser_names().front(), "zip_tie");
  EXPECT_EQ(rules_of(named("zip_tie")).head, "piece_mean");
  EXPECT_EQ(rules_of(named("zip_tie_strict_tie")).head, "tie_to_input");
  EXPECT_EQ(rules_of(named("gaussian")).head, "gaussian");
  InitialiserOptions options;
  options.input = "tie_to_input";
  EXPECT_THROW(static_cast<void>(rules_of(options)), ConfigError);
  options.input = "mean";
  EXPECT_THROW(static_cast<void>(rules_of(options)), ConfigError);
}

/// 3,000 rows drawn from rule over a matrix of 500 old rows of known statistics.
at::Tensor draws(const std::string& rule, const InitialiserOptions& options, at::Tensor& old,
                 std::uint64_t seed = 5) {
  const std::int64_t dim = 4;
  RandomStream stream(7, "test");
  at::Tensor matrix = at::zeros({3500, dim});
  for (std::int64_t r = 0; r < 500; ++r) {
    const double shared = stream.normal();
    for (std::int64_t d = 0; d < dim; ++d)
      matrix[r][d] = static_cast<double>(d) + 0.5 * static_cast<double>(d + 1) * (shared + stream.normal());
  }
  old = matrix.narrow(0, 0, 500).clone();
  PieceTable pieces;
  for (int i = 0; i < 3000; ++i) pieces.add({0}, {1.0F});
  FillRequest request;
  request.rule = rule;
  request.old_rows = 500;
  request.first_row = 500;
  request.seed = seed;
  request.purpose = "test";
  fill_rows(matrix, pieces, options, request);
  EXPECT_TRUE(at::equal(matrix.narrow(0, 0, 500), old));
  return matrix.narrow(0, 500, 3000).clone();
}

at::Tensor covariance(const at::Tensor& rows) {
  const at::Tensor centered = rows - rows.mean(0);
  return centered.t().mm(centered) / static_cast<double>(rows.size(0) - 1);
}

TEST(Initialisers, DrawsHaveTheStatisticsOfTheOldRows) {
  at::Tensor old;
  const at::Tensor gaussian = draws("gaussian", {}, old);
  EXPECT_LT(difference(gaussian.mean(0), old.mean(0)), 0.2);
  const at::Tensor c = covariance(gaussian);
  EXPECT_LT(
      ((c.diagonal() - covariance(old).diagonal()) / covariance(old).diagonal()).abs().max().item<double>(),
      0.15);
  EXPECT_LT(std::abs(c[0][3].item<double>()), 0.2);  // Columns are independent,
  const at::Tensor full = covariance(draws("mean_covariance", {}, old));
  EXPECT_GT(covariance(old)[0][3].item<double>(), 0.8);  // which in the old rows they are not.
  EXPECT_LT(difference(full, covariance(old)), 0.8);
  EXPECT_GT(full[0][3].item<double>(), 0.8);
  InitialiserOptions options;
  options.std = 0.02;
  const at::Tensor narrow = draws("gaussian", options, old);
  EXPECT_LT(narrow.mean(0).abs().max().item<double>(), 0.002);
  EXPECT_NEAR(std::sqrt(covariance(narrow)[1][1].item<double>()), 0.02, 0.001);
  options.covariance_scale = 0;
  EXPECT_LT(difference(draws("mean_covariance", options, old)[17], old.mean(0)), 1e-5);
}

TEST(Initialisers, DrawsDependOnTheSeedAndTheRowAlone) {
  at::Tensor old;
  EXPECT_TRUE(at::equal(draws("gaussian", {}, old, 5), draws("gaussian", {}, old, 5)));
  EXPECT_FALSE(at::equal(draws("gaussian", {}, old, 5), draws("gaussian", {}, old, 6)));
  const at::Tensor rows = draws("gaussian", {}, old);
  EXPECT_FALSE(at::equal(rows[0], rows[1]));
}

TEST(Initialisers, NormMatchScalesToTheMeanNorm) {
  const auto model = small_model();
  const double norm = mean_norm(model->input_embeddings().weight, 0, kOld);
  InitialiserOptions options;
  options.norm_match = true;
  const at::Tensor old = input_of(*model);
  apply_extension(*model, small_plan(), options, 1);
  const at::Tensor now = input_of(*model);
  for (std::int64_t row = kOld; row < kNew; ++row) EXPECT_NEAR(now[row].norm().item<double>(), norm, 1e-6);
  const at::Tensor mean = (old[kSpace] + old[kAb]) / 2;
  EXPECT_LT(difference(now[kOld] / now[kOld].norm(), mean / mean.norm()), 1e-6);
}

TEST(Initialisers, RefuseRowsThatAreNotThere) {
  at::Tensor matrix = at::zeros({10, 4});
  PieceTable pieces;
  pieces.add({3, 4}, {1, 1});
  EXPECT_THROW(pieces.add({}, {}), StateError);
  EXPECT_THROW(pieces.add({1}, {}), StateError);
  FillRequest request;
  request.rule = "piece_mean";
  request.old_rows = 4;  // Piece 4 is none of them.
  request.first_row = 4;
  EXPECT_THROW(fill_rows(matrix, pieces, {}, request), StateError);
  request.old_rows = 9;
  request.first_row = 10;  // Row 10 does not exist.
  EXPECT_THROW(fill_rows(matrix, pieces, {}, request), StateError);
  request.first_row = 9;
  EXPECT_NO_THROW(fill_rows(matrix, pieces, {}, request));
  request.rule = "tie_to_input";
  EXPECT_THROW(fill_rows(matrix, pieces, {}, request), ConfigError);
}

}  // namespace
}  // namespace bitrain::vocab
