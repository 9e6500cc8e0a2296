#include <bitrain/recipe/stage_context.h>

#include <cmath>
#include <map>

#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/eval/perplexity.h>
#include <bitrain/hub/peft.h>
#include <bitrain/recipe/stage_folders.h>
#include <bitrain/recipe/stage_kinds.h>

namespace bitrain::recipe {

at::ScalarType StageContext::dtype() const {
  return recipe.dtype == "float32" ? at::kFloat : at::kBFloat16;
}

at::Device StageContext::device() const {
  return at::Device(recipe.device);
}

data::LoaderRun StageContext::loader_run(std::int64_t steps) const {
  const std::int64_t context = recipe.parallel.context;
  if (ranks->size() % context != 0)
    throw ConfigError("parallel.context is ", context, ", which does not divide ", ranks->size(), " ranks");
  return {static_cast<std::uint64_t>(recipe.seed),
          steps,
          {ranks->rank() / context, ranks->size() / context},
          {ranks->rank() % context, context}};
}

std::filesystem::path StageContext::directory_of(const std::string& stage_name) const {
  return stage_name == "base" ? std::filesystem::path(recipe.base) : stage_directory(recipe, stage_name);
}

std::optional<quant::QuantizeOptions> quantize_options(const QuantizationOptions& options) {
  if (!options.enabled) return std::nullopt;
  return quant::QuantizeOptions{options.type == "fp4" ? quant::QuantType::kFp4 : quant::QuantType::kNf4,
                                options.block_size, options.double_quant};
}

hub::OpenedModel open_stage_model(const StageContext& context, const std::string& stage_name) {
  hub::OpenOptions options;
  options.dtype = context.dtype();
  options.device = context.device();
  const Stage* stage = context.recipe.find(stage_name);
  if (stage == nullptr || leaves(stage->options) != Leaves::kAdapter)
    return hub::open_model(context.directory_of(stage_name), options);
  const auto* cpt = std::get_if<CptStage>(&stage->options);
  options.quantize =
      quantize_options(cpt != nullptr ? cpt->quantize : std::get<SftStage>(stage->options).quantize);
  hub::OpenedModel opened = hub::open_model(context.directory_of(stage->from), options);
  hub::load_adapter(context.directory_of(stage_name), *opened.model);
  return opened;
}

io::Json score_held_out(const StageContext& context, models::LanguageModel& model,
                        const text::Tokenizer& tokenizer, const eval::PerplexityOptions& options) {
  const at::NoGradGuard no_grad;
  const Recipe& recipe = context.recipe;
  const std::map<std::string, std::vector<std::string>> documents = {
      {recipe.source.language, context.held_out->of(false)},
      {recipe.target.language, context.held_out->of(true)}};
  const auto scores = eval::perplexity(model, tokenizer, documents, options);
  io::Json json = io::Json::object();
  for (const std::string& language : {recipe.source.language, recipe.target.language}) {
    const eval::LanguageScore& score = scores.at(language);
    json[language] = {{"loss_per_token", score.loss_per_token},
                      {"bits_per_byte", score.bits_per_byte},
                      {"tokens", score.tokens},
                      {"bytes", score.bytes}};
  }
  return json;
}

void warn_of_scores(StageContext& context, const io::Json& languages, const std::string& when) {
  if (context.ranks->rank() > 0) return;
  for (const auto& [language, score] : languages.items()) {
    const io::Json bits = score.value("bits_per_byte", io::Json());
    const std::string problem =
        eval::worse_than_no_model(language, bits.is_number() ? bits.get<double>() : std::nan(""));
    if (problem.empty() || !context.warned.insert(language).second) continue;
    log_warn("stage ", context.stage.name, ", ", when, ": ", problem);
  }
}

}  // namespace bitrain::recipe
