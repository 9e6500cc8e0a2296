#include <bitrain/eval/late_interaction.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/unit_rows.h>

#include "support/byte_tokenizer.h"
#include "support/gradcheck.h"
#include "support/letter_tokenizer.h"
#include "support/tiny_bert.h"

namespace bitrain::eval {
namespace {

using losses::TokenVectors;
using objectives::InteractionTokens;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::random_tensor;
using ::testing::ThrowsMessage;

constexpr std::int64_t kDim = 8;

TokenVectors draw(const std::vector<std::int64_t>& lengths, std::uint64_t seed) {
  TokenVectors texts;
  texts.boundaries = {0};
  for (const std::int64_t length : lengths)
    texts.boundaries.push_back(texts.boundaries.back() + static_cast<std::int32_t>(length));
  texts.vectors = nn::unit_rows(random_tensor({texts.boundaries.back(), kDim}, seed));
  return texts;
}

at::Tensor text(const TokenVectors& texts, std::size_t index) {
  return texts.vectors.narrow(0, texts.boundaries[index],
                              texts.boundaries[index + 1] - texts.boundaries[index]);
}

LateInteractionIndex index_of(const std::vector<std::int64_t>& lengths, const TokenVectors& documents,
                              const LateIndexOptions& options = {}) {
  LateInteractionIndex index(lengths, kDim, options);
  for (std::size_t d = lengths.size(); d-- > 0;)  // Any order will do.
    index.put(static_cast<std::int64_t>(d), text(documents, d));
  return index;
}

/// The vectors as they are kept.
at::Tensor kept(const at::Tensor& vectors, const std::string& storage) {
  if (storage != "int8") return vectors.to(at::kBFloat16).to(at::kDouble);
  const at::Tensor scale = std::get<0>(vectors.abs().max(1, true)) / 127;
  return ((vectors / scale).round() * scale).to(at::kDouble);
}

double score(const at::Tensor& query, const at::Tensor& document) {
  double sum = 0;
  for (std::int64_t i = 0; i < query.size(0); ++i) {
    double best = -std::numeric_limits<double>::infinity();
    for (std::int64_t j = 0; j < document.size(0); ++j)
      best = std::max(best, (query[i].to(at::kDouble) * document[j]).sum().item<double>());
    sum += best;
  }
  return sum;
}

TEST(LateInteractionIndex, FindsWhatBruteForceFinds) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t d = 0; d < 23; ++d) lengths.push_back(1 + (d * 5) % 7);
  const TokenVectors documents = draw(lengths, 1);
  const TokenVectors queries = draw({3, 1, 6, 2}, 2);
  for (const char* storage : {"bfloat16", "int8"}) {
    LateIndexOptions options;
    options.storage = storage;
    const LateInteractionIndex index = index_of(lengths, documents, options);
    EXPECT_EQ(index.documents(), 23);
    const Neighbours found = index.search(queries, 5);
    ASSERT_EQ(found.rows.sizes(), at::IntArrayRef({4, 5}));
    for (std::size_t q = 0; q < 4; ++q) {
      std::vector<std::pair<double, std::int64_t>> all;
      for (std::size_t d = 0; d < lengths.size(); ++d)
        all.emplace_back(-score(text(queries, q), kept(text(documents, d), storage)),
                         static_cast<std::int64_t>(d));
      std::sort(all.begin(), all.end());
      for (std::int64_t i = 0; i < 5; ++i) {
        const auto row = static_cast<std::int64_t>(q);
        EXPECT_EQ(found.rows[row][i].item<std::int64_t>(), all[static_cast<std::size_t>(i)].second);
        EXPECT_NEAR(found.scores[row][i].item<double>(), -all[static_cast<std::size_t>(i)].first, 1e-5);
      }
    }
  }
}

// More vectors than a block of either side, and a document longer than one.
TEST(LateInteractionIndex, BlocksChangeNothing) {
  std::vector<std::int64_t> lengths(400, 150);
  lengths[7] = 40000;
  const TokenVectors documents = draw(lengths, 1);
  const TokenVectors queries = draw(std::vector<std::int64_t>(40, 200), 2);
  const LateInteractionIndex index = index_of(lengths, documents);
  const Neighbours found = index.search(queries, 3);
  TokenVectors whole = documents;
  whole.vectors = documents.vectors.to(at::kBFloat16);
  const auto [scores, rows] = losses::max_sim(queries, whole).sort(/*stable=*/true, 1, /*descending=*/true);
  EXPECT_TRUE(found.rows.equal(rows.narrow(1, 0, 3)));
  EXPECT_LT((found.scores - scores.narrow(1, 0, 3)).abs().max().item<double>(), 1e-3);
}

TEST(LateInteractionIndex, EqualScoresComeInTheOrderOfDocumentsAndKIsCut) {
  const TokenVectors one = draw({4}, 1);
  LateInteractionIndex index({4, 4, 4}, kDim);
  for (std::int64_t d = 0; d < 3; ++d) index.put(d, one.vectors);
  const Neighbours found = index.search(draw({2}, 2), 10);
  ASSERT_EQ(found.rows.size(1), 3);
  for (std::int64_t d = 0; d < 3; ++d) EXPECT_EQ(found.rows[0][d].item<std::int64_t>(), d);
}

TEST(LateInteractionIndex, SaysItsSizeAndWhatHelpsWhenItDoesNotFit) {
  EXPECT_EQ(LateInteractionIndex::bytes_of(1000, 10, 128, "bfloat16"), 256000U + 88U);
  EXPECT_EQ(LateInteractionIndex::bytes_of(1000, 10, 128, "int8"), 132000U + 88U);
  EXPECT_EQ(LateInteractionIndex({3, 4}, kDim).bytes(), 7U * 16 + 24);
  // A billion vectors: refused before any memory is taken.
  const std::vector<std::int64_t> lengths(100000, 10000);
  LateIndexOptions options;
  options.max_gib = 2;
  EXPECT_THAT(
      [&] { LateInteractionIndex(lengths, 128, options); },
      ThrowsMessage<ConfigError>(AllOf(HasSubstr("100,000 documents (1,000,000,000 vectors of 128"),
                                       HasSubstr("above max_gib (2 GiB)"), HasSubstr("storage int8 takes"))));
  options.storage = "int8";
  EXPECT_THAT([&] { LateInteractionIndex(lengths, 128, options); },
              ThrowsMessage<ConfigError>(HasSubstr("shorten documents (document_length)")));
}

TEST(LateInteractionIndex, BadInputsAreNamed) {
  LateIndexOptions options;
  options.storage = "int4";
  EXPECT_THROW(LateInteractionIndex({1}, kDim, options), ConfigError);
  EXPECT_THROW(LateInteractionIndex({}, kDim), DataError);
  EXPECT_THAT(
      [] {
        LateInteractionIndex({2, 0}, kDim);
      },
      ThrowsMessage<DataError>(HasSubstr("document 1 has no vectors")));
  LateInteractionIndex index({2, 3}, kDim);
  EXPECT_THROW(index.put(2, random_tensor({2, kDim}, 1)), StateError);
  EXPECT_THROW(index.put(0, random_tensor({3, kDim}, 1)), StateError);
  EXPECT_THROW(index.put(0, random_tensor({2, kDim + 1}, 1)), StateError);
  at::Tensor vectors = nn::unit_rows(random_tensor({3, kDim}, 1));
  index.put(0, vectors.narrow(0, 0, 2));
  index.put(1, vectors);
  EXPECT_THROW((void)index.search(draw({2}, 1), 0), ConfigError);
  TokenVectors queries = draw({2, 3}, 1);
  queries.vectors[4][0].fill_(std::nan(""));
  EXPECT_THAT([&] { (void)index.search(queries, 1); },
              ThrowsMessage<DataError>(HasSubstr("query 1 has NaN or infinity")));
  vectors[2][1].fill_(std::numeric_limits<float>::infinity());
  EXPECT_THAT([&] { index.put(1, vectors); },
              ThrowsMessage<DataError>(HasSubstr("document 1 has NaN or infinity")));
}

class LateSearchOfTexts : public ::testing::Test {
 protected:
  LateSearchOfTexts() {
    models::BertConfig config = testing::tiny_bert_config();
    config.vocab_size = tokenizer_->vocab_size();
    model_ =
        std::make_unique<models::LateInteractionEncoder>(testing::tiny_bert(at::kFloat, config), 6, options_);
    models::initialise_projection(*model_, 3);
  }

  std::shared_ptr<const text::Tokenizer> tokenizer_ = test::letter_tokenizer();
  models::LateInteractionOptions options_ = test::late_options(8, 16);
  std::unique_ptr<models::LateInteractionEncoder> model_;
  const std::vector<std::string> documents_ = {"a cat.", "the dog, a cat!", "?", "dogs and cats and birds",
                                               "b"};
};

TEST_F(LateSearchOfTexts, IsMaxSimOfTheirVectors) {
  const InteractionTokens tokens(tokenizer_, options_);
  const std::vector<std::string> queries = {"cat", "birds and dogs"};
  const LateInteractionIndex index = index_documents(*model_, tokens, documents_);
  EXPECT_EQ(index.vectors(), 6 + 12 + 2 + 16 + 3);
  const Neighbours found = index.search(encode_queries(*model_, tokens, queries), 5);
  const at::NoGradGuard no_grad;
  for (std::int64_t q = 0; q < 2; ++q) {
    for (std::int64_t i = 0; i < 5; ++i) {
      const auto d = static_cast<std::size_t>(found.rows[q][i].item<std::int64_t>());
      const auto vectors = [&](const std::vector<text::TokenId>& ids) {
        return model_->forward(make_batch({ids}, {std::vector<std::int32_t>(ids.size(), kIgnoreIndex)}), {});
      };
      const std::vector<text::TokenId> ids = tokens.document(documents_[d]);
      const at::Tensor all = vectors(ids);
      std::vector<at::Tensor> counting;
      for (std::size_t t = 0; t < ids.size(); ++t)
        if (tokens.counts(ids[t])) counting.push_back(all.narrow(0, static_cast<std::int64_t>(t), 1));
      const double wanted = score(vectors(tokens.query(queries[static_cast<std::size_t>(q)])),
                                  kept(at::cat(counting), "bfloat16"));
      EXPECT_NEAR(found.scores[q][i].item<double>(), wanted, 1e-4) << q << " " << d;
    }
  }
  // Batches of one text change nothing.
  LateEncodeOptions small;
  small.tokens_per_batch = 1;
  const Neighbours again = index_documents(*model_, tokens, documents_, {}, small)
                               .search(encode_queries(*model_, tokens, queries, small), 5);
  EXPECT_TRUE(again.rows.equal(found.rows));
  EXPECT_LT((again.scores - found.scores).abs().max().item<double>(), 2e-2)
      << "a last bit of bfloat16 may turn";
}

TEST_F(LateSearchOfTexts, NamesDocumentsWithoutATokenThatCounts) {
  options_.query_expansion = false;
  models::BertConfig config = testing::tiny_bert_config();
  const auto bytes = std::make_shared<test::ByteTokenizer>(false, false);
  config.vocab_size = bytes->vocab_size();
  models::LateInteractionEncoder model(testing::tiny_bert(at::kFloat, config), 6, options_);
  models::initialise_projection(model, 3);
  const InteractionTokens tokens(bytes, options_);
  EXPECT_THAT(
      [&] {
        (void)index_documents(model, tokens, {"fine", "...!"});
      },
      ThrowsMessage<DataError>(HasSubstr("document 1 ('...!') has no token that counts")));
}

TEST_F(LateSearchOfTexts, NamesDocumentsThatBecameNan) {
  const at::NoGradGuard no_grad;
  model_->projection().linear.weight.fill_(std::nan(""));
  const InteractionTokens tokens(tokenizer_, options_);
  EXPECT_THAT([&] { (void)index_documents(*model_, tokens, documents_); },
              ThrowsMessage<DataError>(HasSubstr("has NaN or infinity in its vectors")));
}

// ColBERT-XM: the adapters of the language that is searched are chosen.
TEST_F(LateSearchOfTexts, LanguagesChooseTheAdapters) {
  models::BertConfig config = testing::tiny_bert_config("xmod");
  config.vocab_size = tokenizer_->vocab_size();
  models::LateInteractionEncoder model(testing::tiny_bert(at::kFloat, config), 6, options_);
  models::initialise_projection(model, 3);
  model.encoder().set_languages({"en", "es"});
  const InteractionTokens tokens(tokenizer_, options_);
  const auto vectors = [&](std::int32_t language) {
    LateEncodeOptions encode;
    encode.language = language;
    return encode_queries(model, tokens, {"gato"}, encode).vectors;
  };
  EXPECT_GT((vectors(0) - vectors(1)).abs().max().item<double>(), 1e-3);
  EXPECT_THAT([&] { (void)vectors(2); }, ThrowsMessage<DataError>(HasSubstr("language id 2")));
  EXPECT_THAT([&] { (void)vectors(-1); }, ThrowsMessage<DataError>(HasSubstr("no default_language")));
}

}  // namespace
}  // namespace bitrain::eval
