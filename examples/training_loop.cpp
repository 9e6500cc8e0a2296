// A training loop from parts, without a recipe: a mixture of two text files, packed rows, LoRA on a 4-bit
// base, AdamW.
//
//   example_training_loop MODEL_DIR SOURCE_TEXT TARGET_TEXT OUT_DIR [STEPS]

#include <cstdio>
#include <cstdlib>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/cpu_allocator.h>
#include <bitrain/base/error.h>
#include <bitrain/data/loader.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/hub/peft.h>
#include <bitrain/objectives/causal_lm.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/optim/schedule.h>
#include <bitrain/train/step.h>

namespace {

using namespace bitrain;

data::SourcePtr open_text(const char* path, const char* name) {
  data::SourceOptions options;
  options.path = path;
  options.name = name;
  options.language = name;
  return data::open_source(options);
}

void adapt(const char* model_dir, const char* source, const char* target, const char* out,
           std::int64_t steps) {
  // The model: base in NF4, adapters on all linear maps.
  hub::OpenOptions open;
  open.quantize.emplace();
  hub::OpenedModel opened = hub::open_model(model_dir, open);
  models::LanguageModel& model = *opened.model;
  adapters::LoraOptions lora;
  lora.r = 16;
  lora.lora_alpha = 32;
  lora.target_modules = {"all-linear"};
  adapters::attach(model, lora, /*seed=*/42);

  // The data: one part of the source language to four of the target.
  const std::vector<data::SourcePtr> sources{open_text(source, "source"), open_text(target, "target")};
  const objectives::CausalLm objective(opened.tokenizer, data::languages_of(sources));
  data::LoaderOptions loading;
  loading.sequence_length = 256;
  loading.rows_per_step = 4;
  loading.mixture.weights = {{"source", 1.0}, {"target", 4.0}};
  data::Loader loader(loading, sources,
                      [&](const data::Example& example) { return objective.encode(example); },
                      {.seed = 42, .total_steps = steps});

  // The loop: gradients of sums, divided once by the step's token count.
  optim::AdamW optimizer(optim::make_groups(adapters::trainable_parameters(model), {}));
  const auto loss = [&](const Batch& batch, const nn::ForwardContext& context) {
    return objective.loss(model, batch, context);
  };
  for (std::int64_t step = 0; step < steps; ++step) {
    const std::vector<Batch> batches = loader.next_step();
    if (batches.empty()) break;
    nn::ForwardContext context;
    context.training = true;
    context.dropout = {.seed = 42, .step = step};
    const train::StepSums sums = train::accumulate_gradients(batches, loss, context, optimizer, true);
    const double rate = 2e-4 * optim::schedule_factor({}, step, steps);
    optimizer.step(rate, 1.0 / sums.weight);
    optimizer.zero_grad();
    std::printf("step %lld  loss %.4f\n", static_cast<long long>(step + 1), sums.loss / sums.weight);
  }
  hub::save_adapter(out, model, lora, model_dir);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: %s MODEL_DIR SOURCE_TEXT TARGET_TEXT OUT_DIR [STEPS]\n", argv[0]);
    return 2;
  }
  install_cpu_allocator();
  try {
    adapt(argv[1], argv[2], argv[3], argv[4], argc > 5 ? std::atoll(argv[5]) : 20);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
