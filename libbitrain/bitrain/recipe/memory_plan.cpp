#include <bitrain/recipe/memory_plan.h>

#include <cstdio>

#include <bitrain/base/checked.h>
#include <bitrain/base/strings.h>
#include <bitrain/recipe/stage_shapes.h>

namespace bitrain::recipe {

std::vector<MemoryPlan> memory_plan(const Recipe& recipe, const ShapeFault& on_fault) {
  std::vector<MemoryPlan> plans;
  for (const StageShape& shape : stage_shapes(recipe, on_fault)) {
    MemoryPlan plan;
    plan.stage = shape.stage;
    plan.type = shape.type;
    plan.parameters = shape.model.parameters;
    plan.weights = shape.model.weight_bytes;
    if (shape.trains) {
      plan.trained = shape.model.trained();
      plan.adapters = shape.model.adapter_bytes;
      // A gradient of the weight's type, two float32 moments, and beside a 16-bit weight its float32 master.
      plan.optimizer = static_cast<std::uint64_t>(shape.model.trained_16) * (2 + 8 + 4) +
                       static_cast<std::uint64_t>(shape.model.trained_32) * (4 + 8);
      const data::LoaderOptions& loader = shape.loader;
      const std::int64_t rows = loader.micro_batch_rows > 0 ? loader.micro_batch_rows : loader.rows_per_step;
      plan.activations =
          activation_bytes(shape.model,
                           checked_product({rows, shape.texts, loader.sequence_length},
                                           "rows in memory * texts of a row * sequence_length"),
                           shape.train.recompute);
    }
    plans.push_back(plan);
  }
  return plans;
}

std::string describe(const std::vector<MemoryPlan>& plans) {
  if (plans.empty()) return "";
  char line[200];
  std::snprintf(line, sizeof line, "  %-16s %-13s %12s %12s %10s %10s %10s %12s %10s\n", "stage", "type",
                "parameters", "trained", "weights", "adapters", "optimizer", "activations", "in all");
  std::string text = line;
  for (const MemoryPlan& plan : plans) {
    std::snprintf(line, sizeof line, "  %-16s %-13s %12s %12s %10s %10s %10s %12s %10s\n", plan.stage.c_str(),
                  plan.type.c_str(), with_thousands(plan.parameters).c_str(),
                  with_thousands(plan.trained).c_str(), human_bytes(plan.weights).c_str(),
                  human_bytes(plan.adapters).c_str(), human_bytes(plan.optimizer).c_str(),
                  human_bytes(plan.activations).c_str(), human_bytes(plan.total()).c_str());
    text += line;
  }
  return text;
}

}  // namespace bitrain::recipe
