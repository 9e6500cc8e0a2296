#include <bitrain/models/bert/add_language_adapters.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/models/bert/config.h>

#include "support/gradcheck.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::models {
namespace {

using ::testing::HasSubstr;
using testing::random_batch;
using testing::relative_difference;
using ::testing::ThrowsMessage;
using testing::tiny_bert;
using testing::tiny_bert_config;

TEST(AddLanguageAdapters, ChangesNoHiddenStateUntilTheyLearn) {
  for (const char* family : {"bert", "roberta", "xlm-roberta"}) {
    const auto model = tiny_bert(at::kFloat, tiny_bert_config(family), /*pooler=*/true);
    const auto xmod = add_language_adapters(*model, {"en", "es"}, 4, 1);
    EXPECT_EQ(xmod->max_tokens(), model->max_tokens()) << family;
    xmod->set_languages({"es", "en"});
    const at::NoGradGuard no_grad;
    Batch batch = random_batch({5, 1, 9}, 23);
    const at::Tensor wanted = model->forward(batch, {}).hidden;
    batch.language_ids = {0, 1, 0};
    EXPECT_LT(relative_difference(xmod->forward(batch, {}).hidden, wanted), 1e-6) << family;

    // The first maps have weights, so that the second ones get a gradient; with one it is another model.
    int maps = 0;
    xmod->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
      if (name.find("adapter_modules.es.dense1.weight") != std::string::npos) {
        EXPECT_EQ(tensor.sizes(), at::IntArrayRef({4, 16}));
        EXPECT_GT(tensor.abs().max().item<float>(), 0);
        ++maps;
      }
      if (name.find("adapter_modules.es.dense2.weight") != std::string::npos)
        tensor[0].fill_(0.5);  // Of one feature alone: norms take away what all share.
    });
    EXPECT_EQ(maps, 2);
    const at::Tensor changed = xmod->forward(batch, {}).hidden;
    EXPECT_GT(relative_difference(changed.narrow(0, 0, 5), wanted.narrow(0, 0, 5)), 1e-3) << family;
    EXPECT_LT(relative_difference(changed.narrow(0, 5, 1), wanted.narrow(0, 5, 1)), 1e-6) << family;
  }
}

TEST(AddLanguageAdapters, TakesTheFirstLanguageForTextsOfNone) {
  const auto xmod = add_language_adapters(*tiny_bert(), {"en", "es"}, 2, 1);
  EXPECT_EQ(xmod->config().default_language, "en");
  EXPECT_EQ(xmod->config().model_type, "xmod");
  const at::NoGradGuard no_grad;
  EXPECT_NO_THROW((void)xmod->forward(random_batch({3}, 23), {}));
}

TEST(AddLanguageAdapters, RefusesWhatCannotBe) {
  const auto with = [](const std::vector<std::string>& languages, std::int64_t factor,
                       const char* family = "bert") {
    return [=] {
      (void)add_language_adapters(*tiny_bert(at::kFloat, tiny_bert_config(family)), languages, factor, 1);
    };
  };
  EXPECT_THAT(with({"en"}, 2, "xmod"),
              ThrowsMessage<ConfigError>(HasSubstr("it has adapters for en_XX, es_XX, sw_KE already")));
  EXPECT_THAT(with({}, 2), ThrowsMessage<ConfigError>(HasSubstr("at least one of languages")));
  EXPECT_THAT(with({"en", "en"}, 2), ThrowsMessage<ConfigError>(HasSubstr("a language twice")));
  EXPECT_THAT(with({"en"}, 17), ThrowsMessage<ConfigError>(HasSubstr("adapter_reduction_factor")));
}

}  // namespace
}  // namespace bitrain::models
