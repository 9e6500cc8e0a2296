#include <algorithm>
#include <map>
#include <memory>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/eval/masked.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/models/bert/model.h>
#include <bitrain/objectives/masked_lm.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/recipe/training.h>

/// The stage masked_lm.
namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

/// The model with its heads; fresh ones where the folder has none.
hub::OpenedMaskedLm open_folder(const StageContext& context) {
  const fs::path folder = context.directory_of(context.stage.from);
  const auto seed = static_cast<std::uint64_t>(context.recipe.seed);
  hub::OpenOptions options;
  options.dtype = context.dtype();
  options.device = context.device();
  try {
    return hub::open_masked_lm(folder, options);
  } catch (const FormatError&) {
    hub::OpenedEncoder encoder = hub::open_encoder(folder, options);  // Says what else may be wrong.
    log_info(context.stage.name, ": ", folder.string(), " has no heads of pre-training: they begin fresh");
    hub::OpenedMaskedLm opened;
    opened.tokenizer = encoder.tokenizer;
    opened.model = std::make_unique<models::MaskedLanguageModel>(std::move(encoder.model));
    models::initialise_heads(*opened.model, seed);
    return opened;
  }
}

/// As open_folder; with the head for next sentences where the stage trains it.
hub::OpenedMaskedLm open_with_heads(const StageContext& context, const MaskedLmStage& options) {
  const auto seed = static_cast<std::uint64_t>(context.recipe.seed);
  hub::OpenedMaskedLm opened = open_folder(context);
  if (options.next_sentence && !opened.model->has_next_sentence()) {
    log_info(context.stage.name, ": the head for next sentences begins fresh");
    opened.model = models::with_next_sentence(*opened.model, seed);
  }
  if (options.fresh) {
    models::initialise(opened.model->encoder(), seed);
    models::initialise_heads(*opened.model, seed);
  }
  if (options.dropout >= 0) opened.model->encoder().config().hidden_dropout_prob = options.dropout;
  return opened;
}

/// Held-out lines of both sides, as pairs where there are, and pairs of sentences where they are trained.
class HeldOutTexts {
 public:
  HeldOutTexts(const Recipe& recipe, const MaskedLmStage& options) {
    const std::int64_t most = recipe.held_out.max_documents;
    for (const bool target : {false, true}) {
      add(*open_side(recipe, target, data::Split::kHeldOut), most, alone_);
      if (options.next_sentence)
        add(*open_next_sentences(recipe, options, target, data::Split::kHeldOut), most,
            sentences_[target ? recipe.target.language : recipe.source.language]);
    }
    if (options.pairs) add(*open_pairs(recipe, data::Split::kHeldOut), most, pairs_);
  }

  /// By language: "masked_loss" and "masked_accuracy" of lines by themselves, "translated_" the same beside
  /// the line's translation, and "next_sentence_accuracy".
  [[nodiscard]] io::Json score(models::MaskedLanguageModel& model, const objectives::MaskedLm& objective,
                               const std::vector<std::string>& languages) const {
    io::Json json = io::Json::object();
    const auto put = [&](const std::string& prefix, const std::vector<data::Example>& examples) {
      for (const auto& [language, score] : eval::score_masked(model, objective, languages, examples)) {
        json[language][prefix + "loss"] = score.loss_per_token;
        json[language][prefix + "accuracy"] = score.accuracy();
      }
    };
    put("masked_", alone_);
    if (!pairs_.empty()) put("translated_", pairs_);
    for (const auto& [language, pairs] : sentences_)
      json[language]["next_sentence_accuracy"] = eval::next_sentence_accuracy(model, objective, pairs);
    return json;
  }

 private:
  static void add(const data::Source& source, std::int64_t most, std::vector<data::Example>& to) {
    for (std::int64_t i = 0; i < source.size() && (most == 0 || i < most); ++i) to.push_back(source.at(i));
  }

  std::vector<data::Example> alone_;
  std::vector<data::Example> pairs_;
  std::map<std::string, std::vector<data::Example>> sentences_;  ///< By language.
};

}  // namespace

void run_stage(const MaskedLmStage& options, StageContext& context) {
  const Recipe& recipe = context.recipe;
  const auto seed = static_cast<std::uint64_t>(recipe.seed);
  const hub::OpenedMaskedLm opened = open_with_heads(context, options);
  models::MaskedLanguageModel& model = *opened.model;
  adapters::train_all(model);
  adapters::freeze(model, options.freeze);

  const std::vector<data::SourcePtr> sources = open_masked_texts(recipe, options);
  const std::vector<std::string> languages = data::languages_of(sources);
  model.encoder().set_languages(languages);
  objectives::MaskedLmOptions objective_options = options.objective;
  objective_options.max_length = std::min(objective_options.max_length, model.encoder().max_tokens());
  const objectives::MaskedLm objective(opened.tokenizer, languages, seed, objective_options);
  const std::int64_t tokens_per_step = options.loader.rows_per_step * options.loader.sequence_length;
  data::Loader loader(
      options.loader, sources,
      [&objective](const data::Example& example) { return objective.sequence(example); },
      context.loader_run(train::total_steps(options.train, tokens_per_step)));

  const HeldOutTexts held_out(recipe, options);
  train::TrainParts parts;
  parts.parameters = adapters::trainable_parameters(model);
  parts.model = &model;
  parts.loss = [&](const Batch& batch, const nn::ForwardContext& forward) {
    return objective.loss(model, batch, forward);
  };
  parts.evaluate = [&](std::int64_t) {
    return language_figures(held_out.score(model, objective, languages));
  };
  context.result["parameters"] = adapters::count_parameters(model);
  context.result["before"] = held_out.score(model, objective, languages);
  run_training(context, options.train, loader, std::move(parts), "masked", [&](const fs::path& folder) {
    hub::SaveOptions save;
    save.dtype = at::kFloat;  // So that every reader computes what was trained.
    hub::save_masked_lm(folder, model, opened.tokenizer.get(), save);
  });
  if (context.signal == 0) context.result["masked"] = held_out.score(model, objective, languages);
}

}  // namespace bitrain::recipe
