#include <bitrain/train/sharded_weights.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/dist/thread_ranks.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/hub/peft.h>
#include <bitrain/models/quantize.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/train/rank_gradients.h>
#include "support/temporary_directory.h"
#include "support/tiny_llama.h"

namespace bitrain::train {
namespace {

using ::testing::HasSubstr;
using testing::random_batch;
using TemporaryFolder = test::TemporaryDirectory;

constexpr std::int64_t kLayers = 6;

std::unique_ptr<models::LanguageModel> six_layers(at::ScalarType dtype = at::kFloat) {
  models::LlamaConfig config = testing::tiny_config();
  config.num_hidden_layers = kLayers;
  return testing::tiny_llama(dtype, config);
}

std::shared_ptr<dist::Communicator> borrowed(dist::Communicator& world) {
  return {&world, [](dist::Communicator*) {}};
}

dist::ParallelOptions by_layers() {
  dist::ParallelOptions options;
  options.shard = "parameters";
  return options;
}

std::shared_ptr<ShardedWeights> weights_of(nn::Module& model) {
  return std::dynamic_pointer_cast<ShardedWeights>(nn::keeper_of(model));
}

/// What is trained of it, and all else of its layers, shared out.
std::unique_ptr<RankGradients> shared(nn::Module& model, dist::Communicator& world) {
  return std::make_unique<RankGradients>(adapters::trainable_parameters(model), &model, borrowed(world),
                                         by_layers(), true);
}

std::int64_t layer_bytes(nn::Module& model) {
  std::int64_t bytes = 0;
  model.find("model.layers.0")->visit_all([&](at::Tensor& tensor) {
    bytes += static_cast<std::int64_t>(tensor.nbytes());
  });
  return bytes;
}

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void expect_same_files(const std::filesystem::path& one, const std::filesystem::path& other) {
  std::int64_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(one)) {
    EXPECT_EQ(contents(entry.path()), contents(other / entry.path().filename())) << entry.path();
    ++count;
  }
  EXPECT_GT(count, 2);
}

TEST(ShardedWeights, GiveTheSameOutputAndHoldTwoLayersAtATime) {
  const auto whole = six_layers();
  const Batch batch = random_batch({9, 5}, 23);
  const at::NoGradGuard no_grad;
  const at::Tensor expected = testing::logits_of(*whole, batch);
  const std::int64_t layer = layer_bytes(*whole);
  dist::run_ranks(3, [&](dist::Communicator& world) {
    const auto model = six_layers();
    adapters::train_all(*model);
    const auto gradients = shared(*model, world);
    const std::int64_t shares = weights_of(*model)->bytes();
    const std::int64_t tables = 2 * 23 * 16 * 4;
    EXPECT_GE(shares, (kLayers * layer + tables) / 3);
    EXPECT_LT(shares, (kLayers * layer + tables) / 3 + (kLayers + 2) * 512);  // What is beyond is alignment.
    for (int pass = 0; pass < 2; ++pass) {
      EXPECT_TRUE(at::equal(testing::logits_of(*model, batch), expected));
      EXPECT_LE(weights_of(*model)->bytes(), shares + 2 * (layer + 512));
    }
    at::Tensor first;
    model->find("model.layers.0.mlp")->visit_all([&](at::Tensor& tensor) { first = tensor; });
    EXPECT_EQ(first.dim(), 2);
    EXPECT_THROW((void)first.sum(), c10::Error) << "its data is on other ranks";
    EXPECT_THROW(weights_of(*model)->fetch(first), StateError) << "outside of lead()";
  });
}

// As when a base is shared out while it is read, and then some of it is to be trained.
TEST(ShardedWeights, MayBeSharedBeforeItIsKnownWhatIsTrained) {
  const auto whole = six_layers();
  const Batch batch = random_batch({9, 5}, 23);
  adapters::train_all(*whole);
  const at::Tensor expected = testing::logits_of(*whole, batch);
  expected.pow(2).sum().backward();
  for (const bool all : {true, false}) {
    SCOPED_TRACE(all);
    dist::run_ranks(3, [&](dist::Communicator& world) {
      const auto model = six_layers();
      ShardedWeights::attach(*model, borrowed(world))->share_rest();
      adapters::train_all(*model);
      if (!all) adapters::freeze(*model, {"embed_tokens", "layers.1", "self_attn"});
      const auto gradients = shared(*model, world);
      optim::AdamW optimizer({{"all", gradients->own_parameters()}}, {});
      gradients->set_optimizer(optimizer);
      gradients->begin(1);
      gradients->before_backward(true);
      const at::Tensor logits = testing::logits_of(*model, batch);
      EXPECT_TRUE(at::equal(logits, expected));
      logits.pow(2).sum().backward();
      gradients->after_backward();
      gradients->finish();
      std::map<std::string, at::Tensor> wanted;
      for (const optim::Parameter& parameter : adapters::trainable_parameters(*whole))
        wanted[parameter.name] = parameter.tensor.grad();
      for (std::size_t i = 0; i < optimizer.parameters().size(); ++i) {
        const std::string& name = optimizer.parameters()[i].name;
        const dist::Slice slice = *gradients->slice_of(name);
        const at::Tensor one = wanted.at(name).reshape(-1).narrow(0, slice.begin, slice.end - slice.begin);
        // Every rank has gone over the same batch.
        EXPECT_LT((optimizer.gradients()[i] - 3 * one).abs().max().item<double>(),
                  1e-4 * (1 + one.abs().max().item<double>()))
            << name;
      }
    });
  }
}

TEST(ShardedWeights, GenerateWithACache) {
  const Batch batch = random_batch({9}, 23);
  dist::run_ranks(2, [&](dist::Communicator& world) {
    const auto model = six_layers();
    models::KeyValueCache all;
    const at::Tensor expected = model->forward_cached(batch.input_ids, all);
    const auto weights = ShardedWeights::attach(*model, borrowed(world));
    weights->share_rest();
    models::KeyValueCache cache;
    EXPECT_TRUE(at::equal(model->forward_cached(batch.input_ids, cache), expected));
  });
}

// Forward gathers every unit, backward all but the two that are still there, down to the embedding; the next
// micro-batch begins with the two that backward has ended with.
TEST(ShardedWeights, MoveWhatWasReckoned) {
  constexpr std::int64_t kRanks = 4;
  for (const bool lora : {false, true}) {
    SCOPED_TRACE(lora);
    dist::run_ranks(kRanks, [&](dist::Communicator& world) {
      const auto model = six_layers();
      if (lora) {
        models::quantize(*model);
        adapters::LoraOptions options;
        options.target_modules = {"q_proj", "down_proj"};
        adapters::attach(*model, options, 3);
      } else {
        adapters::train_all(*model);
      }
      RankGradients gradients(adapters::trainable_parameters(*model), model.get(), borrowed(world),
                              by_layers(), true);
      optim::AdamW optimizer({{"all", gradients.own_parameters()}}, {});
      gradients.set_optimizer(optimizer);
      const auto block = [](const std::vector<at::Tensor>& tensors) {
        return tensors.empty() ? 0 : dist::lay_out(tensors, kRanks).numel * tensors.front().element_size();
      };
      struct Bytes {
        std::int64_t trained = 0;
        std::int64_t all = 0;
      };
      const auto bytes_of = [&](const char* unit) {
        std::map<at::ScalarType, std::vector<at::Tensor>> frozen;
        std::vector<at::Tensor> trained;
        model->find(unit)->visit_all([&](at::Tensor& tensor) {
          if (tensor.requires_grad())
            trained.insert(trained.begin(), tensor);  // Buckets go from the end.
          else
            frozen[tensor.scalar_type()].push_back(tensor);
        });
        Bytes bytes{block(trained), block(trained)};
        for (const auto& [type, tensors] : frozen) bytes.all += block(tensors);
        return bytes;
      };
      const Bytes layer = bytes_of("model.layers.0");
      const Bytes embedding = bytes_of("model.embed_tokens");
      const Bytes head = bytes_of("lm_head");
      const std::int64_t norm = bytes_of("model.norm").trained;
      const Batch batch = random_batch({9, 5}, 23);
      const auto moved = [&](const char* kind) {
        const auto& traffic = world.traffic();
        return traffic.count(kind) > 0 ? traffic.at(kind).bytes : 0;
      };
      for (int step = 0; step < 2; ++step) {
        std::int64_t gathered = moved("all_gather");
        const std::int64_t scattered = moved("reduce_scatter");
        gradients.begin(2);
        for (const bool last : {false, true}) {
          gradients.before_backward(last);
          testing::logits_of(*model, batch).pow(2).sum().backward();
          gradients.after_backward();
        }
        // An update leaves frozen weights that are there as they are; trained ones come anew.
        const std::int64_t first_two =
            step == 0 ? embedding.all + layer.all : embedding.trained + layer.trained;
        const std::int64_t up = (kLayers - 1) * layer.all + head.all;
        const std::int64_t down = (kLayers - 1) * layer.all + embedding.all;
        EXPECT_EQ(moved("all_gather") - gathered, first_two + 2 * (up + down));
        EXPECT_EQ(moved("reduce_scatter") - scattered,
                  2 * (embedding.trained + kLayers * layer.trained + norm + head.trained));
        gradients.finish();
        optimizer.step(1e-3, 1);
        gathered = moved("all_gather");
        gradients.share_update();
        EXPECT_EQ(moved("all_gather") - gathered, norm) << "units come when they are entered";
      }
    });
  }
}

TEST(ShardedWeights, AreSavedAsOneModelLayerByLayer) {
  const TemporaryFolder folder;
  const std::filesystem::path path(folder.path());
  hub::SaveOptions save;
  save.max_shard_bytes = 20'000;
  for (const bool convert : {false, true}) {
    save.dtype = convert ? std::optional(at::kBFloat16) : std::nullopt;
    const std::string kind = convert ? "bfloat16" : "as it is";
    hub::save_model(path / ("one " + kind), *six_layers(), nullptr, save);
    dist::run_ranks(3, [&](dist::Communicator& world) {
      const auto model = six_layers();
      adapters::train_all(*model);
      const auto gradients = shared(*model, world);
      const std::int64_t shares = weights_of(*model)->bytes();
      weights_of(*model)->lead([&] {
        ASSERT_EQ(world.rank(), 0);
        hub::save_model(path / ("three " + kind), *model, nullptr, save);
      });
      EXPECT_LE(weights_of(*model)->bytes(), shares + 2 * (layer_bytes(*model) + 512));
    });
    expect_same_files(path / ("one " + kind), path / ("three " + kind));
  }
}

TEST(ShardedWeights, AreSavedAsOneAdapter) {
  const TemporaryFolder folder;
  const std::filesystem::path path(folder.path());
  adapters::LoraOptions options;
  options.target_modules = {"q_proj", "lm_head"};
  options.init_lora_weights = "false";
  const auto adapted = [&] {
    auto model = six_layers();
    models::quantize(*model);
    adapters::attach(*model, options, 3);
    return model;
  };
  hub::save_adapter(path / "one", *adapted(), options, "base");
  dist::run_ranks(2, [&](dist::Communicator& world) {
    const auto model = adapted();
    const auto gradients = shared(*model, world);
    weights_of(*model)->lead([&] { hub::save_adapter(path / "two", *model, options, "base"); });
  });
  EXPECT_EQ(contents(path / "one" / "adapter_model.safetensors"),
            contents(path / "two" / "adapter_model.safetensors"));
}

TEST(ShardedWeights, TellTheOthersWhereTheLeaderFails) {
  std::atomic<int> returned{0};
  const auto lead = [&] {
    dist::run_ranks(3, [&](dist::Communicator& world) {
      const auto model = six_layers();
      const auto weights = ShardedWeights::attach(*model, borrowed(world));
      weights->share_rest();
      weights->lead([] { throw IoError("the disk is full"); });
      ++returned;
    });
  };
  EXPECT_THAT(lead, ::testing::ThrowsMessage<IoError>(HasSubstr("the disk is full")));
  EXPECT_EQ(returned, 2);
}

TEST(ShardedWeights, NeedLayers) {
  dist::run_ranks(2, [&](dist::Communicator& world) {
    nn::Linear linear(4, 4, false);
    linear.weight.zero_();
    adapters::train_all(linear);
    EXPECT_THROW(
        RankGradients(adapters::trainable_parameters(linear), &linear, borrowed(world), by_layers(), true),
        UnsupportedError);
    EXPECT_THROW(
        RankGradients(adapters::trainable_parameters(linear), nullptr, borrowed(world), by_layers(), true),
        StateError);
  });
}

}  // namespace
}  // namespace bitrain::train
