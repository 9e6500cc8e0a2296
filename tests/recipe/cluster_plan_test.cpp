#include <bitrain/recipe/cluster_plan.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/models/quantize.h>
#include <bitrain/recipe/cluster_report.h>
#include <bitrain/recipe/memory_plan.h>

#include "support/temporary_directory.h"

namespace bitrain::recipe {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr std::uint64_t kGib = std::uint64_t{1} << 30U;

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

/// Easy numbers: 1,000,000 weights of 2 layers, all trained in 16 bits.
StageShape full() {
  StageShape stage;
  stage.stage = "pretrain";
  stage.type = "pretrain";
  stage.trains = true;
  ModelShape& m = stage.model;
  m.layers = 2;
  m.hidden = 64;
  m.heads = 8;
  m.kv_heads = 4;
  m.head_width = 8;
  m.parameters = 1000000;
  m.linear = 800000;
  m.linear_trained = 800000;
  m.head = 100000;
  m.head_trained = true;
  m.weight_bytes = 2000000;
  m.trained_16 = 1000000;
  m.pieces = 5;
  m.layer_bytes = 800000;
  m.largest_piece = 900000;
  m.kept = 1000;
  m.inputs = 100;
  m.logits = 5000;
  stage.loader.sequence_length = 100;
  stage.loader.rows_per_step = 64;
  stage.loader.micro_batch_rows = 2;
  stage.train.max_steps = 10;
  return stage;
}

/// QLoRA on it: 4-bit weights in 400,000 bytes, 10,000 adapter weights in float32.
StageShape adapters_only() {
  StageShape stage = full();
  ModelShape& m = stage.model;
  m.linear_trained = 0;
  m.head_trained = false;
  m.adapter = 10000;
  m.adapter_bytes = 40000;
  m.quantized = 800000;
  m.quantized_bytes = 400000;
  m.decoded_bytes = 20000;
  m.weight_bytes = 800000;
  m.trained_16 = 0;
  m.trained_32 = 10000;
  return stage;
}

/// 2 nodes of 4 H100: 8 ranks, 8 rows a rank in 4 micro-batches.
ClusterOptions cluster(const std::string& shard = "none") {
  ClusterOptions options;
  options.gpu = find_gpu("h100");
  options.nodes = 2;
  options.gpus_per_node = 4;
  options.parallel.shard = shard;
  options.parallel.bucket_mib = 1;
  return options;
}

TEST(ClusterPlan, RanksShareTheRowsOfAStep) {
  const StagePlan plan = plan_stage(full(), cluster());
  EXPECT_EQ(plan.rows_per_step, 64);
  EXPECT_EQ(plan.rows_per_rank, 8);
  EXPECT_EQ(plan.micro_batch_rows, 2);
  EXPECT_EQ(plan.micro_batches, 4);
  EXPECT_THAT(plan.notes, IsEmpty());
  StageShape small = full();
  small.loader.rows_per_step = 5;
  const StagePlan idle = plan_stage(small, cluster());
  EXPECT_EQ(idle.rows_per_rank, 1);
  EXPECT_EQ(idle.micro_batch_rows, 1);
  EXPECT_THAT(idle.notes, ElementsAre(AllOf(HasSubstr("5 for 8"), HasSubstr("nothing to do"))));
}

TEST(ClusterPlan, MemoryOfARankInEachMode) {
  // Replicated: sums in float32 beside 16-bit gradients; two moments and a master.
  const RankMemory none = plan_stage(full(), cluster()).memory;
  EXPECT_EQ(none.weights, 2000000U);
  EXPECT_EQ(none.gradients, 6000000U);
  EXPECT_EQ(none.optimizer, 12000000U);
  EXPECT_EQ(none.activations, 200U * 2 * 1000 + 5000);
  EXPECT_EQ(none.gathered, 0U);
  EXPECT_EQ(none.buffers, 2U << 20U);
  EXPECT_EQ(none.runtime, kGib);
  EXPECT_EQ(none.total(),
            none.weights + none.gradients + none.optimizer + none.activations + none.buffers + kGib);

  const RankMemory zero1 = plan_stage(full(), cluster("optimizer")).memory;
  EXPECT_EQ(zero1.weights, 2000000U);
  EXPECT_EQ(zero1.gradients, 6000000U);
  EXPECT_EQ(zero1.optimizer, 12000000U / 8);

  const RankMemory zero2 = plan_stage(full(), cluster("gradients")).memory;
  EXPECT_EQ(zero2.weights, 2000000U);
  EXPECT_EQ(zero2.gradients, 4000000U / 8);
  EXPECT_EQ(zero2.optimizer, 12000000U / 8);

  const RankMemory zero3 = plan_stage(full(), cluster("parameters")).memory;
  EXPECT_EQ(zero3.weights, 2000000U / 8);
  EXPECT_EQ(zero3.gradients, 4000000U / 8);
  EXPECT_EQ(zero3.optimizer, 12000000U / 8);
  EXPECT_EQ(zero3.gathered, 900000U + 800000U);
  EXPECT_EQ(zero3.buffers, 2U * 1600000);  // A layer is two fifths of the weights.
}

TEST(ClusterPlan, OneRankIsWhatValidateSays) {
  ClusterOptions one = cluster("parameters");
  one.nodes = one.gpus_per_node = 1;
  StageShape stage = full();
  stage.loader.micro_batch_rows = 0;
  const StagePlan plan = plan_stage(stage, one);
  EXPECT_EQ(plan.micro_batches, 1);
  EXPECT_EQ(plan.memory.weights, 2000000U);
  EXPECT_EQ(plan.memory.gradients + plan.memory.optimizer, 14000000U);
  EXPECT_EQ(plan.memory.buffers + plan.memory.gathered, 0U);
  EXPECT_EQ(plan.memory.activations, activation_bytes(stage.model, 6400, false));
  EXPECT_THAT(plan.transfers, IsEmpty());
  EXPECT_EQ(plan.time.exposed, 0);
}

TEST(ClusterPlan, BytesOfDataParallelism) {
  const StagePlan plan = plan_stage(full(), cluster());
  ASSERT_EQ(plan.transfers.size(), 1U);
  const Transfer& t = plan.transfers[0];
  EXPECT_EQ(t.collective, "all_reduce");
  EXPECT_EQ(t.payload, 4000000U);  // Once a step, in float32.
  EXPECT_EQ(t.sent, 2U * 4000000 * 7 / 8);
  EXPECT_EQ(t.network, t.sent / 4);  // One hop of four leaves a node.
  EXPECT_EQ(t.inside, t.sent * 3 / 4);
  EXPECT_EQ(t.calls, 4);  // 4,000,000 bytes in pieces of 1 MiB.
  ClusterOptions narrow = cluster();
  narrow.parallel.reduce_dtype = "bfloat16";
  EXPECT_EQ(plan_stage(full(), narrow).transfers[0].payload, 2000000U);
  ClusterOptions single = cluster();
  single.nodes = 1;
  EXPECT_EQ(plan_stage(full(), single).transfers[0].network, 0U);
  single.nodes = 8;
  single.gpus_per_node = 1;
  EXPECT_EQ(plan_stage(full(), single).transfers[0].inside, 0U);
}

TEST(ClusterPlan, BytesOfZero) {
  const StagePlan zero1 = plan_stage(full(), cluster("optimizer"));
  ASSERT_EQ(zero1.transfers.size(), 2U);
  EXPECT_EQ(zero1.transfers[0].collective, "reduce_scatter");
  EXPECT_EQ(zero1.transfers[0].sent, 4000000U * 7 / 8);
  EXPECT_EQ(zero1.transfers[1].collective, "all_gather");
  EXPECT_EQ(zero1.transfers[1].sent, 2000000U * 7 / 8);

  const StagePlan zero2 = plan_stage(full(), cluster("gradients"));
  ASSERT_EQ(zero2.transfers.size(), 2U);
  EXPECT_EQ(zero2.transfers[0].sent, 4U * 4000000 * 7 / 8);  // Four micro-batches.
  EXPECT_EQ(zero2.transfers[1].sent, 2000000U * 7 / 8);

  const StagePlan zero3 = plan_stage(full(), cluster("parameters"));
  ASSERT_EQ(zero3.transfers.size(), 3U);
  EXPECT_EQ(zero3.transfers[0].sent, 4U * 4000000 * 7 / 8);
  EXPECT_EQ(zero3.transfers[1].what, "weights, forward");
  EXPECT_EQ(zero3.transfers[1].sent, 4U * 2000000 * 7 / 8);
  EXPECT_EQ(zero3.transfers[1].calls, 4 * 5);
  EXPECT_EQ(zero3.transfers[0].calls, 4 * 5);
  EXPECT_EQ(zero3.transfers[2].sent, zero3.transfers[1].sent);
}

/// With one micro-batch and gradients in 16 bits, ZeRO-3 sends half as much again as data parallelism.
TEST(ClusterPlan, ParametersCostHalfAsMuchAgain) {
  StageShape stage = full();
  stage.loader.micro_batch_rows = 0;
  const auto sent = [&](const char* shard) {
    ClusterOptions options = cluster(shard);
    options.parallel.reduce_dtype = "bfloat16";
    std::uint64_t sum = 0;
    for (const Transfer& t : plan_stage(stage, options).transfers) sum += t.sent;
    return sum;
  };
  EXPECT_EQ(sent("none"), 2U * 2000000 * 7 / 8);
  EXPECT_EQ(sent("optimizer"), sent("none"));
  EXPECT_EQ(sent("gradients"), sent("none"));
  EXPECT_EQ(2 * sent("parameters"), 3 * sent("none"));
}

TEST(ClusterPlan, OnlyAdaptersTravelInQlora) {
  const StagePlan plan = plan_stage(adapters_only(), cluster());
  ASSERT_EQ(plan.transfers.size(), 1U);
  EXPECT_EQ(plan.transfers[0].sent, 2U * 40000 * 7 / 8);
  EXPECT_EQ(plan.memory.weights, 800000U);
  EXPECT_EQ(plan.memory.adapters, 40000U);
  EXPECT_EQ(plan.memory.gradients, 40000U);
  EXPECT_EQ(plan.memory.optimizer, 80000U);
  EXPECT_EQ(plan.memory.scratch, 20000U);
  // Sharded parameters gather what is frozen as well, as it is packed.
  const StagePlan zero3 = plan_stage(adapters_only(), cluster("parameters"));
  EXPECT_EQ(zero3.transfers[1].sent, 4U * 840000 * 7 / 8);
  EXPECT_EQ(zero3.memory.weights, 100000U);
}

TEST(ClusterPlan, BytesOfContext) {
  ClusterOptions options = cluster();
  options.parallel.context = 2;
  const StagePlan plan = plan_stage(full(), options);
  EXPECT_EQ(plan.groups, 4);
  EXPECT_EQ(plan.rows_per_rank, 16);
  EXPECT_EQ(plan.micro_batches, 8);
  ASSERT_EQ(plan.transfers.size(), 2U);
  const Transfer& t = plan.transfers[1];
  // 800 tokens a step, 2 layers, forward and backward, 8 + 8 heads and 4 + 4 of 8 in 2 bytes.
  EXPECT_EQ(t.payload, 800U * 2 * 2 * (2 * 8 + 2 * 4) * 8 * 2);
  EXPECT_EQ(t.sent, t.payload / 2);
  EXPECT_EQ(t.network, 0U);
  EXPECT_EQ(t.calls, 4 * 2 * 2 * 8);
  EXPECT_EQ(plan.memory.activations, 100U * 2 * 1000 + 5000);  // Half of the tokens.
  EXPECT_EQ(plan.memory.buffers, (2U << 20U) + 2 * 100 * 24 * 8 * 2);
  options.recompute = true;
  EXPECT_EQ(plan_stage(full(), options).transfers[1].payload, t.payload / 2 * 3);
  // Eight ranks on two nodes: three peers here, four there; four key heads become eight.
  options.parallel.context = 8;
  const Transfer across = plan_stage(full(), options).transfers[1];
  EXPECT_EQ(across.payload, 800U * 2 * 3 * (2 * 8 + 2 * 8) * 8 * 2);
  EXPECT_EQ(across.inside, across.payload * 3 / 8);
  EXPECT_EQ(across.network, across.payload * 4 / 8);
}

TEST(ClusterPlan, TimeByHand) {
  StageShape stage = full();
  ClusterOptions options = cluster();
  options.gpus_per_node = options.nodes = 1;
  options.rates = Rates{.compute = 0.5, .memory = 0.5, .link = 0.5, .launch_us = 0};
  const StagePlan plan = plan_stage(stage, options);
  const double attention = 2.0 * 100 * 64 * 2;
  const double forward = 2.0 * 900000 + attention;
  const double backward = 4.0 * 900000 + 2.5 * attention;
  const double rate = 989.4e12 * 0.5;
  EXPECT_NEAR(plan.time.forward, 6400 * forward / rate, 1e-12);
  EXPECT_NEAR(plan.time.backward, 6400 * backward / rate, 1e-12);
  EXPECT_NEAR(plan.time.optimizer, 28e6 / (3350e9 * 0.5), 1e-12);
  EXPECT_EQ(plan.time.recompute, 0);
  EXPECT_NEAR(plan.mfu, 6400 * (6.0 * 900000 + 3 * attention) / plan.time.total() / 989.4e12, 1e-9);
  EXPECT_NEAR(plan.tokens_per_second, 6400 / plan.time.total(), 1e-3);
  EXPECT_EQ(plan.steps, 10);
  EXPECT_EQ(plan.tokens, 64000);
  EXPECT_NEAR(plan.seconds, 10 * plan.time.total(), 1e-9);
  options.recompute = true;
  EXPECT_NEAR(plan_stage(stage, options).time.recompute, 6400 * (2.0 * 800000 + attention) / rate, 1e-12);

  const StagePlan qlora = plan_stage(adapters_only(), options);
  EXPECT_NEAR(qlora.time.backward, 6400 * (2.0 * 900000 + 4.0 * 10000 + 2.5 * attention) / rate, 1e-12);
  // Three passes of 32 micro-batches: packed bytes are read, two bytes a weight written.
  EXPECT_NEAR(qlora.time.decode, 32 * 3 * (400000 + 1600000) / (3350e9 * 0.5), 1e-12);
  options.rates.launch_us = 5;
  EXPECT_NEAR(plan_stage(adapters_only(), options).time.total() - qlora.time.optimizer, 32 * 2 * 80 * 5e-6,
              1e-9);
}

TEST(ClusterPlan, TransfersByHand) {
  ClusterOptions options = cluster();
  options.rates.link = 0.5;
  const Transfer t = plan_stage(full(), options).transfers[0];
  // 50 GB/s of network and 450 of NVLink, halved.
  const double network = static_cast<double>(t.network) / 25e9;
  EXPECT_GT(network, static_cast<double>(t.inside) / 225e9);
  // A tree in LL128.
  EXPECT_NEAR(t.seconds, network / (0.9 * 0.915) + 4 * (4.4 + 2 * (3 * 1.2 + 8.5)) * 1e-6, 1e-12);
  const Transfer scattered = plan_stage(full(), cluster("optimizer")).transfers[0];
  // A ring in LL, with a quarter of the bandwidth.
  EXPECT_NEAR(scattered.seconds,
              static_cast<double>(scattered.network) / 40e9 / 0.25 + 4 * (3.6 + 6 * 0.47 + 1 * 2.7) * 1e-6,
              1e-12);
}

/// A gather from 8 GPUs of one node: few bytes go by LL, many by Simple; without NVLink LL128 is not there.
TEST(ClusterPlan, TheQuickestProtocolIsTaken) {
  ClusterOptions options = cluster("parameters");
  options.nodes = 1;
  options.gpus_per_node = 8;
  options.rates.link = 1;
  const auto call = [&](std::uint64_t bytes) {
    StageShape stage = full();
    stage.model.weight_bytes = bytes;
    const Transfer t = plan_stage(stage, options).transfers[2];
    return t.seconds / static_cast<double>(t.calls) * 1e6;
  };
  EXPECT_NEAR(call(0), 3.6 + 7 * 0.47, 1e-9);
  const double gigabyte = 5e9 * 7 / 8 / 5 / 450e9 * 1e6;  // In five pieces.
  EXPECT_NEAR(call(5000000000), gigabyte + 8.4 + 7 * 3.4, 1e-6);
  options.gpu = find_gpu("l40s");
  EXPECT_NEAR(call(0), 3.6 + 7 * 1.0, 1e-9);
}

TEST(ClusterPlan, ManyRanksWantLargerBuckets) {
  ClusterOptions options = cluster("gradients");
  options.nodes = 128;
  options.gpus_per_node = 8;
  StageShape stage = full();
  stage.loader.rows_per_step = 1024;
  stage.model.trained_16 = 1000000000;
  EXPECT_THAT(plan_stage(stage, options).notes, ElementsAre(HasSubstr("try --bucket-mib 3907")));
  options.parallel.bucket_mib = 3907;
  EXPECT_THAT(plan_stage(stage, options).notes, IsEmpty());
}

TEST(ClusterPlan, WhatHides) {
  // Long compute: all but the last bucket hides. No compute: nothing does.
  StageShape stage = full();
  stage.loader.sequence_length = 1000000;
  const StagePlan slow = plan_stage(stage, cluster());
  EXPECT_NEAR(slow.time.exposed, slow.time.transfer / 4, 1e-12);
  stage.loader.sequence_length = 2;
  const StagePlan quick = plan_stage(stage, cluster());
  EXPECT_NEAR(quick.time.exposed, quick.time.transfer, 0.02 * quick.time.transfer);
  // The all-gather of ZeRO-1 and all-to-alls never hide.
  stage.loader.sequence_length = 1000000;
  ClusterOptions options = cluster("optimizer");
  options.parallel.context = 2;
  const StagePlan plan = plan_stage(stage, options);
  EXPECT_NEAR(plan.time.exposed,
              plan.transfers[0].seconds / 4 + plan.transfers[1].seconds + plan.transfers[2].seconds, 1e-9);
}

TEST(ClusterPlan, GradCacheGoesForwardTwice) {
  StageShape stage = full();
  stage.embeds_first = true;
  ClusterOptions options = cluster("parameters");
  const StagePlan plan = plan_stage(stage, options);
  EXPECT_EQ(plan.transfers[1].sent, 2 * plan.transfers[2].sent);
  EXPECT_GT(plan.time.recompute, 0);
  stage.loader.micro_batch_rows = 0;  // One micro-batch is computed once.
  EXPECT_EQ(plan_stage(stage, options).time.recompute, 0);
}

TEST(ClusterPlan, SaysWhatWouldFit) {
  StageShape stage = full();
  stage.model.weight_bytes = 20 * kGib;
  stage.model.trained_16 = 10 * static_cast<std::int64_t>(kGib);
  const StagePlan plan = plan_stage(stage, cluster());
  EXPECT_FALSE(plan.fits());
  EXPECT_THAT(plan.remedy, AllOf(HasSubstr("it fits with parallel.shard=gradients:"), HasSubstr("GiB"),
                                 Not(HasSubstr("parameters"))));
  ClusterOptions advised = cluster("gradients");
  EXPECT_TRUE(plan_stage(stage, advised).fits());
  EXPECT_THAT(plan_stage(stage, advised).remedy, IsEmpty());
  ClusterOptions one = cluster();
  one.nodes = one.gpus_per_node = 1;
  EXPECT_THAT(plan_stage(stage, one).remedy, HasSubstr("take GPUs with more memory"));
  stage = full();
  stage.loader.micro_batch_rows = 8;
  stage.model.kept = kGib / 20;  // 800 tokens of two layers: 80 GiB.
  EXPECT_THAT(plan_stage(stage, cluster()).remedy,
              HasSubstr("it fits with stages.pretrain.loader.micro_batch_rows=4"));
}

TEST(ClusterPlan, ModelsAreCountedAsTheyAre) {
  models::LlamaConfig config;
  config.num_hidden_layers = 2;
  config.hidden_size = 64;
  config.intermediate_size = 128;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.vocab_size = 100;
  const auto meta = at::TensorOptions().dtype(at::kBFloat16).device(at::kMeta);
  const std::int64_t layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128;
  const auto dense = models::make_llama(config, meta);
  adapters::train_all(*dense);
  const ModelShape shape = shape_of(*dense);
  EXPECT_EQ(shape.linear, 2 * layer);
  EXPECT_EQ(shape.linear_trained, 2 * layer);
  EXPECT_EQ(shape.head, 6400);
  EXPECT_TRUE(shape.head_trained);
  EXPECT_EQ(shape.trained_16, 2 * layer + 2 * 6400 + 5 * 64);
  EXPECT_EQ(shape.pieces, 5);  // Two layers, embedding, head, last norm.
  EXPECT_EQ(shape.layer_bytes, static_cast<std::uint64_t>(layer + 2 * 64) * 2);
  EXPECT_EQ(shape.largest_piece, shape.layer_bytes);

  config.tie_word_embeddings = true;
  const auto tied = models::make_llama(config, meta);
  models::quantize(*tied);
  adapters::LoraOptions lora;
  lora.r = 4;
  lora.target_modules = {"q_proj", "embed_tokens"};
  adapters::attach(*tied, lora, 0);
  const ModelShape adapted = shape_of(*tied);
  EXPECT_EQ(adapted.linear, 2 * layer);
  EXPECT_EQ(adapted.linear_trained, 0);
  EXPECT_EQ(adapted.quantized, 2 * layer);
  EXPECT_EQ(adapted.head, 6400);
  EXPECT_FALSE(adapted.head_trained);
  EXPECT_EQ(adapted.adapter, 2 * 4 * 128);  // The embedding's is looked up, not multiplied.
  EXPECT_EQ(adapted.trained_32, 2 * 4 * 128 + 4 * 164);
  EXPECT_EQ(adapted.adapter_bytes, static_cast<std::uint64_t>(adapted.trained_32) * 4);
  EXPECT_EQ(adapted.decoded_bytes, 64U * 128 * 2);
}

TEST(ClusterPlan, BadOptionsSayWhatIsWrong) {
  const auto with = [](const std::function<void(ClusterOptions&)>& change) {
    ClusterOptions options = cluster();
    change(options);
    return error_of([&] { (void)plan_stage(full(), options); });
  };
  EXPECT_THAT(with([](auto& o) { o.nodes = 0; }), HasSubstr("--nodes must be >= 1, got 0"));
  EXPECT_THAT(with([](auto& o) { o.gpus_per_node = -1; }), HasSubstr("--gpus-per-node must be >= 1, got -1"));
  EXPECT_THAT(with([](auto& o) { o.parallel.context = 3; }),
              HasSubstr("--context must divide the 8 ranks (2 nodes x 4 GPUs), got 3"));
  EXPECT_THAT(with([](auto& o) { o.parallel.context = 0; }), HasSubstr("got 0"));
  EXPECT_THAT(with([](auto& o) {
                o.nodes = 4;
                o.parallel.context = 16;
              }),
              HasSubstr("stages.pretrain: --context must not exceed the model's 8 attention heads, got 16"));
  EXPECT_THAT(with([](auto& o) { o.parallel.shard = "gradient"; }),
              AllOf(HasSubstr("none, optimizer"), HasSubstr("did you mean 'gradients'?")));
  EXPECT_THAT(with([](auto& o) { o.parallel.reduce_dtype = "bf16"; }), HasSubstr("float32 or bfloat16"));
  EXPECT_THAT(with([](auto& o) { o.parallel.bucket_mib = 0; }), HasSubstr("--bucket-mib"));
  EXPECT_THAT(with([](auto& o) { o.gpu.network_gbps = -1; }), HasSubstr("--network-gbps must be above 0"));
  EXPECT_THAT(with([](auto& o) { o.rates.compute = 1.5; }), HasSubstr("--compute-fraction"));
  EXPECT_THAT(with([](auto& o) { o.rates.link = std::nan(""); }), HasSubstr("--link-fraction"));
  EXPECT_THAT(error_of([] { (void)find_gpu("h10"); }),
              AllOf(HasSubstr("'h10'"), HasSubstr("did you mean 'h100'?"), HasSubstr("a100-80")));
  EXPECT_EQ(find_gpu("H200").name, "h200");
}

TEST(ClusterPlan, EncodersHaveNoContext) {
  StageShape stage = full();
  stage.model.causal = false;
  EXPECT_THAT(plan_stage(stage, cluster()).notes, ElementsAre(HasSubstr("a guess")));
  ClusterOptions options = cluster();
  options.parallel.context = 2;
  EXPECT_THAT(error_of([&] { (void)plan_stage(stage, options); }),
              HasSubstr("--context is for language models"));
  stage.tokens_are_unknown = "documents";
  EXPECT_EQ(plan_stage(stage, cluster()).no_time, "documents");
  stage = full();
  stage.model.element = 4;
  EXPECT_THAT(plan_stage(stage, cluster()).no_time, HasSubstr("not bfloat16"));
}

TEST(ClusterPlan, EncoderRecipes) {
  const test::TemporaryDirectory base;
  std::ofstream(base.path() / "config.json")
      << R"({"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6,
      "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": 30522})";
  ClusterOptions one = cluster();
  one.nodes = one.gpus_per_node = 1;
  one.gpu = find_gpu("h200");
  const auto plans = [&](const std::string& file, const ClusterOptions& options) {
    return plan_cluster(load_recipe(std::string(BITRAIN_SOURCE_DIR) + "/recipes/" + file,
                                    {"base=" + base.path().string(), "dtype=bfloat16"}),
                        options);
  };
  const std::vector<StagePlan> minilm = plans("encoders/minilm_en_es.yaml", one);
  ASSERT_EQ(minilm.size(), 1U);
  EXPECT_EQ(minilm[0].type, "contrastive");
  // Far above what was measured: docs/scaling.md says so, with this figure.
  EXPECT_NEAR(static_cast<double>(minilm[0].rows_per_step) / minilm[0].time.total(), 26000, 500);
  EXPECT_THAT(minilm[0].notes, Contains(HasSubstr("embeddings that ranks gather")));
  const StagePlan documents = plans("hmde/en_es.yaml", cluster()).back();
  EXPECT_EQ(documents.type, "document_encoder");
  EXPECT_THAT(documents.no_time, HasSubstr("documents of several sentences"));
  EXPECT_GT(documents.memory.weights, 0U);
}

TEST(ClusterPlan, TheQuickstartAsTextAndJson) {
  const Recipe recipe = load_recipe(std::string(BITRAIN_SOURCE_DIR) + "/recipes/quickstart/en_es.yaml");
  const std::vector<StagePlan> plans = plan_cluster(recipe, cluster("gradients"));
  ASSERT_EQ(plans.size(), 2U);
  EXPECT_EQ(plans[0].stage, "pretrain");
  EXPECT_EQ(plans[1].stage, "adapt");
  const std::vector<MemoryPlan> memory = memory_plan(recipe);
  EXPECT_EQ(plans[0].parameters, memory[1].parameters);
  EXPECT_EQ(plans[0].memory.weights, memory[1].weights);
  EXPECT_THAT(
      describe(plans, cluster("gradients")),
      AllOf(HasSubstr("no run of bitrain on several GPUs has been compared"), HasSubstr("adapt (cpt)"),
            HasSubstr("reduce_scatter, gradients"), HasSubstr("fits"), HasSubstr("tokens/s a GPU")));
  const io::Json json = to_json(plans, cluster("gradients"));
  EXPECT_EQ(json["stages"][1]["memory_bytes"]["total"], plans[1].memory.total());
  EXPECT_EQ(json["stages"][0]["transfers"][0]["sent_bytes"], plans[0].transfers[0].sent);
  EXPECT_EQ(json["measured"], false);
  Recipe empty = recipe;
  empty.stages.clear();
  EXPECT_THAT(error_of([&] { (void)plan_cluster(empty, cluster()); }), HasSubstr("no stage trains"));
}

}  // namespace
}  // namespace bitrain::recipe
