#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/merge.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/io/temporary_directory.h>
#include <bitrain/models/quantize.h>

#include "case.h"
#include "cases/models.h"

namespace bitrain::benchmarks {

/// Rank 16 on all linear maps of an NF4 base of 136 M parameters: merged, packed in NF4 again and saved.
void bench_merge() {
  const auto model = make_model(1024, 8, 16, 2816);
  models::quantize(*model);
  adapters::LoraOptions lora;
  lora.r = 16;
  lora.lora_alpha = 32;
  lora.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  lora.init_lora_weights = "false";
  adapters::attach(*model, lora, 0);
  const io::TemporaryDirectory folder("bitrain-bench");
  const double begin = seconds_since_start();
  adapters::MergeOptions options;
  options.requantize = true;
  adapters::merge(*model, options);
  const double merged = seconds_since_start();
  hub::save_model(folder.path() / "merged", *model, nullptr);
  const double saved = seconds_since_start();
  report("merge", {{"merge_seconds", merged - begin}, {"seconds", saved - begin}});
}

}  // namespace bitrain::benchmarks
