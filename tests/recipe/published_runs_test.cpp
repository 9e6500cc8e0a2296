#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/strings.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/models/quantize.h>
#include <bitrain/recipe/cluster_plan.h>

// Runs that others published (and one of ours), beside what the model says of them with its default rates.
// docs/scaling.md shows the tables; they are made here.
namespace bitrain::recipe {
namespace {

using ::testing::HasSubstr;

models::LlamaConfig llama(std::int64_t layers, std::int64_t hidden, std::int64_t intermediate,
                          std::int64_t heads, std::int64_t kv_heads, std::int64_t vocab, bool tied = false) {
  models::LlamaConfig config;
  config.num_hidden_layers = layers;
  config.hidden_size = hidden;
  config.intermediate_size = intermediate;
  config.num_attention_heads = heads;
  config.num_key_value_heads = kv_heads;
  config.vocab_size = vocab;
  config.tie_word_embeddings = tied;
  return config;
}

models::LlamaConfig llama2_7b() {
  return llama(32, 4096, 11008, 32, 32, 32000);
}
models::LlamaConfig llama3_8b() {
  return llama(32, 4096, 14336, 32, 8, 128256);
}
models::LlamaConfig llama3_70b() {
  return llama(80, 8192, 28672, 64, 8, 128256);
}
models::LlamaConfig llama32_3b() {
  models::LlamaConfig config = llama(28, 3072, 8192, 24, 8, 128256, true);
  config.head_dim = 128;
  return config;
}
models::LlamaConfig qwen25_7b() {
  models::LlamaConfig config = llama(28, 3584, 18944, 28, 4, 152064);
  config.model_type = "qwen2";
  return config;
}
models::LlamaConfig qwen25_32b() {
  models::LlamaConfig config = llama(64, 5120, 27648, 40, 8, 152064);
  config.model_type = "qwen2";
  return config;
}
models::LlamaConfig qwen_7b() {
  return llama(32, 4096, 11008, 32, 32, 151936);
}
/// GPT-2's two maps of 4 D are as many weights as a SwiGLU's three of 8/3 D.
models::LlamaConfig gpt2_1558m() {
  return llama(48, 1600, 4267, 25, 25, 50304, true);
}

const std::vector<std::string> kAll = {"all-linear"};
const std::vector<std::string> kTorchtune = {"q_proj",    "v_proj",  "o_proj",
                                             "gate_proj", "up_proj", "down_proj"};

enum class Method { kFull, kLora, kQlora };

struct Run {
  std::string name;
  models::LlamaConfig config;
  Method method = Method::kFull;
  std::int64_t r = 16;
  std::vector<std::string> targets = kAll;
  std::string gpu = "h100";
  std::int64_t nodes = 1;
  std::int64_t gpus = 1;
  std::string shard = "none";
  std::int64_t context = 1;
  std::int64_t sequence = 4096;
  std::int64_t rows = 1;   ///< Of a step, all ranks.
  std::int64_t micro = 1;  ///< Of a rank, or of a context group.
  bool recompute = false;
  double tokens_per_second_gpu = 0;  ///< Published; 0: not, or not comparable.
  double memory_gib = 0;             ///< Likewise.
  std::int64_t bucket_mib = 25;
};

/// From /docs/scaling.md's sources; see there for what is not said and was taken to be so.
std::vector<Run> runs() {
  return {
      // NeMo AutoModel, docs/performance-summary.mdx and examples/llm_benchmark, DGX H100, bf16.
      {"NeMo Llama-3-8B LoRA", llama3_8b(), Method::kLora, 16, kAll, "h100", 1, 1, "none", 1, 4096, 32, 2,
       false, 12472.87, 0},
      {"NeMo Qwen2.5-7B LoRA", qwen25_7b(), Method::kLora, 16, kAll, "h100", 1, 1, "none", 1, 4096, 32, 2,
       false, 14110.05, 0},
      {"NeMo Qwen2.5-32B LoRA (a)", qwen25_32b(), Method::kLora, 16, kAll, "h100", 1, 8, "parameters", 1,
       4096, 32, 2, true, 2250.31, 0},
      {"NeMo Llama-3-70B LoRA (a)", llama3_70b(), Method::kLora, 16, kAll, "h100", 1, 8, "parameters", 1,
       4096, 32, 2, true, 1091.85, 0},
      {"NeMo Llama-3-70B LoRA (a)", llama3_70b(), Method::kLora, 16, kAll, "h100", 2, 8, "parameters", 1,
       4096, 32, 2, true, 984.85, 0},
      {"NeMo Llama-3-70B full (b)",
       llama3_70b(),
       Method::kFull,
       0,
       {},
       "h100",
       8,
       8,
       "parameters",
       2,
       8192,
       128,
       1,
       true,
       866.77,
       0},
      // torchtitan, benchmarks/llama3_h100_202412_torchtitan.md: 500 W, 2.4 TB/s; selective recomputation.
      {"torchtitan Llama-3.1-8B full, eager (c)",
       llama3_8b(),
       Method::kFull,
       0,
       {},
       "h100",
       1,
       8,
       "parameters",
       1,
       8192,
       16,
       2,
       false,
       5762,
       82.4},
      {"torchtitan Llama-3.1-8B full, compiled (c)",
       llama3_8b(),
       Method::kFull,
       0,
       {},
       "h100",
       1,
       8,
       "parameters",
       1,
       8192,
       16,
       2,
       false,
       6667,
       77.0},
      {"torchtitan Llama-3.1-8B full, compiled (c)",
       llama3_8b(),
       Method::kFull,
       0,
       {},
       "h100",
       16,
       8,
       "parameters",
       1,
       8192,
       256,
       2,
       false,
       6514,
       62.0},
      // llm.c, scripts/run_gpt2_1558M.sh: 2.80 s for 1,048,576 tokens.
      {"llm.c GPT-2 1558M full",
       gpt2_1558m(),
       Method::kFull,
       0,
       {},
       "h100",
       1,
       8,
       "optimizer",
       1,
       1024,
       1024,
       16,
       false,
       1048576 / 2.80 / 8,
       0},
      // fms-fsdp, README.md: 128 A100, 4,096 tokens; sharded in a node only, or everywhere (34B, 70B).
      {"fms-fsdp Llama-2-7B full (d)",
       llama2_7b(),
       Method::kFull,
       0,
       {},
       "a100-80",
       16,
       8,
       "parameters",
       1,
       4096,
       256,
       2,
       false,
       3760,
       0},
      {"fms-fsdp Llama-2-70B full",
       llama(80, 8192, 28672, 64, 8, 32000),
       Method::kFull,
       0,
       {},
       "a100-80",
       16,
       8,
       "parameters",
       1,
       4096,
       768,
       6,
       true,
       380,
       0},
      // torchtune, README.md, packed to 4,096, batch 2, compiled, chunked loss.
      {"torchtune Llama-3.2-3B full",
       llama32_3b(),
       Method::kFull,
       0,
       {},
       "a100-80",
       1,
       1,
       "none",
       1,
       4096,
       2,
       2,
       false,
       9174,
       0},
      {"torchtune Llama-3.2-3B full, recompute",
       llama32_3b(),
       Method::kFull,
       0,
       {},
       "a100-80",
       1,
       1,
       "none",
       1,
       4096,
       2,
       2,
       true,
       7210,
       0},
      {"torchtune Llama-3.2-3B LoRA (e)", llama32_3b(), Method::kLora, 8, kTorchtune, "a100-80", 1, 1, "none",
       1, 4096, 2, 2, true, 8210, 8.5},
      {"torchtune Llama-3.2-3B QLoRA (e)", llama32_3b(), Method::kQlora, 8, kTorchtune, "a100-80", 1, 1,
       "none", 1, 4096, 2, 2, true, 8035, 4.6},
      {"torchtune Llama-3.1-8B QLoRA", llama3_8b(), Method::kQlora, 8, kTorchtune, "rtx4090", 1, 1, "none", 1,
       2048, 2, 2, true, 2413, 7.4},
      // QwenLM/Qwen, README.md: Hugging Face and PEFT, one row at a time, 8 a step, recomputed.
      {"Qwen-7B LoRA, Hugging Face", qwen_7b(), Method::kLora, 64, kAll, "a100-80", 1, 1, "none", 1, 2048, 8,
       1, true, 8 * 2048 / 5.2, 23.8e9 / (1 << 30)},
      {"Qwen-7B LoRA, Hugging Face", qwen_7b(), Method::kLora, 64, kAll, "a100-80", 1, 1, "none", 1, 8192, 8,
       1, true, 8 * 8192 / 21.3, 36.6e9 / (1 << 30)},
      {"Qwen-7B QLoRA, Hugging Face (f)", qwen_7b(), Method::kQlora, 64, kAll, "a100-80", 1, 1, "none", 1,
       8192, 8, 1, true, 8 * 8192 / 22.3, 23.5e9 / (1 << 30)},
      // huggingface/peft, method_comparison: batches of 4 texts of about 210 tokens.
      {"PEFT Llama-3.2-3B LoRA, short texts",
       llama32_3b(),
       Method::kLora,
       32,
       {"q_proj", "v_proj"},
       "l40s",
       1,
       1,
       "none",
       1,
       210,
       4,
       4,
       false,
       4457,
       0},
      // docs/performance.md, measured by benchmarks/gpu.py.
      {"bitrain Llama-2-7B QLoRA", llama2_7b(), Method::kQlora, 64, kAll, "h200", 1, 1, "none", 1, 2048, 4, 4,
       false, 16500, 41.3},
      {"Hugging Face Llama-2-7B QLoRA", llama2_7b(), Method::kQlora, 64, kAll, "h200", 1, 1, "none", 1, 2048,
       4, 4, false, 9601, 84.6},
  };
}

StagePlan planned(const Run& run) {
  const auto model =
      models::make_llama(run.config, at::TensorOptions().dtype(at::kBFloat16).device(at::kMeta));
  if (run.method == Method::kFull) {
    adapters::train_all(*model);
  } else {
    if (run.method == Method::kQlora) models::quantize(*model);
    adapters::LoraOptions lora;
    lora.r = run.r;
    lora.target_modules = run.targets;
    adapters::attach(*model, lora, 0);
  }
  StageShape stage;
  stage.stage = run.name;
  stage.model = shape_of(*model);
  stage.trains = true;
  stage.loader.sequence_length = run.sequence;
  stage.loader.rows_per_step = run.rows;
  stage.loader.micro_batch_rows = run.micro;
  stage.train.max_steps = 1;
  stage.train.recompute = run.recompute;
  ClusterOptions cluster;
  cluster.gpu = find_gpu(run.gpu);
  cluster.nodes = run.nodes;
  cluster.gpus_per_node = run.gpus;
  cluster.parallel.shard = run.shard;
  cluster.parallel.context = run.context;
  cluster.parallel.bucket_mib = run.bucket_mib;
  return plan_stage(stage, cluster);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

std::string line_of(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string line_of(const char* format, ...) {
  char line[300];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  return line;
}

std::string thousands(double number) {
  return with_thousands(std::llround(number));
}

std::string gpus_of(const Run& run) {
  return c10::str(run.nodes * run.gpus, " ", run.gpu, run.nodes > 1 ? c10::str(" on ", run.nodes) : "");
}

/// The tables as docs/scaling.md has them, and the errors in percent.
struct Tables {
  std::string speed;
  std::string memory;
  std::vector<double> speed_errors;
  std::vector<double> memory_errors;
};

Tables tables() {
  Tables result;
  result.speed =
      "| run | GPUs, nodes | shard | tokens/s a GPU, published | estimated | error | fraction it would need "
      "|\n"
      "| --- | --- | --- | ---: | ---: | ---: | ---: |\n";
  result.memory = "| run | GPUs | published, GiB | estimated | error |\n| --- | --- | ---: | ---: | ---: |\n";
  for (const Run& run : runs()) {
    const StagePlan plan = planned(run);
    if (run.tokens_per_second_gpu > 0) {
      const double error = 100 * (plan.tokens_per_second_gpu / run.tokens_per_second_gpu - 1);
      // Compute is the only part that the fraction moves.
      const double compute = plan.time.forward + plan.time.backward + plan.time.recompute;
      const double rest = plan.time.total() - compute;
      const double published = plan.time.total() * plan.tokens_per_second_gpu / run.tokens_per_second_gpu;
      result.speed +=
          line_of("| %s | %s | %s%s | %s | %s | %+.0f %% | %.2f |\n", run.name.c_str(), gpus_of(run).c_str(),
                  run.shard.c_str(), run.context > 1 ? c10::str(", context ", run.context).c_str() : "",
                  thousands(run.tokens_per_second_gpu).c_str(), thousands(plan.tokens_per_second_gpu).c_str(),
                  error, Rates{}.compute * compute / (published - rest));
      result.speed_errors.push_back(error);
    }
    if (run.memory_gib > 0) {
      const double gib = static_cast<double>(plan.memory.total()) / (1 << 30);
      const double error = 100 * (gib / run.memory_gib - 1);
      result.memory +=
          line_of("| %s, %s tokens | %s | %.1f | %.1f | %+.0f %% |\n", run.name.c_str(),
                  with_thousands(run.sequence).c_str(), gpus_of(run).c_str(), run.memory_gib, gib, error);
      result.memory_errors.push_back(error);
    }
  }
  return result;
}

std::string errors_of(const std::vector<double>& errors) {
  std::vector<double> sizes;
  for (const double error : errors) sizes.push_back(std::fabs(error));
  return line_of("%zu rows: median error %+.0f %%, median size of the error %.0f %%, worst %.0f %%.",
                 errors.size(), median(errors), median(sizes), *std::max_element(sizes.begin(), sizes.end()));
}

/// What the model says from 1 to 1,024 H100: four rows a rank and step, two at a time.
std::string scaling_table() {
  struct Case {
    const char* name;
    models::LlamaConfig config;
    Method method;
    const char* shard;
    std::int64_t sequence;
    bool recompute;
  };
  const std::vector<Case> cases = {
      {"8B QLoRA", llama3_8b(), Method::kQlora, "none", 4096, false},
      {"8B full", llama3_8b(), Method::kFull, "gradients", 4096, true},
      {"8B full", llama3_8b(), Method::kFull, "parameters", 4096, true},
      {"70B full", llama3_70b(), Method::kFull, "parameters", 4096, true},
  };
  std::string text =
      "| Llama 3 | shard | GPUs | GiB a GPU | sent by a rank a step, GB | of it network, GB | tokens/s a GPU "
      "| MFU "
      "|\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  for (const Case& one : cases) {
    for (const std::int64_t gpus : {1, 8, 64, 256, 1024}) {
      Run run{one.name, one.config, one.method};
      run.nodes = std::max<std::int64_t>(1, gpus / 8);
      run.gpus = std::min<std::int64_t>(8, gpus);
      run.shard = gpus == 1 ? "none" : one.shard;
      if (gpus == 1 && run.shard != one.shard) continue;
      run.sequence = one.sequence;
      run.rows = 4 * gpus;
      run.micro = 2;
      run.recompute = one.recompute;
      run.bucket_mib = std::max<std::int64_t>(25, (gpus * 4000000 + (1 << 20) - 1) >> 20);
      const StagePlan plan = planned(run);
      std::uint64_t sent = 0;
      std::uint64_t network = 0;
      for (const Transfer& t : plan.transfers) {
        sent += t.sent;
        network += t.network;
      }
      text += line_of("| %s | %s | %s | %.1f%s | %.2f | %.2f | %s | %.0f %% |\n", one.name, one.shard,
                      with_thousands(gpus).c_str(), static_cast<double>(plan.memory.total()) / (1 << 30),
                      plan.fits() ? "" : ", does not fit", static_cast<double>(sent) * 1e-9,
                      static_cast<double>(network) * 1e-9, thousands(plan.tokens_per_second_gpu).c_str(),
                      100 * plan.mfu);
    }
  }
  return text;
}

TEST(PublishedRuns, ThePageShowsWhatTheModelSaysOfThem) {
  const Tables made = tables();
  std::ifstream file(std::string(BITRAIN_SOURCE_DIR) + "/docs/scaling.md");
  std::stringstream page;
  page << file.rdbuf();
  EXPECT_THAT(page.str(), HasSubstr(made.speed)) << "put this into docs/scaling.md:\n" << made.speed;
  EXPECT_THAT(page.str(), HasSubstr(errors_of(made.speed_errors))) << errors_of(made.speed_errors);
  EXPECT_THAT(page.str(), HasSubstr(made.memory)) << made.memory;
  EXPECT_THAT(page.str(), HasSubstr(errors_of(made.memory_errors))) << errors_of(made.memory_errors);
  EXPECT_THAT(page.str(), HasSubstr(scaling_table())) << scaling_table();
}

/// The default fraction is the median of what these rows need, to two places.
TEST(PublishedRuns, TheFractionIsNotFavourable) {
  EXPECT_LT(std::fabs(median(tables().speed_errors)), 3);
}

}  // namespace
}  // namespace bitrain::recipe
