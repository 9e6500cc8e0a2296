#include <bitrain/recipe/base_score.h>

#include <algorithm>
#include <filesystem>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>
#include <bitrain/base/log.h>
#include <bitrain/dist/gather_text.h>
#include <bitrain/io/file.h>
#include <bitrain/recipe/decode.h>
#include <bitrain/recipe/fingerprint.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

/// Whether a stage that ran before leaves figures of the model `from`, scored as every training stage scores.
bool has_scored(const Stage& stage, const std::string& from) {
  if (const auto* evaluate = std::get_if<EvaluateStage>(&stage.options))
    return stage.from == from && to_json(evaluate->perplexity) == to_json(eval::PerplexityOptions());
  const auto* pretrain = std::get_if<PretrainStage>(&stage.options);
  return pretrain != nullptr && stage.name == from && pretrain->train.eval_at_end;
}

/// The figures that the work folder has; an empty object where it has none that can be read.
io::Json kept_figures(const fs::path& file) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return io::Json::object();
  try {
    io::Json kept = io::read_json(file);
    if (kept.is_object()) return kept;
  } catch (const Error&) {
    // Made again below: nothing else depends on the file.
  }
  log_warn(file.string(), ": cannot be read; its figures are taken again");
  return io::Json::object();
}

}  // namespace

const Stage* stage_that_scores_the_base(const Recipe& recipe) {
  if (!has_lines(recipe)) return nullptr;
  const auto first = std::find_if(recipe.stages.begin(), recipe.stages.end(), [](const Stage& stage) {
    return is_one_of<ExtendStage, CptStage, SftStage>(stage.options);
  });
  if (first == recipe.stages.end()) return nullptr;
  const bool scored = std::any_of(recipe.stages.begin(), first,
                                  [&](const Stage& stage) { return has_scored(stage, first->from); });
  return scored ? nullptr : &*first;
}

io::Json figures_before(const StageContext& context, const std::string& name,
                        const std::function<io::Json()>& make) {
  dist::Communicator& ranks = *context.ranks;
  const fs::path file = context.work / kFiguresBefore;
  io::Json kept = ranks.rank() == 0 ? kept_figures(file) : io::Json::object();
  // What rank 0 has decides for all: scoring may be work that they do together.
  const std::string found =
      dist::broadcast_text(kept.contains(name) ? kept[name].dump() : "", 0, ranks, "figures before training");
  if (!found.empty()) return io::Json::parse(found);
  io::Json figures = make();
  if (ranks.rank() == 0) {
    kept[name] = figures;
    io::write_json(file, kept);
  }
  return figures;
}

void score_base(StageContext& context, models::LanguageModel& model, const text::Tokenizer& tokenizer,
                const std::string& weights) {
  const Stage* scoring = stage_that_scores_the_base(context.recipe);
  if (scoring == nullptr || scoring->name != context.stage.name) return;
  const io::Json languages =
      figures_before(context, "base", [&] { return score_held_out(context, model, tokenizer); });
  std::string figures;
  for (const auto& [language, score] : languages.items())
    if (score.value("bits_per_byte", io::Json()).is_number())
      figures += to_text(figures.empty() ? "" : ", ", language, " ",
                         format("%.3f", score["bits_per_byte"].get<double>()));
  log_info(context.stage.name, ": ", context.stage.from, " before training: ", figures, " bits per byte");
  warn_of_scores(context, languages, "before training");
  context.result["base"] = {{"model", context.stage.from}, {"weights", weights}, {"languages", languages}};
}

}  // namespace bitrain::recipe
