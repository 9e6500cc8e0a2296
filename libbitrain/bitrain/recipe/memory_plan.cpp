#include <bitrain/recipe/memory_plan.h>

#include <algorithm>
#include <cstdio>

#include <bitrain/base/strings.h>
#include <bitrain/recipe/stage_needs.h>
#include <bitrain/recipe/stage_shapes.h>
#include <bitrain/train/peak_memory.h>

namespace bitrain::recipe {

namespace {

/// What the first pass touches that a program which only reads a recipe has not: code of LibTorch and oneDNN,
/// kernels that are compiled, stacks of threads (measured, docs/memory.md).
constexpr std::uint64_t kFirstUse = std::uint64_t{24} << 20U;

/// A gradient of the weight's type, two float32 moments, and beside a 16-bit weight its float32 master. Of
/// several micro-batches, 16-bit gradients are summed in float32.
std::uint64_t optimizer_bytes(const StageShape& shape) {
  const data::LoaderOptions& loader = shape.loader;
  const bool sums = loader.micro_batch_rows > 0 && loader.micro_batch_rows < loader.rows_per_step &&
                    shape.train.accumulate_in_float32;
  return static_cast<std::uint64_t>(shape.model.trained_16) * (2 + 8 + 4 + (sums ? 4 : 0)) +
         static_cast<std::uint64_t>(shape.model.trained_32) * (4 + 8);
}

void add_model(const StageShape& shape, MemoryPlan& plan) {
  plan.parameters = shape.model.parameters;
  plan.weights = shape.model.weight_bytes;
  if (!shape.trains) return;
  plan.trained = shape.model.trained();
  plan.adapters = shape.model.adapter_bytes;
  plan.optimizer = optimizer_bytes(shape);
}

}  // namespace

std::vector<MemoryPlan> memory_plan(const Recipe& recipe, const ShapeFault& on_fault) {
  const bool cuda = recipe.device == "cuda";
  const std::uint64_t program = cuda ? 0 : train::resident_memory_bytes() + kFirstUse;
  const std::vector<StageShape> shapes = stage_shapes(recipe, on_fault);
  NeedsCounter counter(recipe);
  std::vector<MemoryPlan> plans;
  for (const Stage& stage : recipe.stages) {
    const auto shape = std::find_if(shapes.begin(), shapes.end(),
                                    [&](const StageShape& one) { return one.stage == stage.name; });
    const bool known = shape != shapes.end();
    MemoryPlan plan;
    plan.stage = stage.name;
    plan.type = stage.type;
    plan.program = program;
    if (known) add_model(*shape, plan);
    const StageNeeds needs = counter.needs_of(stage, known ? &*shape : nullptr);
    if (!cuda) plan.data = needs.data;
    plan.models = needs.models;
    plan.activations = needs.passes;
    plan.scoring = needs.scoring;
    plans.push_back(plan);
  }
  return plans;
}

std::string describe(const std::vector<MemoryPlan>& plans) {
  if (plans.empty()) return "";
  static constexpr char kLine[] = "  %-16s %-18s %12s %12s %9s %9s %9s %9s %9s %11s %9s %9s\n";
  char line[240];
  std::snprintf(line, sizeof line, kLine, "stage", "type", "parameters", "trained", "program", "data",
                "weights", "adapters", "optimizer", "activations", "scoring", "in all");
  std::string text = line;
  for (const MemoryPlan& plan : plans) {
    std::snprintf(line, sizeof line, kLine, plan.stage.c_str(), plan.type.c_str(),
                  with_thousands(plan.parameters).c_str(), with_thousands(plan.trained).c_str(),
                  human_bytes(plan.program).c_str(), human_bytes(plan.data).c_str(),
                  human_bytes(plan.weights + plan.models).c_str(), human_bytes(plan.adapters).c_str(),
                  human_bytes(plan.optimizer).c_str(), human_bytes(plan.activations).c_str(),
                  human_bytes(plan.scoring).c_str(), human_bytes(plan.total()).c_str());
    text += line;
  }
  return text;
}

}  // namespace bitrain::recipe
