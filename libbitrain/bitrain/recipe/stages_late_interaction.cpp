#include <algorithm>
#include <memory>
#include <utility>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/log.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/hub/late_interaction_dir.h>
#include <bitrain/models/bert/add_language_adapters.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/objectives/gathered_loss.h>
#include <bitrain/objectives/late_interaction.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/recipe/training.h>

/// The stages language_adapters and late_interaction.
namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

hub::OpenOptions open_options(const StageContext& context) {
  hub::OpenOptions options;
  options.dtype = context.dtype();
  options.device = context.device();
  return options;
}

/// In float32, so that every reader computes what was trained.
hub::SaveOptions save_options() {
  hub::SaveOptions options;
  options.dtype = at::kFloat;
  return options;
}

/// A late-interaction folder as it is; any other encoder with a fresh projection.
hub::OpenedLateInteraction open_with_projection(const LateInteractionStage& options,
                                                const StageContext& context) {
  const fs::path folder = context.directory_of(context.stage.from);
  if (hub::is_late_interaction(folder)) return hub::open_late_interaction(folder, open_options(context));
  hub::OpenedEncoder encoder = hub::open_encoder(folder, open_options(context));
  log_info(context.stage.name, ": ", folder.string(), " has no projection of token vectors: it begins fresh");
  models::LateInteractionOptions late = options.model;
  late.document_length = std::min(late.document_length, encoder.model->max_tokens());
  late.query_length = std::min(late.query_length, encoder.model->max_tokens());
  hub::OpenedLateInteraction opened;
  opened.tokenizer = std::move(encoder.tokenizer);
  opened.model = std::make_unique<models::LateInteractionEncoder>(std::move(encoder.model), options.dimension,
                                                                  std::move(late));
  models::initialise_projection(*opened.model, static_cast<std::uint64_t>(context.recipe.seed));
  return opened;
}

}  // namespace

void run_stage(const LanguageAdaptersStage& options, StageContext& context) {
  const Recipe& recipe = context.recipe;
  const hub::OpenedEncoder opened =
      hub::open_encoder(context.directory_of(context.stage.from), open_options(context));
  const std::vector<std::string> languages =
      options.languages.empty() ? std::vector<std::string>{recipe.source.language, recipe.target.language}
                                : options.languages;
  const auto model = models::add_language_adapters(*opened.model, languages, options.reduction_factor,
                                                   static_cast<std::uint64_t>(recipe.seed));
  context.result["languages"] = languages;
  context.result["parameters"] = adapters::count_parameters(*model);
  context.result["added_parameters"] =
      adapters::count_parameters(*model) - adapters::count_parameters(*opened.model);
  hub::save_encoder(context.out, *model, opened.tokenizer.get(), save_options());
}

void run_stage(const LateInteractionStage& options, StageContext& context) {
  const Recipe& recipe = context.recipe;
  const hub::OpenedLateInteraction opened = open_with_projection(options, context);
  models::LateInteractionEncoder& model = *opened.model;
  const auto save = [&](const fs::path& folder) {
    hub::save_late_interaction(folder, model, opened.tokenizer.get(), save_options());
  };
  context.result["parameters"] = adapters::count_parameters(model);
  context.result["dimension"] = model.dimension();
  if (options.train.max_steps == 0 && options.train.max_tokens == 0) return save(context.out);

  if (options.dropout >= 0) model.encoder().config().hidden_dropout_prob = options.dropout;
  adapters::train_all(model);
  adapters::freeze(model, options.freeze);
  const std::vector<data::SourcePtr> sources = open_pair_files(recipe, options.files);
  const std::vector<std::string> languages = data::languages_of(sources);
  model.encoder().set_languages(languages);
  const objectives::LateInteraction objective(
      std::make_shared<objectives::InteractionTokens>(opened.tokenizer, model.options()), languages,
      options.objective);
  const std::int64_t tokens_per_step = options.loader.rows_per_step * options.loader.sequence_length;
  data::Loader loader(
      options.loader, sources,
      [&objective](const data::Example& example) { return objective.encode(example); },
      context.loader_run(train::total_steps(options.train, tokens_per_step)));
  train::TrainParts parts;
  parts.source.languages = languages;
  parts.parameters = adapters::trainable_parameters(model);
  parts.model = &model;
  parts.embedding_loss = objectives::over_ranks(objective.loss(model), context.ranks);
  run_training(context, options.train, loader, std::move(parts), "retrieval", save);
}

}  // namespace bitrain::recipe
