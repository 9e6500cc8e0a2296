#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/models/quantize.h>

#include "case.h"
#include "cases/models.h"

namespace bitrain::benchmarks {
namespace {

void report_steps(const std::string& name, Steps& steps, double tokens, Figures figures) {
  steps();
  figures.insert(figures.begin(), {"first_step_seconds", seconds_since_start()});
  const Timing timing = time_calls(6, [&] { steps(); });
  figures.insert(figures.end(), {{"tokens_per_second", tokens / timing.best},
                                 {"median_tokens_per_second", tokens / timing.median}});
  report(name, figures);
}

}  // namespace

/// Full training of a 26 M model, 8 x 512 tokens a step.
void bench_train() {
  const auto model = make_model(384, 8, 6, 1024);
  adapters::train_all(*model);
  Steps steps(*model, random_batch(8, 512, 16000));
  report_steps("train", steps, 8 * 512, {});
}

/// QLoRA of a 136 M model: NF4 with double quantisation, rank 16 on all linear maps, 4 x 512 tokens a step.
void bench_qlora() {
  const auto model = make_model(1024, 8, 16, 2816);
  models::quantize(*model);
  adapters::LoraOptions lora;
  lora.r = 16;
  lora.lora_alpha = 32;
  lora.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  adapters::attach(*model, lora, 0);
  Steps steps(*model, random_batch(4, 512, 16000));
  report_steps("qlora", steps, 4 * 512, {});
}

}  // namespace bitrain::benchmarks
