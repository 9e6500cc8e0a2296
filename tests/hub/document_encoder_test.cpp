#include <bitrain/hub/document_encoder.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include <bitrain/base/error.h>
#include <bitrain/io/json.h>

#include "support/gradcheck.h"
#include "support/temporary_directory.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::hub {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::unique_ptr<models::SentenceEncoder> lower() {
  return std::make_unique<models::SentenceEncoder>(testing::tiny_bert(),
                                                   models::EmbeddingOptions{{nn::Pooling::kCls}, true});
}

models::DocumentEncoder make_model(const std::string& pooling) {
  models::DocumentEncoderOptions options;
  options.heads = 2;
  options.layers = 1;
  options.intermediate_size = 12;
  options.max_sentences = 5;
  options.pooling = pooling;
  return {lower(), options};
}

Batch two_documents() {
  Batch batch = testing::random_batch({5, 1, 9}, 23);
  batch.document_ids = {0, 0, 1};
  return batch;
}

class DocumentEncoderFolder : public ::testing::Test {
 protected:
  [[nodiscard]] fs::path path() const { return folder_.path() / "model"; }
  [[nodiscard]] OpenedDocumentEncoder open() const {
    OpenOptions options;
    options.tokenizer = false;
    return open_document_encoder(path(), options);
  }
  test::TemporaryDirectory folder_;
};

TEST_F(DocumentEncoderFolder, GivesTheSameVectorsAgain) {
  const at::NoGradGuard no_grad;
  for (const char* pooling : {"mean", "dcls"}) {
    models::DocumentEncoder model = make_model(pooling);
    models::initialise_documents(model, 3);
    SentenceSettings settings;
    settings.max_seq_length = 20;
    save_document_encoder(path(), model, nullptr, settings);
    EXPECT_TRUE(is_document_encoder(path()));
    const OpenedDocumentEncoder opened = open();
    EXPECT_EQ(opened.model->pooling(), pooling);
    EXPECT_EQ(opened.model->max_sentences(), 5);
    EXPECT_EQ(opened.settings.max_seq_length, 20);
    EXPECT_TRUE(at::equal(opened.model->forward(two_documents(), {}), model.forward(two_documents(), {})));
    // The folder is its lower encoder, too, and the upper a BERT.
    OpenOptions plain;
    plain.tokenizer = false;
    EXPECT_TRUE(at::equal(open_sentence_encoder(path(), plain).model->forward(two_documents(), {}),
                          model.sentences().forward(two_documents(), {})));
    EXPECT_EQ(io::read_json(path() / "documents" / "config.json").at("model_type"), "bert");
  }
}

TEST_F(DocumentEncoderFolder, SaysWhatDoesNotFit) {
  models::DocumentEncoder model = make_model("mean");
  models::initialise_documents(model, 3);
  save_document_encoder(path(), model, nullptr, {});
  const fs::path pooling = path() / "documents" / "document_encoder.json";
  io::write_json(pooling, {{"pooling", "max"}});
  EXPECT_THAT([&] { (void)open(); }, ThrowsMessage<FormatError>(HasSubstr("'mean' or 'dcls', not 'max'")));
  io::write_json(pooling, {{"pooling", 3}});
  EXPECT_THROW((void)open(), FormatError);
  fs::remove(pooling);
  EXPECT_FALSE(is_document_encoder(path()));
  EXPECT_THROW((void)open(), IoError);
}

}  // namespace
}  // namespace bitrain::hub
