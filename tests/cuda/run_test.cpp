#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/ops/equal.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/io/json.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/models/quantize.h>
#include <bitrain/objectives/contrastive.h>
#include <bitrain/objectives/objective.h>
#include <bitrain/recipe/run.h>
#include <bitrain/text/hf_tokenizer.h>

#include "cuda/on_device.h"
#include "support/byte_tokenizer.h"
#include "support/letters_encoder.h"
#include "support/micro_batches.h"
#include "support/tiny_bert.h"
#include "support/tiny_recipe.h"
#include "train/tiny_run.h"

namespace bitrain::train {
namespace {

using bitrain::testing::kCuda;
using testing::TemporaryFolder;
using testing::tiny_options;
using testing::TinyData;

class RunOnCuda : public bitrain::testing::CudaTest {};

/// A model with its data, on a device; made anew for each run.
struct ToyRun {
  virtual ~ToyRun() = default;

  TrainResult run(const TrainOptions& options, const std::filesystem::path& directory = {}) {
    parts.output_dir = directory.string();
    return Trainer(options, parts).run();
  }

  TrainParts parts;
};
using MakeRun = std::function<std::unique_ptr<ToyRun>(at::Device)>;

/// A Llama of two layers over TinyData's tokens, in two micro-batches a step.
struct LlamaRun : ToyRun {
  LlamaRun(at::Device device, at::ScalarType dtype, bool lora, bool packed) : data(2) {
    models::LlamaConfig config;
    config.vocab_size = testing::kVocabulary;
    config.hidden_size = 32;
    config.intermediate_size = 64;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.initializer_range = 0.1;
    model = models::make_llama(config, at::TensorOptions().dtype(dtype));
    models::initialise(*model, 1);
    if (packed) models::quantize(*model);
    if (lora) {
      adapters::LoraOptions options;
      options.r = 4;
      options.lora_dropout = 0.1;
      options.target_modules = {"q_proj", "v_proj", "down_proj", "embed_tokens", "lm_head"};
      adapters::attach(*model, options, 7);
    } else {
      adapters::train_all(*model);
    }
    bitrain::testing::move(*model, device);
    parts.parameters = adapters::trainable_parameters(*model);
    parts.loss = [this](const Batch& batch, const nn::ForwardContext& context) {
      return objectives::next_token_loss(*model, batch, context, {"en", "es"});
    };
    parts.source = data.source();
  }

  std::unique_ptr<models::LanguageModel> model;
  TinyData data;
};

/// A sentence encoder, a teacher, and seven pairs a step whose words change with the step.
struct PairsRun : ToyRun {
  PairsRun(at::Device device, const objectives::ContrastiveOptions& options, std::size_t micro_batch_rows)
      : objective(tokenizer, {"en", "es"}, options, tokenizer), rows(micro_batch_rows) {
    models::BertConfig config = bitrain::testing::tiny_bert_config();
    config.vocab_size = tokenizer->vocab_size();
    const auto encoder = [&](std::uint64_t seed) {
      auto made = std::make_unique<models::SentenceEncoder>(
          bitrain::testing::tiny_bert(at::kFloat, config, false, seed),
          models::EmbeddingOptions{{nn::Pooling::kMean}, true});
      bitrain::testing::move(*made, device);
      return made;
    };
    model = encoder(7);
    teacher = encoder(8);
    adapters::train_all(*model);
    parts.parameters = adapters::trainable_parameters(*model);
    parts.embedding_loss = objective.loss(*model, teacher.get());
    parts.source.next_step = [this] { return next_step(); };
    parts.source.cursor = [this] { return nlohmann::ordered_json{{"steps", steps}}; };
    parts.source.seek = [this](const nlohmann::ordered_json& cursor) { steps = cursor.at("steps"); };
    parts.source.languages = {"en", "es"};
    parts.source.tokens_per_step = 100;
  }

  std::vector<Batch> next_step() {
    std::vector<data::Example> examples;
    for (int i = 0; i < 7; ++i) {
      data::Example& example = examples.emplace_back();
      example.text = c10::str("text ", i, " of ", steps);
      example.pair_text = c10::str(steps, " texto ", i % 5, i == 6 ? " y más" : "");
      example.negatives = {c10::str("no ", i)};
      example.language = "en";
      example.pair_language = "es";
    }
    ++steps;
    return bitrain::testing::micro_batches(objective, examples, rows);
  }

  std::shared_ptr<const text::Tokenizer> tokenizer = std::make_shared<test::ByteTokenizer>(false, false);
  objectives::Contrastive objective;
  std::unique_ptr<models::SentenceEncoder> model;
  std::unique_ptr<models::SentenceEncoder> teacher;
  std::size_t rows;
  std::int64_t steps = 0;
};

MakeRun pairs_run(const char* loss, double distill, std::size_t micro_batch_rows) {
  objectives::ContrastiveOptions options;
  options.loss = loss;
  options.max_length = 30;
  options.distill_text = options.distill_pair = distill;
  if (distill > 0) options.matryoshka = {{8, 16}, {0.5, 1}, true};
  return [=](at::Device device) { return std::make_unique<PairsRun>(device, options, micro_batch_rows); };
}

struct Kind {
  const char* name;
  MakeRun make;
  double tolerance;  ///< Of losses, beside those of the CPU.
};

std::vector<Kind> kinds() {
  const auto llama = [](at::ScalarType dtype, bool lora, bool packed) -> MakeRun {
    return [=](at::Device device) { return std::make_unique<LlamaRun>(device, dtype, lora, packed); };
  };
  return {
      {"llama in full", llama(at::kFloat, false, false), 1e-3},
      {"lora", llama(at::kFloat, true, false), 1e-3},
      {"qlora", llama(at::kFloat, true, true), 1e-3},
      {"llama in full, bfloat16", llama(at::kBFloat16, false, false), 2e-2},
      {"qlora, bfloat16", llama(at::kBFloat16, true, true), 2e-2},
      {"info_nce", pairs_run("info_nce", 0, 3), 1e-3},
      {"info_nce, taught and cut", pairs_run("info_nce", 0.5, 3), 1e-3},
      {"nt_xent", pairs_run("nt_xent", 0, 2), 1e-3},
      {"supcon", pairs_run("supcon", 0, 2), 1e-3},
  };
}

TEST_F(RunOnCuda, LossesAreThoseOfTheCpu) {
  for (const Kind& kind : kinds()) {
    SCOPED_TRACE(kind.name);
    const auto on_cpu = kind.make(at::kCPU);
    const auto on_cuda = kind.make(kCuda);
    const std::vector<double> expected = on_cpu->run(tiny_options(3)).curve.loss;
    const TrainResult result = on_cuda->run(tiny_options(3));
    EXPECT_TRUE(on_cuda->parts.parameters.front().tensor.is_cuda());
    EXPECT_GT(result.peak_memory_bytes, 0U);
    ASSERT_EQ(result.curve.loss.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(result.curve.loss[i], expected[i], kind.tolerance * expected[i]) << i;
  }
}

TEST_F(RunOnCuda, ResumedIsTheUninterruptedRun) {
  for (const Kind& kind : kinds()) {
    SCOPED_TRACE(kind.name);
    TrainOptions options = tiny_options(7);
    const TrainResult whole = kind.make(kCuda)->run(options);
    // Where the device repeats itself bit for bit, a resumed run does too.
    const bool exact = kind.make(kCuda)->run(options).curve.loss == whole.curve.loss;

    const TemporaryFolder folder;
    options.save_every = 3;
    const auto first = kind.make(kCuda);
    const auto next = first->parts.source.next_step;
    int calls = 0;
    first->parts.source.next_step = [&]() -> std::vector<Batch> {
      if (++calls == 5) throw std::runtime_error("the power went");
      return next();
    };
    EXPECT_THROW(first->run(options, folder.path()), std::runtime_error);
    const TrainResult resumed = kind.make(kCuda)->run(options, folder.path());
    EXPECT_EQ(resumed.resumed_from, 3);
    ASSERT_EQ(resumed.curve.loss.size(), whole.curve.loss.size());
    for (std::size_t i = 0; i < whole.curve.loss.size(); ++i)
      EXPECT_NEAR(resumed.curve.loss[i], whole.curve.loss[i], exact ? 0 : 1e-5 * whole.curve.loss[i]) << i;
  }
}

TEST_F(RunOnCuda, ACheckpointOfTheOneDeviceGoesOnOnTheOther) {
  for (const bool to_cuda : {false, true}) {
    const MakeRun make = [](at::Device device) {
      return std::make_unique<LlamaRun>(device, at::kFloat, true, true);
    };
    const TrainResult whole = make(at::kCPU)->run(tiny_options(6));
    const TemporaryFolder folder;
    TrainOptions options = tiny_options(6);
    options.save_every = 3;
    const auto first = make(to_cuda ? at::Device(at::kCPU) : kCuda);
    const auto next = first->parts.source.next_step;
    int calls = 0;
    first->parts.source.next_step = [&]() -> std::vector<Batch> {
      if (++calls == 5) throw std::runtime_error("the power went");
      return next();
    };
    EXPECT_THROW(first->run(options, folder.path()), std::runtime_error);
    const TrainResult resumed = make(to_cuda ? kCuda : at::Device(at::kCPU))->run(options, folder.path());
    EXPECT_EQ(resumed.resumed_from, 3);
    ASSERT_EQ(resumed.curve.loss.size(), whole.curve.loss.size());
    for (std::size_t i = 0; i < whole.curve.loss.size(); ++i)
      EXPECT_NEAR(resumed.curve.loss[i], whole.curve.loss[i], 1e-3 * whole.curve.loss[i]) << i;
  }
}

TEST_F(RunOnCuda, MicroBatchesAndRecomputationChangeNothing) {
  const TrainResult three = pairs_run("info_nce", 0.5, 3)(kCuda)->run(tiny_options(4));
  const TrainResult whole = pairs_run("info_nce", 0.5, 7)(kCuda)->run(tiny_options(4));
  TrainOptions options = tiny_options(4);
  options.recompute = true;
  const TrainResult again = pairs_run("info_nce", 0.5, 3)(kCuda)->run(options);
  for (std::size_t i = 0; i < three.curve.loss.size(); ++i) {
    EXPECT_NEAR(whole.curve.loss[i], three.curve.loss[i], 1e-3 * three.curve.loss[i]) << i;
    EXPECT_NEAR(again.curve.loss[i], three.curve.loss[i], 1e-3 * three.curve.loss[i]) << i;
  }
}

}  // namespace
}  // namespace bitrain::train

namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;

/// Recipes of three steps a stage, on both devices.
class RecipeOnCuda : public testing::CudaTest {
 protected:
  [[nodiscard]] fs::path path(const std::string& name) const { return directory_.path() / name; }

  /// Runs `recipe`, and compares the losses of its stages.
  void expect_same_losses(const std::string& recipe, const std::vector<std::string>& trained) const {
    std::ofstream(path("recipe.yaml")) << recipe;
    const auto stages_on = [&](const char* device) {
      std::vector<std::string> overrides = {std::string("device=") + device, "dir=" + path(device).string()};
      if (fs::exists(path("base"))) overrides.push_back("base=" + path("base").string());
      const RunResult result = run(load_recipe(path("recipe.yaml"), overrides));
      EXPECT_EQ(result.summary["machine"]["device"], device);
      return result.summary["stages"];
    };
    const io::Json expected = stages_on("cpu");
    const io::Json actual = stages_on("cuda");
    for (const std::string& stage : trained) {
      const auto losses = [&](const io::Json& stages) {
        return stages.at(stage).at("curve").at("loss").get<std::vector<double>>();
      };
      ASSERT_EQ(losses(actual).size(), losses(expected).size()) << stage;
      for (std::size_t i = 0; i < losses(expected).size(); ++i)
        EXPECT_NEAR(losses(actual)[i], losses(expected)[i], 2e-3 * std::abs(losses(expected)[i]))
            << stage << ", " << i;
    }
  }

  test::TemporaryDirectory directory_;
};

TEST_F(RecipeOnCuda, LanguageModels) {
  test::write_pairs(path("pairs.tsv"));
  expect_same_losses(
      test::tiny_recipe("float32") + R"(  tok: {recipe: tokenizer, tokenizer: {vocab_size: 320}}
  first:
    recipe: pretrain
    model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}
    data: {loader: {sequence_length: 64, rows_per_step: 2, mixture: {weights: {source: 0.75, target: 0.25}}}}
    train: {max_steps: 3, eval_every: 2}
  extend: {recipe: extend_vocab, from: first, vocab: {pieces: 12}}
  adapt:
    recipe: cpt
    from: extend
    quantize: {type: nf4, double_quant: true}
    lora: {r: 4, lora_alpha: 8, lora_dropout: 0.1, target_modules: [q_proj, v_proj, embed_tokens, lm_head]}
    data: {loader: {sequence_length: 64, rows_per_step: 4, micro_batch_rows: 2}}
    train: {max_steps: 3, save_every: 2}
  merge: {recipe: merge, from: adapt, prompts: [el gato], generation: {max_new_tokens: 4}}
  score: {recipe: evaluate}
)",
      {"first", "adapt"});
}

TEST_F(RecipeOnCuda, Encoders) {
  bitrain::testing::write_letters_encoder(path("base"));
  std::ofstream lines(path("pairs.tsv"));
  std::ofstream hard(path("hard.jsonl"));
  std::ofstream scored(path("scored.jsonl"));
  for (int document = 0; document < 40; ++document) {
    const std::string name = {static_cast<char>('a' + document % 26), static_cast<char>('a' + document / 2)};
    for (int line = 0; line < 4; ++line) {
      const std::string word(2, static_cast<char>('p' + line));
      lines << "x\t" << name << " saw " << word << "\t" << word << " vio " << name << "\n";
    }
    hard << R"({"query": "is )" << name << R"(", "positive": "yes )" << name << R"(", "negatives": ["no )"
         << name << "\"]}\n";
    scored << R"({"text": "cat )" << name << R"(", "pair": "gato )" << name << R"( b", "score": )"
           << document % 6 << "}\n";
  }
  lines.close();
  hard.close();
  scored.close();
  expect_same_losses(R"(schema: 1
name: encoders
threads: 1
dtype: float32
source: {path: pairs.tsv, format: tsv, column: 2, language: en}
target: {path: pairs.tsv, format: tsv, column: 3, language: es}
held_out: {last: 32}
stages:
  align:
    recipe: contrastive
    from: base
    teacher: base
    objective: {distill_text: 1.0}
    loader: {rows_per_step: 12, micro_batch_rows: 5}
    train: {max_steps: 3, eval_every: 2}
  words:
    recipe: masked_lm
    from: base
    pairs: true
    loader: {rows_per_step: 24, micro_batch_rows: 7}
    train: {max_steps: 3}
  context:
    recipe: context_prediction
    from: base
    lines_per_document: 4
    window: 2
    objective: {bank_size: 40}
    loader: {rows_per_step: 16, micro_batch_rows: 6}
    train: {max_steps: 3}
  judge: {recipe: evaluate_encoder, calibrate: [shift_scale, rotation, procrustes], calibration_lines: 60}
  documents:
    recipe: document_encoder
    from: context
    lines_per_document: 4
    neighbourhood: 3
    model: {heads: 4, intermediate_size: 24, max_sentences: 5}
    loader: {rows_per_step: 8, micro_batch_rows: 3}
    train: {max_steps: 3}
  cross:
    recipe: cross_encoder
    from: base
    files: [{path: hard.jsonl}]
    objective: {max_length: 16}
    loader: {rows_per_step: 8, micro_batch_rows: 3}
    train: {max_steps: 3}
  sts:
    recipe: similarity
    from: base
    files: [{path: scored.jsonl}]
    loader: {rows_per_step: 16, micro_batch_rows: 5}
    train: {max_steps: 3}
)",
                     {"align", "words", "context", "documents", "cross", "sts"});
}

TEST_F(RecipeOnCuda, LateInteraction) {
  bitrain::testing::write_letters_encoder(path("base"));
  std::ofstream lines(path("lines.tsv"));
  std::ofstream hard(path("hard.jsonl"));
  for (int i = 0; i < 40; ++i) {
    const std::string name = {static_cast<char>('a' + i % 7), static_cast<char>('a' + i * 3 % 26)};
    lines << i << "\tcat " << name << "\tgato " << name << "\n";
    hard << R"({"query": "cat )" << name << R"(", "positive": "has )" << name << R"(", "negatives": ["has b )"
         << name << "\"]}\n";
  }
  lines.close();
  hard.close();
  expect_same_losses(R"(schema: 1
name: late
threads: 1
dtype: float32
source: {path: lines.tsv, format: tsv, column: 2, language: en}
target: {path: lines.tsv, format: tsv, column: 3, language: es}
held_out: {every: 10}
stages:
  xmod: {recipe: language_adapters, from: base, reduction_factor: 4}
  untrained: {recipe: late_interaction, from: xmod, dimension: 8, model: {query_length: 16, document_length: 30}}
  train:
    recipe: late_interaction
    from: untrained
    files: [{path: hard.jsonl, language: en, pair_language: en}]
    freeze: [word_embeddings, adapter_modules]
    loader: {rows_per_step: 8, micro_batch_rows: 3}
    train: {max_steps: 3}
)",
                     {"train"});
}

}  // namespace
}  // namespace bitrain::recipe
