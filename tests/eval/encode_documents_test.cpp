#include <bitrain/eval/encode_documents.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/unit_rows.h>
#include <support/byte_tokenizer.h>
#include <support/gradcheck.h>
#include <support/tiny_bert.h>

namespace bitrain::eval {
namespace {

using ::testing::HasSubstr;
using testing::relative_difference;
using ::testing::ThrowsMessage;

const test::ByteTokenizer& bytes() {
  static const test::ByteTokenizer tokenizer(false, false);
  return tokenizer;
}

models::DocumentEncoder encoder() {
  models::BertConfig config = testing::tiny_bert_config();
  config.vocab_size = bytes().vocab_size();
  models::DocumentEncoderOptions options;
  options.heads = 4;
  options.max_sentences = 3;
  return {std::make_unique<models::SentenceEncoder>(testing::tiny_bert(at::kFloat, config),
                                                    models::EmbeddingOptions{{nn::Pooling::kMean}, false}),
          options};
}

TEST(EncodeDocuments, GivesEachDocumentItsVectorWhateverTheBatch) {
  models::DocumentEncoder model = encoder();
  models::initialise_documents(model, 1);
  std::vector<Sentences> documents;
  for (int d = 0; d < 70; ++d)  // More than are read at a time.
    documents.push_back(Sentences(static_cast<std::size_t>(1 + d % 3), "sentence " + std::to_string(d)));
  documents[5] = {"one", "another", "third", "cut away"};
  const at::Tensor all = encode_documents(model, bytes(), documents);
  const at::NoGradGuard no_grad;
  for (const std::size_t d : {0, 5, 63, 64, 69}) {
    Sentences kept = documents[d];
    if (kept.size() > 3) kept.resize(3);
    const at::Tensor sentences = encode_texts(model.sentences(), bytes(), kept);
    const at::Tensor wanted = model.embed(sentences, {static_cast<std::int32_t>(kept.size())}, {});
    EXPECT_LT(relative_difference(all[static_cast<std::int64_t>(d)], wanted[0]), 1e-5) << d;
  }
  EXPECT_EQ(encode_documents(model, bytes(), {}).sizes(), (std::vector<std::int64_t>{0, 16}));
}

TEST(AverageSentences, IsTheMeanOfUnitVectors) {
  models::DocumentEncoder model = encoder();
  const at::Tensor means = average_sentences(model.sentences(), bytes(), {{"a", "bb"}, {"c", "d", "cut"}}, 2);
  const at::Tensor units = nn::unit_rows(encode_texts(model.sentences(), bytes(), {"a", "bb", "c", "d"}));
  EXPECT_LT(relative_difference(means[0], (units[0] + units[1]) / 2), 1e-6);
  EXPECT_LT(relative_difference(means[1], (units[2] + units[3]) / 2), 1e-6);
}

TEST(EncodeDocuments, ADocumentWithoutSentencesIsNamed) {
  models::DocumentEncoder model = encoder();
  models::initialise_documents(model, 1);
  EXPECT_THAT(
      [&] {
        (void)encode_documents(model, bytes(), {{"a"}, {}});
      },
      ThrowsMessage<DataError>(HasSubstr("document 1 has no sentence")));
  EXPECT_THAT(
      [&] {
        (void)average_sentences(model.sentences(), bytes(), {{}, {"a"}}, 4);
      },
      ThrowsMessage<DataError>(HasSubstr("document 0 has no sentence")));
}

}  // namespace
}  // namespace bitrain::eval
