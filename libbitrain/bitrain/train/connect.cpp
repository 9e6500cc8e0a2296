#include <bitrain/train/connect.h>

#include <nlohmann/json.hpp>

namespace bitrain::train {

StepSource make_source(data::Loader& loader) {
  StepSource source;
  source.next_step = [&loader] { return loader.next_step(); };
  source.cursor = [&loader] { return data::to_json(loader.cursor()); };
  source.seek = [&loader](const nlohmann::ordered_json& cursor) {
    loader.seek(data::cursor_from_json(cursor));
  };
  source.languages = loader.languages();
  source.tokens_per_step = loader.tokens_per_step();
  return source;
}

std::function<LossSum(const Batch&, const nn::ForwardContext&)> make_loss(
    models::LanguageModel& model, const objectives::Objective& objective) {
  return [&model, &objective](const Batch& batch, const nn::ForwardContext& context) {
    return objective.loss(model, batch, context);
  };
}

}  // namespace bitrain::train
