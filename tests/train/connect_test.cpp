#include <bitrain/train/connect.h>

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "train/tiny_run.h"

// A trainer on a real loader: mixed sources, packing, prefetch threads.
namespace bitrain::train {
namespace {

using testing::TemporaryFolder;
using testing::tiny_options;
using testing::TinyModel;

/// Letters as tokens; each predicts a letter that is a function of it.
data::TokenSequence encode(const data::Example& example) {
  data::TokenSequence sequence;
  for (const char letter : example.text) {
    const std::int32_t token = letter - 'a';
    sequence.ids.push_back(token);
    sequence.labels.push_back(static_cast<std::int32_t>((5 * token + 2) % testing::kVocabulary));
  }
  return sequence;
}

data::SourcePtr source_of(const std::string& language, int documents) {
  std::vector<data::Example> examples;
  for (int d = 0; d < documents; ++d) {
    RandomStream stream(2, language, static_cast<std::uint64_t>(d));
    data::Example example;
    example.language = language;
    const std::uint64_t length = 5 + stream.below(30);
    for (std::uint64_t i = 0; i < length; ++i) {
      example.text.push_back(static_cast<char>('a' + stream.below(testing::kVocabulary)));
    }
    examples.push_back(std::move(example));
  }
  return data::make_source(language, language, std::move(examples));
}

struct LoadedRun {
  explicit LoadedRun(std::int64_t threads)
      : loader(options_of(threads), {source_of("en", 50), source_of("es", 20)}, encode,
               {.seed = 4, .total_steps = 12}) {
    parts.parameters = model.parameters();
    parts.loss = [this](const Batch& batch, const nn::ForwardContext& context) {
      return model.loss(batch, context);
    };
    parts.source = make_source(loader);
  }

  static data::LoaderOptions options_of(std::int64_t threads) {
    data::LoaderOptions options;
    options.sequence_length = 32;
    options.rows_per_step = 4;
    options.micro_batch_rows = 2;
    options.prefetch_threads = threads;
    options.mixture.weights = {{"en", 0.75}, {"es", 0.25}};
    return options;
  }

  TrainResult run(const TrainOptions& options, const std::filesystem::path& directory = {}) {
    parts.output_dir = directory.string();
    return Trainer(options, parts).run();
  }

  TinyModel model;
  data::Loader loader;
  TrainParts parts;
};

TEST(Connect, ARunOverALoaderResumesBitForBitWhateverTheThreads) {
  TrainOptions options = tiny_options(0);
  options.max_tokens = 12 * 32 * 4;  // Twelve steps.
  LoadedRun through(0);
  const TrainResult whole = through.run(options);
  EXPECT_EQ(whole.steps, 12);
  EXPECT_NEAR(whole.shares.at("es").realised, 0.25, 0.08);
  EXPECT_NEAR(whole.shares.at("en").realised + whole.shares.at("es").realised, 1.0, 1e-12);

  const TemporaryFolder folder;
  options.save_every = 7;
  LoadedRun first(2);
  auto next = first.parts.source.next_step;
  int calls = 0;
  first.parts.source.next_step = [&]() -> std::vector<Batch> {
    if (++calls == 10) throw std::runtime_error("the power went");
    return next();
  };
  EXPECT_THROW(first.run(options, folder.path()), std::runtime_error);
  LoadedRun second(1);
  const TrainResult resumed = second.run(options, folder.path());
  EXPECT_EQ(resumed.resumed_from, 7);
  EXPECT_EQ(resumed.curve.loss, whole.curve.loss);
  EXPECT_EQ(resumed.shares.at("es").tokens, whole.shares.at("es").tokens);
  EXPECT_TRUE(at::equal(second.model.head, through.model.head));
}

}  // namespace
}  // namespace bitrain::train
