#include <map>
#include <memory>
#include <string>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/merge.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/models/cross_encoder.h>
#include <bitrain/models/document_encoder.h>
#include <bitrain/models/generation.h>
#include <bitrain/models/initialise.h>
#include <bitrain/models/late_interaction_encoder.h>
#include <bitrain/models/masked_language_model.h>
#include <bitrain/models/quantize.h>
#include <bitrain/models/sentence_encoder.h>

#include "cuda/on_device.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::models {
namespace {

using testing::distance;
using testing::kCuda;
using testing::logits_of;
using testing::move;
using testing::random_batch;
using testing::random_tensor;
using testing::tiny_bert;
using testing::tiny_bert_config;
using testing::tiny_config;
using testing::tiny_llama;
using Named = std::map<std::string, at::Tensor>;

class ModelsOnCuda : public testing::CudaTest {};

nn::ForwardContext training(bool recompute = false) {
  nn::ForwardContext context;
  context.training = true;
  context.recompute = recompute;
  context.dropout = {.seed = 11, .step = 4, .first_token = 100};
  return context;
}

/// The output of `run` on `device`, and the gradients of all trained weights.
template <class Model, class Run>
Named outcome(Model& model, const Run& run, at::Device device) {
  move(model, device);
  const at::Tensor output = run(model, device);
  EXPECT_EQ(output.device(), device);
  output.backward(random_tensor(output.sizes(), 99).to(output.options()));
  Named result = {{"", output.detach()}};
  for (const optim::Parameter& parameter : adapters::trainable_parameters(model))
    result[parameter.name] = parameter.tensor.grad();
  return result;
}

/// Two models of `make`, all of whose weights are trained unless it has said which.
template <class Make, class Run>
void expect_same_outcome(const Make& make, const Run& run, double tolerance = 1e-4) {
  Named results[2];
  for (const bool cuda : {false, true}) {
    const auto model = make();
    if (adapters::trainable_parameters(*model).empty()) adapters::train_all(*model);
    results[cuda ? 1 : 0] = outcome(*model, run, cuda ? kCuda : at::Device(at::kCPU));
  }
  double largest = 0;
  for (const auto& [name, gradient] : results[0])
    if (!name.empty() && gradient.defined()) largest = std::max(largest, gradient.norm().item().toDouble());
  EXPECT_GT(largest, 0);
  ASSERT_EQ(results[0].size(), results[1].size());
  for (const auto& [name, expected] : results[0]) {
    const at::Tensor& actual = results[1].at(name);
    ASSERT_EQ(actual.defined(), expected.defined()) << name;
    if (!expected.defined()) continue;
    // Some gradients, as that of a key's bias, are zero but for rounding.
    EXPECT_LT(distance(actual, expected, name.empty() ? 0 : 0.1 * largest), tolerance) << name;
  }
}

// ---- Llama

std::map<std::string, LlamaConfig> llamas() {
  std::map<std::string, LlamaConfig> configs;
  configs["grouped"] = tiny_config();
  configs["tied"] = tiny_config();
  configs["tied"].tie_word_embeddings = true;
  configs["qwen2"] = tiny_config();
  configs["qwen2"].model_type = "qwen2";
  configs["biases"] = tiny_config();
  configs["biases"].attention_bias = configs["biases"].mlp_bias = true;
  configs["biases"].num_key_value_heads = 4;
  configs["odd_heads"] = tiny_config();
  configs["odd_heads"].head_dim = 6;
  return configs;
}

TEST_F(ModelsOnCuda, LlamaInFull) {
  for (const auto& [name, config] : llamas()) {
    for (const bool recompute : {false, true}) {
      SCOPED_TRACE(name + (recompute ? ", recomputed" : ""));
      expect_same_outcome(
          [&config = config] { return tiny_llama(at::kFloat, config); },
          [&](LanguageModel& model, at::Device device) {
            return logits_of(model, random_batch({7, 1, 12}, 23).to(device), training(recompute));
          });
    }
  }
}

// In 16 bits rounding is most of the distance; heads are narrower than what kernels take.
TEST_F(ModelsOnCuda, LlamaIn16Bits) {
  for (const auto& [name, config] : llamas()) {
    for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
      SCOPED_TRACE(c10::str(name, ", ", dtype));
      expect_same_outcome([&config = config, dtype] { return tiny_llama(dtype, config); },
                          [&](LanguageModel& model, at::Device device) {
                            return logits_of(model, random_batch({7, 1, 12}, 23).to(device), training());
                          },
                          dtype == at::kHalf ? 2e-2 : 1e-1);
    }
  }
}

adapters::LoraOptions everywhere() {
  adapters::LoraOptions lora;
  lora.r = 3;
  lora.lora_alpha = 6;
  lora.lora_dropout = 0.25;
  lora.target_modules = {"all-linear", "embed_tokens", "lm_head"};
  lora.init_lora_weights = "false";  // Every adapter acts from the start.
  return lora;
}

TEST_F(ModelsOnCuda, LlamaWithAdaptersAndTheSameDropout) {
  for (const bool packed : {false, true}) {
    for (const bool recompute : {false, true}) {
      SCOPED_TRACE(c10::str(packed ? "4-bit" : "dense", recompute ? ", recomputed" : ""));
      expect_same_outcome(
          [&] {
            auto model = tiny_llama();
            if (packed) quantize(*model);
            adapters::attach(*model, everywhere(), 1);
            return model;
          },
          [&](LanguageModel& model, at::Device device) {
            return logits_of(model, random_batch({7, 1, 12}, 23).to(device), training(recompute));
          });
    }
  }
}

TEST_F(ModelsOnCuda, LlamaWithTrainedRows) {
  adapters::LoraOptions lora;
  lora.r = 3;
  lora.target_modules = {"q_proj"};
  lora.trainable_token_indices = {{"embed_tokens", {1, 5, 22}}, {"lm_head", {0, 7}}};
  expect_same_outcome(
      [&] {
        auto model = tiny_llama();
        adapters::attach(*model, lora, 1);
        return model;
      },
      [](LanguageModel& model, at::Device device) {
        return logits_of(model, random_batch({7, 1, 12}, 23).to(device), training());
      });
}

TEST_F(ModelsOnCuda, AllHiddenStates) {
  const at::NoGradGuard no_grad;
  nn::ForwardContext context;
  context.all_hidden = true;
  const auto model = tiny_llama();
  const std::vector<at::Tensor> expected = model->forward(random_batch({7, 1, 12}, 23), context).all_hidden;
  move(*model, kCuda);
  const std::vector<at::Tensor> actual =
      model->forward(random_batch({7, 1, 12}, 23).to(kCuda), context).all_hidden;
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) EXPECT_LT(distance(actual[i], expected[i]), 1e-4) << i;
}

TEST_F(ModelsOnCuda, CachedForwardAndGeneration) {
  for (const bool packed : {false, true}) {
    const auto model = tiny_llama();
    if (packed) quantize(*model);
    const at::Tensor ids = random_batch({17}, 23).input_ids;
    std::vector<at::Tensor> hidden[2];
    std::vector<std::vector<std::int32_t>> said[2];
    for (const bool cuda : {false, true}) {
      const at::Device device = cuda ? kCuda : at::Device(at::kCPU);
      move(*model, device);
      KeyValueCache cache;
      std::int64_t begin = 0;
      for (const std::int64_t count : {6, 1, 1, 5, 4}) {
        hidden[cuda].push_back(model->forward_cached(ids.narrow(0, begin, count).to(device), cache));
        begin += count;
      }
      for (const double temperature : {0.0, 0.7}) {
        GenerationOptions options;
        options.max_new_tokens = 24;
        options.temperature = temperature;
        options.stop_tokens = {23};  // None.
        options.repetition_penalty = 1.3;
        said[cuda].push_back(generate(*model, {3, 1, 4}, options));
      }
    }
    EXPECT_LT(distance(at::cat(hidden[1]), at::cat(hidden[0])), 1e-4);
    EXPECT_EQ(said[0][0].size(), 24U);
    EXPECT_EQ(said[1], said[0]);
  }
}

TEST_F(ModelsOnCuda, InitialisedQuantisedAndAdaptedWhereTheyAre) {
  Named weights[2];
  for (const bool cuda : {false, true}) {
    const at::TensorOptions options =
        at::TensorOptions().dtype(at::kFloat).device(cuda ? kCuda : at::Device(at::kCPU));
    const auto model = make_llama(tiny_config(), options);
    initialise(*model, 5);
    quantize(*model, {quant::QuantType::kNf4, 64, false});
    adapters::attach(*model, everywhere(), 1);
    model->visit_tensors([&](const std::string& name, at::Tensor& tensor) { weights[cuda][name] = tensor; });
    for (const optim::Parameter& parameter : adapters::trainable_parameters(*model))
      weights[cuda][parameter.name] = parameter.tensor.detach();
    weights[cuda]["logits"] = logits_of(*model, random_batch({7, 1, 12}, 23).to(options.device())).detach();
    adapters::merge(*model, {.requantize = false, .dtype = "float32"});
    weights[cuda]["merged"] = logits_of(*model, random_batch({7, 1, 12}, 23).to(options.device())).detach();
  }
  for (const auto& [name, expected] : weights[0]) {
    const at::Tensor& actual = weights[1].at(name);
    EXPECT_TRUE(actual.is_cuda()) << name;
    if (name == "logits" || name == "merged")
      EXPECT_LT(distance(actual, expected), 1e-4) << name;
    else
      EXPECT_TRUE(at::equal(actual.cpu(), expected)) << name;
  }
  EXPECT_LT(distance(weights[1].at("merged"), weights[1].at("logits")), 1e-4);
}

// ---- Encoders

constexpr const char* kEncoders[] = {"bert", "distilbert", "roberta", "xlm-roberta", "xmod"};

/// Four segments in two languages, neighbours of different ones; of sentences 0 and 1 where `pairs`.
Batch texts(at::Device device, bool pairs = false) {
  Batch batch = random_batch({5, 1, 9, 4}, 23);
  batch.language_ids = {1, 0, 1, 0};
  if (pairs) batch.token_type_ids = batch.position_ids.ge(2).to(at::kLong);
  return batch.to(device);
}

std::unique_ptr<EncoderModel> encoder(const std::string& type, bool pooler = false) {
  auto model = tiny_bert(at::kFloat, tiny_bert_config(type), pooler);
  model->set_languages({"en", "sw"});
  return model;
}

TEST_F(ModelsOnCuda, Encoders) {
  for (const std::string type : kEncoders) {
    for (const bool recompute : {false, true}) {
      SCOPED_TRACE(type + (recompute ? ", recomputed" : ""));
      expect_same_outcome([&] { return encoder(type); },
                          [&](EncoderModel& model, at::Device device) {
                            return model.forward(texts(device, type == "bert"), training(recompute)).hidden;
                          });
    }
  }
}

TEST_F(ModelsOnCuda, EncodersIn16Bits) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    SCOPED_TRACE(dtype);
    expect_same_outcome([&] { return tiny_bert(dtype); },
                        [](EncoderModel& model, at::Device device) {
                          return model.forward(texts(device, true), training()).hidden;
                        },
                        dtype == at::kHalf ? 2e-2 : 1e-1);
  }
}

TEST_F(ModelsOnCuda, EncodersIn4Bits) {
  expect_same_outcome(
      [] {
        auto model = encoder("bert");
        quantize(*model);
        adapters::LoraOptions lora = everywhere();
        lora.target_modules = {"query", "value"};
        adapters::attach(*model, lora, 1);
        return model;
      },
      [](EncoderModel& model, at::Device device) { return model.forward(texts(device), training()).hidden; });
}

TEST_F(ModelsOnCuda, Poolers) {
  expect_same_outcome([] { return encoder("bert", true); },
                      [](EncoderModel& model, at::Device device) {
                        const Batch batch = texts(device);
                        return model.pooled(model.forward(batch, training()).hidden, batch, training());
                      });
}

TEST_F(ModelsOnCuda, SentenceEncoders) {
  for (const nn::Pooling pooling : nn::pooling_modes()) {
    for (const std::int64_t margin : {0, 1}) {
      SCOPED_TRACE(c10::str(nn::pooling_name(pooling), ", margin ", margin));
      expect_same_outcome(
          [&] {
            std::vector<std::unique_ptr<Dense>> maps;
            maps.push_back(std::make_unique<Dense>(32, 12, true, nn::Activation::kTanh));
            maps[0]->linear.weight = random_tensor({12, 32}, 1);
            maps[0]->linear.bias = random_tensor({12}, 2);
            auto model = std::make_unique<SentenceEncoder>(
                encoder("xlm-roberta"), EmbeddingOptions{{nn::Pooling::kMean, pooling}, true},
                std::move(maps));
            model->set_margins({margin, margin});
            return model;
          },
          [](SentenceEncoder& model, at::Device device) { return model.forward(texts(device), training()); });
    }
  }
}

TEST_F(ModelsOnCuda, CrossEncoders) {
  for (const char* type : {"bert", "xlm-roberta"}) {
    SCOPED_TRACE(type);
    expect_same_outcome([&] { return with_fresh_head(encoder(type), 3); },
                        [&](CrossEncoder& model, at::Device device) {
                          return model.forward(texts(device, std::string(type) == "bert"), training());
                        });
  }
}

TEST_F(ModelsOnCuda, LateInteractionEncoders) {
  expect_same_outcome(
      [] {
        auto model = std::make_unique<LateInteractionEncoder>(encoder("xmod"), 8);
        initialise_projection(*model, 3);
        return model;
      },
      [](LateInteractionEncoder& model, at::Device device) {
        return model.forward(texts(device), training());
      });
}

TEST_F(ModelsOnCuda, MaskedLanguageModels) {
  for (const std::string type : {"bert", "distilbert", "xlm-roberta"}) {
    SCOPED_TRACE(type);
    const bool pairs = type == "bert";
    expect_same_outcome(
        [&] {
          auto model = std::make_unique<MaskedLanguageModel>(encoder(type, pairs), pairs);
          initialise_heads(*model, 3);
          return model;
        },
        [&](MaskedLanguageModel& model, at::Device device) {
          const Batch batch = texts(device, pairs);
          const at::Tensor hidden = model.forward(batch, training()).hidden;
          const at::Tensor words = model.output_head().forward(model.transform(hidden, {}), {}).flatten();
          return pairs ? at::cat({words, model.next_sentence_logits(hidden, batch, {}).flatten()}) : words;
        });
  }
}

TEST_F(ModelsOnCuda, DocumentEncoders) {
  for (const char* pooling : {"mean", "dcls"}) {
    SCOPED_TRACE(pooling);
    expect_same_outcome(
        [&] {
          DocumentEncoderOptions options;
          options.heads = 4;
          options.intermediate_size = 24;
          options.max_sentences = 7;
          options.pooling = pooling;
          auto model = std::make_unique<DocumentEncoder>(
              std::make_unique<SentenceEncoder>(encoder("bert"),
                                                EmbeddingOptions{{nn::Pooling::kMean}, true}),
              options);
          initialise(model->documents(), 0.3, 5);
          return model;
        },
        [](DocumentEncoder& model, at::Device device) {
          Batch batch = random_batch({5, 1, 9, 4, 6, 3, 2}, 23);
          batch.group_ids = {0, 0, 0, 1, 1, 1, 1};
          batch.document_ids = {0, 0, 0, 0, 0, 1, 1};
          return model.forward(batch.to(device), training());
        });
  }
}

}  // namespace
}  // namespace bitrain::models
