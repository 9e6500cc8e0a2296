#include <cmath>
#include <filesystem>
#include <map>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/data/loader.h>
#include <bitrain/dist/thread_ranks.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/models/quantize.h>
#include <bitrain/objectives/objective.h>
#include <bitrain/train/checkpoint.h>
#include <bitrain/train/connect.h>
#include <bitrain/train/sharded_weights.h>
#include "support/temporary_directory.h"
#include "train/tiny_run.h"

// A run is the same on any number of ranks: what it reads, its losses, and what comes of it.
namespace bitrain::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::tiny_options;
using ::testing::Values;

/// Words of a language of its own, as many documents as asked for, of 3 to 40 tokens.
class Words : public data::Source {
 public:
  Words(std::string name, std::int64_t size, std::uint64_t seed)
      : name_(std::move(name)), size_(size), seed_(seed) {}
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] std::vector<std::string> languages() const override { return {name_}; }
  [[nodiscard]] std::int64_t size() const override { return size_; }
  [[nodiscard]] data::Example at(std::int64_t index) const override {
    data::Example example;
    example.language = name_;
    example.source = name_;
    RandomStream stream(seed_, "words", static_cast<std::uint64_t>(index));
    const auto length = static_cast<std::size_t>(3 + stream.below(38));
    for (std::size_t i = 0; i < length; ++i) example.text += static_cast<char>('a' + stream.below(22));
    return example;
  }

 private:
  std::string name_;
  std::int64_t size_;
  std::uint64_t seed_;
};

/// Letters are tokens; a token predicts the next one.
data::TokenSequence encode(const data::Example& example) {
  data::TokenSequence sequence;
  for (const char letter : example.text) sequence.ids.push_back(letter - 'a');
  for (std::size_t i = 0; i + 1 < sequence.ids.size(); ++i) sequence.labels.push_back(sequence.ids[i + 1]);
  sequence.ids.pop_back();
  return sequence;
}

struct How {
  std::string shard = "none";
  bool lora = false;
  bool recompute = false;
  std::int64_t micro_batch_rows = 0;
  at::ScalarType dtype = at::kFloat;
  std::int64_t context = 1;
  bool save_in_background = false;
  bool quantized = false;     ///< The linear maps in 4 bits.
  bool unsupervised = false;  ///< Half of the documents have no labels.
  bool freeze = false;        ///< Embedding, first layer and the second one's attention.
};

/// One rank of a run with dropout, two languages, best-fit packing and several micro-batches.
struct Rank {
  Rank(const How& how, std::shared_ptr<dist::Communicator> ranks) {
    models::LlamaConfig config;
    config.vocab_size = testing::kVocabulary;
    config.hidden_size = 32;
    config.intermediate_size = 48;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.initializer_range = 0.1;
    model = models::make_llama(config, at::TensorOptions().dtype(how.dtype));
    models::initialise(*model, 1);
    if (how.quantized) models::quantize(*model);
    if (how.lora) {
      adapters::LoraOptions lora;
      lora.r = 4;
      lora.lora_dropout = 0.1;
      lora.target_modules = {"q_proj", "v_proj", "down_proj", "embed_tokens", "lm_head"};
      adapters::attach(*model, lora, 7);
    } else {
      adapters::train_all(*model);
      if (how.freeze) adapters::freeze(*model, {"embed_tokens", "layers.0", "layers.1.self_attn"});
    }
    data::LoaderOptions loading;
    loading.sequence_length = 48;
    loading.rows_per_step = 5;
    loading.micro_batch_rows = how.micro_batch_rows;
    loading.mixture.weights = {{"en", 1}, {"es", 2}};
    loader = std::make_unique<data::Loader>(
        loading,
        std::vector<data::SourcePtr>{std::make_shared<Words>("en", 200, 1),
                                     std::make_shared<Words>("es", 90, 2)},
        [how](const data::Example& example) {
          data::TokenSequence sequence = encode(example);
          if (how.unsupervised && example.text.front() < 'l')
            sequence.labels.assign(sequence.labels.size(), static_cast<std::int32_t>(kIgnoreIndex));
          return sequence;
        },
        data::LoaderRun{5,
                        50,
                        {ranks->rank() / how.context, ranks->size() / how.context},
                        {ranks->rank() % how.context, how.context}});
    parts.parameters = adapters::trainable_parameters(*model);
    parts.model = model.get();
    parts.loss = [this](const Batch& batch, const nn::ForwardContext& context) {
      return objectives::next_token_loss(*model, batch, context, {"en", "es"});
    };
    parts.source = make_source(*loader);
    parts.ranks = std::move(ranks);
    parts.parallel.shard = how.shard;
    parts.parallel.context = how.context;
    parts.parallel.bucket_mib = 1;
  }

  std::unique_ptr<models::LanguageModel> model;
  std::unique_ptr<data::Loader> loader;
  TrainParts parts;
};

TrainOptions options_of(const How& how, std::int64_t steps) {
  TrainOptions options = tiny_options(steps);
  options.learning_rate = 0.003;
  options.recompute = how.recompute;
  options.max_grad_norm = 0.5;
  options.save_in_background = how.save_in_background;
  return options;
}

struct Outcome {
  TrainResult result;
  std::map<std::string, at::Tensor> weights;
  nlohmann::ordered_json cursor;
};

/// Trains on so many ranks up to `stop`, going on from what is in `folder`; what rank 0 has at the end. The
/// schedule is always that of `steps`.
Outcome train(const How& how, std::int64_t ranks, std::int64_t steps, const std::string& folder = {},
              std::int64_t stop = 0, std::int64_t save_every = 0) {
  Outcome outcome;
  dist::run_ranks(ranks, [&](dist::Communicator& world) {
    // The communicator is the caller's.
    Rank rank(how, std::shared_ptr<dist::Communicator>(&world, [](dist::Communicator*) {}));
    TrainOptions options = options_of(how, steps);
    rank.parts.output_dir = folder;
    if (!folder.empty()) options.save_every = save_every > 0 ? save_every : steps;
    struct Stop {};
    if (stop > 0) {
      options.save_every = stop;
      auto next = rank.parts.source.next_step;
      rank.parts.source.next_step = [&rank, next, stop] {
        if (rank.loader->cursor().step == stop) throw Stop();
        return next();
      };
    }
    try {
      TrainResult result = Trainer(options, rank.parts).run();
      if (world.rank() == 0) outcome.result = std::move(result);
    } catch (const Stop&) {
    }
    const auto keeper = nn::keeper_of(*rank.model);
    const auto look = [&] {
      if (world.rank() > 0) return;
      outcome.cursor = rank.parts.source.cursor();
      for (const optim::Parameter& parameter : rank.parts.parameters) {
        if (keeper) keeper->fetch(parameter.tensor);
        outcome.weights[parameter.name] = parameter.tensor.detach().clone();
      }
    };
    if (keeper)
      std::dynamic_pointer_cast<ShardedWeights>(keeper)->lead(look);
    else
      look();
  });
  return outcome;
}

void expect_near(const Outcome& one, const Outcome& other, double tolerance) {
  ASSERT_EQ(one.result.curve.loss.size(), other.result.curve.loss.size());
  for (std::size_t i = 0; i < one.result.curve.loss.size(); ++i)
    EXPECT_NEAR(one.result.curve.loss[i], other.result.curve.loss[i], tolerance) << "step " << i + 1;
  EXPECT_EQ(one.cursor, other.cursor);
  EXPECT_EQ(one.result.tokens, other.result.tokens);
  EXPECT_EQ(one.result.supervised_tokens, other.result.supervised_tokens);
  for (const auto& [language, share] : one.result.shares)
    EXPECT_EQ(share.tokens, other.result.shares.at(language).tokens);
  for (const auto& [name, weight] : one.weights)
    EXPECT_LT((weight - other.weights.at(name)).abs().max().item<double>(), 100 * tolerance) << name;
}

class RankModes : public ::testing::TestWithParam<How> {};

TEST_P(RankModes, AnyNumberIsTheSameRun) {
  const Outcome one = train(GetParam(), 1, 50);
  EXPECT_LT(one.result.curve.loss.back(), one.result.curve.loss.front());
  for (const std::int64_t ranks : {2, 3, 4}) {
    SCOPED_TRACE(ranks);
    expect_near(one, train(GetParam(), ranks, 50), 1e-5);
  }
}

How quantized(const char* shard) {
  How how{shard, true, true, 1};
  how.quantized = true;
  return how;
}

How partly(bool How::*what, const char* shard) {
  How how{shard, false, false, 1};
  how.*what = true;
  return how;
}

INSTANTIATE_TEST_SUITE_P(Modes, RankModes,
                         Values(How{"none"}, How{"none", true, true, 1}, How{"optimizer"},
                                How{"optimizer", true, false, 2}, How{"gradients"},
                                How{"gradients", true, true, 1}, How{"gradients", false, false, 1},
                                How{"parameters"}, How{"parameters", false, true, 1},
                                How{"parameters", true, false, 1}, quantized("parameters"), quantized("none"),
                                partly(&How::unsupervised, "parameters"), partly(&How::unsupervised, "none"),
                                partly(&How::freeze, "parameters")),
                         [](const ::testing::TestParamInfo<How>& mode) {
                           const How& how = mode.param;
                           return how.shard + (how.lora ? "_lora" : "_dense") +
                                  (how.quantized ? "_nf4" : "") + (how.unsupervised ? "_unsupervised" : "") +
                                  (how.freeze ? "_frozen" : "") + (how.recompute ? "_recompute" : "") +
                                  "_rows" + std::to_string(how.micro_batch_rows);
                         });

void expect_equal(const Outcome& one, const Outcome& other) {
  EXPECT_EQ(one.result.curve.loss, other.result.curve.loss);
  for (const auto& [name, weight] : one.weights)
    EXPECT_TRUE(at::equal(weight, other.weights.at(name))) << name;
}

// Sums over ranks are made in the order of ranks, so that no run depends on who comes first; and where every
// rank has one row, they are the sums that one process makes row by row.
TEST(Ranks, AddInOneOrder) {
  const How by_rows{"none", false, false, 1};
  expect_equal(train(by_rows, 1, 30), train(by_rows, 5, 30));
  const How lora{"none", true, true, 1};
  expect_equal(train(lora, 1, 30), train(lora, 5, 30));
  for (const char* shard : {"none", "optimizer", "gradients", "parameters"}) {
    SCOPED_TRACE(shard);
    const How how{shard};
    expect_equal(train(how, 3, 30), train(how, 3, 30));
  }
}

TEST(Ranks, ThatShareTokensAreTheSameRun) {
  struct Group {
    std::int64_t ranks;
    std::int64_t context;
  };
  for (const How& base : {How{"none"}, How{"gradients", true, true, 2}, How{"optimizer", false, true, 1},
                          How{"parameters", true, true, 2}}) {
    const Outcome one = train(base, 1, 50);
    // Four heads with two of keys: shares of two and two, of one, one and two, and of one each.
    for (const auto& [ranks, context] : {Group{2, 2}, Group{3, 3}, Group{4, 4}, Group{4, 2}}) {
      SCOPED_TRACE(base.shard + " on " + std::to_string(ranks) + ", " + std::to_string(context) + " a row");
      How how = base;
      how.context = context;
      expect_near(one, train(how, ranks, 50), 1e-5);
    }
  }
}

TEST(Ranks, StopAndGoOnAsAnotherNumber) {
  for (const char* shard : {"none", "optimizer", "gradients", "parameters"}) {
    SCOPED_TRACE(shard);
    const How how{shard};
    const Outcome through = train(how, 1, 50);
    const TemporaryFolder folder;
    (void)train(how, 4, 50, folder.path(), 17);
    EXPECT_EQ(CheckpointStore(folder.path()).newest(), 17);
    (void)train(how, 3, 50, folder.path(), 31);
    EXPECT_EQ(CheckpointStore(folder.path()).newest(), 31);
    const Outcome last = train(how, 1, 50, folder.path());
    EXPECT_EQ(last.result.resumed_from, 31);
    expect_near(through, last, 1e-5);
  }
}

TEST(Ranks, SaveWhileTheyTrain) {
  for (const char* shard : {"none", "optimizer", "parameters"}) {
    SCOPED_TRACE(shard);
    How how{shard};
    how.save_in_background = true;
    const Outcome through = train(how, 1, 50);
    const TemporaryFolder folder;
    const Outcome saving = train(how, 3, 50, folder.path(), 0, 10);
    expect_near(through, saving, 1e-5);
    EXPECT_EQ(saving.result.saves, 5);
    EXPECT_THAT(CheckpointStore(folder.path()).steps(), ElementsAre(40, 50));
    std::filesystem::remove_all(CheckpointStore(folder.path()).path(50));
    const Outcome again = train(how, 2, 50, folder.path());
    EXPECT_EQ(again.result.resumed_from, 40);
    expect_near(through, again, 1e-5);
  }
}

TEST(Ranks, In16BitsTravelInEither) {
  How how{"none"};
  how.dtype = at::kBFloat16;
  how.micro_batch_rows = 1;
  const Outcome one = train(how, 1, 20);
  const Outcome three = train(how, 3, 20);
  for (std::size_t i = 0; i < 20; ++i)
    EXPECT_NEAR(one.result.curve.loss[i], three.result.curve.loss[i], 0.02);
}

TEST(Ranks, OtherParametersOnARankAreNamed) {
  const auto message = [](const std::function<void(Rank&, std::int64_t)>& spoil, std::int64_t check_every) {
    try {
      dist::run_ranks(3, [&](dist::Communicator& world) {
        Rank rank({}, std::shared_ptr<dist::Communicator>(&world, [](dist::Communicator*) {}));
        rank.parts.parallel.check_every = check_every;
        spoil(rank, world.rank());
        (void)Trainer(options_of({}, 4), rank.parts).run();
      });
    } catch (const RankError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const auto change = [](Rank& rank) {
    const at::NoGradGuard no_grad;
    rank.model->visit_tensors([](const std::string& name, at::Tensor& tensor) {
      if (name == "model.layers.1.mlp.up_proj.weight") tensor[3][4] += 1e-6;
    });
  };
  EXPECT_THAT(message(
                  [&](Rank& rank, std::int64_t number) {
                    if (number == 2) change(rank);
                  },
                  0),
              HasSubstr("rank 0 has model.layers.1.mlp.up_proj.weight Float[48, 32]"));
  const auto later = [&](Rank& rank, std::int64_t number) {
    auto next = rank.parts.source.next_step;
    rank.parts.source.next_step = [&rank, next, number, change] {
      if (number == 1 && rank.loader->cursor().step == 1) change(rank);
      return next();
    };
  };
  EXPECT_EQ(message(later, 0), "no error");
  EXPECT_THAT(message(later, 2), HasSubstr("model.layers.1.mlp.up_proj.weight"));
}

TEST(Ranks, MoreThanRowsIsAnError) {
  EXPECT_THROW((void)train({}, 6, 2), ConfigError);
}

}  // namespace
}  // namespace bitrain::train
