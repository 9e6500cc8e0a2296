#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/printable.h>
#include <bitrain/base/strings.h>
#include <bitrain/data/inspect.h>
#include <bitrain/io/json.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/objectives/contrastive.h>
#include <bitrain/objectives/masked_lm.h>
#include <bitrain/recipe/encoder_stage.h>
#include <bitrain/recipe/sources.h>
#include <bitrain/recipe/stage_folders.h>
#include <bitrain/recipe/validate.h>

/// What `bitrain data inspect` shows: the first step of a stage.
namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

using Tokenizer = std::shared_ptr<const text::Tokenizer>;

fs::path folder_of(const Recipe& recipe, const Stage& stage) {
  return stage.from == "base" ? fs::path(recipe.base) : stage_directory(recipe, stage.from);
}

/// The micro-batches of the first step, shown one by one; then the shares.
std::string first_step(const Recipe& recipe, data::LoaderOptions options, const train::TrainOptions& train,
                       const std::vector<data::SourcePtr>& sources, const data::Encode& encode,
                       const std::function<std::string(const Batch&)>& render) {
  const std::int64_t tokens = options.rows_per_step * options.sequence_length;
  options.prefetch_threads = 0;
  data::Loader loader(options, sources, encode,
                      {static_cast<std::uint64_t>(recipe.seed), train::total_steps(train, tokens)});
  std::string text;
  for (const Batch& batch : loader.next_step()) text += render(batch);
  return text + printable(data::describe(loader.shares(), options.mixture.unit)) + "\n";
}

std::int64_t longest_text(const fs::path& folder) {
  const models::BertConfig config =
      models::bert_config_from_json(io::read_json(folder / "config.json"), (folder / "config.json").string());
  return config.max_position_embeddings - config.first_position();
}

/// What the teacher reads is left out: it may have a vocabulary of its own.
std::string inspect(const Recipe& recipe, const Stage& stage, const ContrastiveStage& options,
                    const data::InspectOptions& how) {
  const Tokenizer tokenizer = text::open_tokenizer(folder_of(recipe, stage));
  const std::vector<data::SourcePtr> sources = open_training_pairs(recipe, options);
  const std::vector<std::string> languages = encoder_languages(recipe, sources);
  objectives::ContrastiveOptions objective_options = options.objective;
  objective_options.contrast = 1;
  objective_options.distill_text = objective_options.distill_pair = 0;
  objective_options.max_length =
      std::min(objective_options.max_length, longest_text(folder_of(recipe, stage)));
  const objectives::Contrastive objective(tokenizer, languages, objective_options);
  return first_step(
      recipe, options.loader, options.train, sources,
      [&objective](const data::Example& example) { return objective.encode(example); },
      [&](const Batch& batch) { return data::render_batch(batch, *tokenizer, languages, how); });
}

std::string inspect(const Recipe& recipe, const Stage& stage, const MaskedLmStage& options,
                    data::InspectOptions how) {
  const Tokenizer tokenizer = text::open_tokenizer(folder_of(recipe, stage));
  const std::vector<data::SourcePtr> sources = open_masked_texts(recipe, options);
  const std::vector<std::string> languages = data::languages_of(sources);
  objectives::MaskedLmOptions objective_options = options.objective;
  objective_options.max_length =
      std::min(objective_options.max_length, longest_text(folder_of(recipe, stage)));
  const objectives::MaskedLm objective(tokenizer, languages, static_cast<std::uint64_t>(recipe.seed),
                                       objective_options);
  how.in_place = true;
  return first_step(
      recipe, options.loader, options.train, sources,
      [&objective](const data::Example& example) { return objective.sequence(example); },
      [&](const Batch& batch) {
        return data::render_batch(objective.masked(batch, 0).tokens, *tokenizer, languages, how);
      });
}

}  // namespace

std::string inspect_stage(const Recipe& recipe, const std::string& name,
                          const data::InspectOptions& options) {
  const Stage* stage = recipe.find(name);
  if (stage == nullptr) {
    std::vector<std::string> names;
    for (const Stage& known : recipe.stages) names.push_back(known.name);
    throw ConfigError("there is no stage '", name, "'", did_you_mean(name, names), "; there are ",
                      join(names, ", "));
  }
  if (const auto* contrastive = std::get_if<ContrastiveStage>(&stage->options))
    return inspect(recipe, *stage, *contrastive, options);
  if (const auto* masked = std::get_if<MaskedLmStage>(&stage->options))
    return inspect(recipe, *stage, *masked, options);
  const Tokenizer tokenizer = text::open_tokenizer(folder_of(recipe, *stage));
  const std::optional<StageData> data = stage_data(recipe, *stage, tokenizer, data::Split::kTrain);
  if (!data)
    throw ConfigError("stage ", name, " is of type ", stage->type, ", whose training data it cannot show");
  const objectives::Objective& objective = *data->objective;
  const std::vector<std::string> languages = data::languages_of(data->sources);
  return first_step(
      recipe, data->loader, data->train, data->sources,
      [&objective](const data::Example& example) { return objective.encode(example); },
      [&](const Batch& batch) { return data::render_batch(batch, *tokenizer, languages, options); });
}

}  // namespace bitrain::recipe
