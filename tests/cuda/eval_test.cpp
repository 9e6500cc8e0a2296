#include <bitrain/eval/search.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/diff.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/nonzero.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/alignment.h>
#include <bitrain/eval/bitext_mining.h>
#include <bitrain/eval/completion.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/encode_documents.h>
#include <bitrain/eval/hard_negatives.h>
#include <bitrain/eval/late_interaction.h>
#include <bitrain/eval/mexa.h>
#include <bitrain/eval/perplexity.h>
#include <bitrain/eval/rcsls.h>
#include <bitrain/eval/rerank.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/models/cross_encoder.h>
#include <bitrain/models/initialise.h>
#include <bitrain/nn/unit_rows.h>

#include "cuda/on_device.h"
#include "support/byte_tokenizer.h"
#include "support/letter_tokenizer.h"
#include "support/letters_encoder.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::eval {
namespace {

using testing::distance;
using testing::kCuda;
using testing::move;
using testing::random_tensor;

class EvalOnCuda : public testing::CudaTest {};

// ---- Search

TEST_F(EvalOnCuda, SearchFindsWhatTheCpuFinds) {
  const at::Tensor queries = random_tensor({300, 32}, 1);
  const at::Tensor candidates = random_tensor({1000, 32}, 2);
  for (const char* similarity : {"cosine", "dot"}) {
    for (const std::int64_t csls : {0, 5}) {
      SCOPED_TRACE(c10::str(similarity, ", csls ", csls));
      const Neighbours expected = search(queries, candidates, {11, similarity, csls});
      const Neighbours actual = search(queries.to(kCuda), candidates.to(kCuda), {11, similarity, csls});
      EXPECT_TRUE(actual.rows.is_cuda());
      EXPECT_LT(distance(actual.scores, expected.scores), 1e-5);
      // Queries whose scores lie too close have no order to agree on.
      const at::Tensor clear = at::diff(expected.scores).amax(1).lt(-1e-4).nonzero().squeeze(1);
      EXPECT_GT(clear.numel(), 200);
      EXPECT_TRUE(at::equal(actual.rows.cpu().index_select(0, clear).narrow(1, 0, 10),
                            expected.rows.index_select(0, clear).narrow(1, 0, 10)));
    }
  }
}

// Products of whole numbers are exact, and many are equal: the lower row comes first, over all blocks.
TEST_F(EvalOnCuda, SearchAmongEqualScoresAndManyBlocks) {
  const at::Tensor queries = random_tensor({300, 8}, 1).sign();
  for (const std::int64_t rows : {3, 200, 70000}) {
    const at::Tensor candidates = random_tensor({rows, 8}, 2).sign();
    const std::int64_t count = rows > 1000 ? 5 : 300;
    const at::Tensor some = queries.narrow(0, 0, count);
    const Neighbours expected = search(some, candidates, {50, "dot", 0});
    const Neighbours actual = search(some.to(kCuda), candidates.to(kCuda), {50, "dot", 0});
    EXPECT_EQ(actual.rows.size(1), std::min<std::int64_t>(50, rows));
    EXPECT_TRUE(at::equal(actual.rows.cpu(), expected.rows)) << rows;
    EXPECT_TRUE(at::equal(actual.scores.cpu(), expected.scores)) << rows;
  }
}

TEST_F(EvalOnCuda, SearchOfBfloat16) {
  const at::Tensor queries = random_tensor({40, 32}, 1, at::kBFloat16);
  const at::Tensor candidates = random_tensor({500, 32}, 2, at::kBFloat16);
  for (const std::int64_t csls : {0, 5}) {
    const Neighbours expected = search(queries, candidates, {10, "cosine", csls});
    const Neighbours actual = search(queries.to(kCuda), candidates.to(kCuda), {10, "cosine", csls});
    EXPECT_EQ(actual.scores.scalar_type(), at::kFloat);
    EXPECT_LT(distance(actual.scores, expected.scores), 1e-2);
  }
  // Products are not rounded: the rows are those of the same vectors in float32.
  const SearchOptions dot{10, "dot", 0};
  const Neighbours wide = search(queries.to(at::kFloat), candidates.to(at::kFloat), dot);
  EXPECT_TRUE(at::equal(search(queries.to(kCuda), candidates.to(kCuda), dot).rows.cpu(), wide.rows));
}

TEST_F(EvalOnCuda, SearchRefusesWhatTheCpuRefuses) {
  const at::Tensor rows = random_tensor({5, 8}, 1);
  const auto message_of = [](const at::Tensor& queries, const at::Tensor& candidates) -> std::string {
    try {
      (void)search(queries, candidates);
    } catch (const DataError& error) {
      return error.what();
    }
    return "none";
  };
  const at::Tensor bad = rows / rows.select(0, 3).sub(rows.select(0, 3)).unsqueeze(0);
  at::Tensor zero = rows.clone();
  zero.select(0, 2).zero_();
  for (const at::Tensor& wrong : {bad, zero}) {
    EXPECT_NE(message_of(wrong, rows), "none");
    EXPECT_EQ(message_of(wrong.to(kCuda), rows.to(kCuda)), message_of(wrong, rows));
    EXPECT_EQ(message_of(rows.to(kCuda), wrong.to(kCuda)), message_of(rows, wrong));
  }
  EXPECT_THROW((void)search(rows.to(kCuda), rows), StateError);
}

TEST_F(EvalOnCuda, WhatStandsOnSearch) {
  const at::Tensor left = random_tensor({60, 16}, 1);
  const at::Tensor right = left + 0.3 * random_tensor({60, 16}, 2);
  const auto scores = [&](at::Device device) {
    const at::Tensor x = left.to(device);
    const at::Tensor y = right.to(device);
    const PairScores pairs = score_pairs(x, y);
    const AlignmentAccuracy mined = score_alignment(x, y);
    std::vector<double> values = {pairs.forward_accuracy, pairs.backward_mrr, mined.forward, mined.backward};
    for (const MinedPair& pair : mine_bitext(x, y)) {
      values.push_back(static_cast<double>(pair.left));
      values.push_back(static_cast<double>(pair.right));
    }
    values.push_back(mexa_alignment(x, y));
    return values;
  };
  EXPECT_EQ(scores(kCuda), scores(at::kCPU));
  EXPECT_LT(distance(procrustes(left.to(kCuda), right.to(kCuda)), procrustes(left, right)), 1e-5);
  EXPECT_LT(distance(fit_shift_and_scale(left.to(kCuda)).apply(right.to(kCuda)),
                     fit_shift_and_scale(left).apply(right)),
            1e-5);
  const auto map_on = [&](at::Device device) {
    const at::Tensor x = nn::unit_rows(left).to(device);
    const at::Tensor y = nn::unit_rows(right).to(device);
    return fit_rcsls({x.narrow(0, 0, 40), y.narrow(0, 0, 40), x, y}, {.iterations = 2});
  };
  EXPECT_LT(distance(map_on(kCuda), map_on(at::kCPU)), 1e-4);

  std::vector<MiningPair> pairs;
  for (int i = 0; i < 60; ++i) pairs.push_back({c10::str("q", i), c10::str("p", i)});
  const MiningSet set = make_mining_set(pairs);
  HardNegativeOptions options;
  options.relative_margin = 0.05;
  EXPECT_EQ(mine_dense(set, 0, left.to(kCuda), right.to(kCuda), options),
            mine_dense(set, 0, left, right, options));
}

// ---- Encoding

const std::vector<std::string> kTexts = {"a longer text than most", "b", "some words here", "c d", "a",
                                         "the last of all of them"};

TEST_F(EvalOnCuda, OpenedEncodersEncodeTextsAsOnTheCpu) {
  const test::TemporaryDirectory folder;
  testing::write_letters_encoder(folder.path() / "base");
  hub::OpenOptions open;
  const hub::OpenedSentenceEncoder on_cpu = hub::open_sentence_encoder(folder.path() / "base", open);
  open.device = kCuda;
  const hub::OpenedSentenceEncoder on_cuda = hub::open_sentence_encoder(folder.path() / "base", open);
  EncodeOptions options;
  for (const std::int64_t tokens : {1, 20, 4096}) {
    for (const bool include_prompt : {true, false}) {
      options.tokens_per_batch = tokens;
      options.prompt = "q ";
      options.include_prompt = include_prompt;
      const at::Tensor expected = encode_texts(*on_cpu.model, *on_cpu.tokenizer, kTexts, options);
      const at::Tensor actual = encode_texts(*on_cuda.model, *on_cuda.tokenizer, kTexts, options);
      EXPECT_TRUE(actual.is_cpu());
      EXPECT_LT(distance(actual, expected), 1e-4);
    }
  }
  const std::vector<Sentences> documents = {{"a b", "c"}, {"d"}, {"some words", "and more", "of them"}};
  EXPECT_LT(distance(average_sentences(*on_cuda.model, *on_cuda.tokenizer, documents, 2),
                     average_sentences(*on_cpu.model, *on_cpu.tokenizer, documents, 2)),
            1e-4);
}

TEST_F(EvalOnCuda, LateInteraction) {
  const auto tokenizer = test::letter_tokenizer();
  models::BertConfig config = testing::tiny_bert_config();
  config.vocab_size = tokenizer->vocab_size();
  const models::LateInteractionOptions late = test::late_options(8, 16);
  models::LateInteractionEncoder model(testing::tiny_bert(at::kFloat, config), 6, late);
  models::initialise_projection(model, 3);
  const objectives::InteractionTokens tokens(tokenizer, late);
  const std::vector<std::string> documents = {"a cat.", "the dog, a cat!", "?", "dogs and cats and birds",
                                              "b"};
  for (const char* storage : {"bfloat16", "int8"}) {
    Neighbours found[2];
    for (const bool cuda : {false, true}) {
      move(model, cuda ? kCuda : at::Device(at::kCPU));
      const losses::TokenVectors queries = encode_queries(model, tokens, {"cat", "birds and dogs"});
      EXPECT_TRUE(queries.vectors.is_cpu());
      found[cuda] = index_documents(model, tokens, documents, {storage}).search(queries, 3);
    }
    EXPECT_LT(distance(found[1].scores, found[0].scores), 1e-2);  // Vectors are rounded in the index.
    EXPECT_TRUE(at::equal(found[1].rows, found[0].rows));
  }
}

TEST_F(EvalOnCuda, LateInteractionIndexOfVectorsOnTheDevice) {
  LateInteractionIndex on_cpu({3, 4, 2}, 8);
  LateInteractionIndex on_cuda({3, 4, 2}, 8);
  for (const std::int64_t document : {0, 1, 2}) {
    const at::Tensor vectors = nn::unit_rows(random_tensor({document == 0   ? 3
                                                            : document == 1 ? 4
                                                                            : 2,
                                                            8},
                                                           static_cast<std::uint64_t>(document)));
    on_cpu.put(document, vectors);
    on_cuda.put(document, vectors.to(kCuda));
  }
  losses::TokenVectors queries{nn::unit_rows(random_tensor({6, 8}, 7)), {0, 4, 6}, {}};
  for (const bool left_out : {false, true}) {
    if (left_out) queries.left_out = at::arange(6).remainder(4).eq(1);
    losses::TokenVectors moved = queries;
    moved.vectors = queries.vectors.to(kCuda);
    if (left_out) moved.left_out = queries.left_out.to(kCuda);
    const Neighbours expected = on_cpu.search(queries, 3);
    const Neighbours actual = on_cuda.search(moved, 3);
    EXPECT_TRUE(at::equal(actual.rows.cpu(), expected.rows));
    EXPECT_LT(distance(actual.scores, expected.scores), 1e-5);
  }
}

TEST_F(EvalOnCuda, CrossEncodersScorePairs) {
  const auto tokenizer = test::letter_tokenizer();
  models::BertConfig config = testing::tiny_bert_config();
  config.vocab_size = tokenizer->vocab_size();
  const auto model = models::with_fresh_head(testing::tiny_bert(at::kFloat, config), 5);
  const std::vector<TextPair> pairs = {{"k l", "a b c"}, {"m", "d"}, {"k l", "e f g h"}, {"m", "r q p o"}};
  const at::Tensor expected = score_text_pairs(*model, *tokenizer, pairs);
  move(*model, kCuda);
  EXPECT_LT(distance(score_text_pairs(*model, *tokenizer, pairs), expected), 1e-4);
}

// ---- Language models

TEST_F(EvalOnCuda, LanguageModels) {
  models::LlamaConfig config = testing::tiny_config();
  config.vocab_size = 259;
  config.eos_token_id = {257};
  const auto model = testing::tiny_llama(at::kFloat, config);
  const test::ByteTokenizer tokenizer;
  const std::map<std::string, std::vector<std::string>> documents = {
      {"en", {"a first document that is longer than a window", "a second"}}, {"es", {"y uno más", ""}}};
  std::map<std::string, LanguageScore> scores[2];
  std::vector<at::Tensor> layers[2];
  std::map<std::string, CompletionScore> completions[2];
  for (const bool cuda : {false, true}) {
    move(*model, cuda ? kCuda : at::Device(at::kCPU));
    scores[cuda] = perplexity(*model, tokenizer, documents, {.sequence_length = 16, .overlap = 5});
    layers[cuda] = layer_embeddings(*model, tokenizer, {"one", "two words", "three"});
    completions[cuda] = completion_accuracy(*model, tokenizer, {{{256, 97, 98}, "x y", "en"}});
  }
  for (const auto& [language, expected] : scores[0]) {
    const LanguageScore& actual = scores[1].at(language);
    EXPECT_EQ(actual.tokens, expected.tokens);
    EXPECT_EQ(actual.bytes, expected.bytes);
    EXPECT_NEAR(actual.loss_per_token, expected.loss_per_token, 1e-5 * expected.loss_per_token);
    EXPECT_NEAR(actual.bits_per_byte, expected.bits_per_byte, 1e-5 * expected.bits_per_byte);
  }
  ASSERT_EQ(layers[1].size(), layers[0].size());
  for (std::size_t i = 0; i < layers[0].size(); ++i) EXPECT_LT(distance(layers[1][i], layers[0][i]), 1e-4);
  EXPECT_EQ(completions[1].at("en").correct, completions[0].at("en").correct);
}

}  // namespace
}  // namespace bitrain::eval
