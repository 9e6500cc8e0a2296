#include <algorithm>
#include <filesystem>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/similarity.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/recipe/encoder_stage.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/recipe/training.h>

/// The stages similarity and evaluate_similarity.
namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

std::vector<data::SourcePtr> open_all_scored(const Recipe& recipe,
                                             const std::vector<ScoredFileOptions>& files) {
  std::vector<data::SourcePtr> sources;
  sources.reserve(files.size());
  for (const ScoredFileOptions& file : files)
    sources.push_back(data::open_source(scored_options(recipe, file)));
  return sources;
}

/// One set of pairs, read whole.
struct ScoredPairs {
  explicit ScoredPairs(const data::Source& source) {
    for (std::int64_t i = 0; i < source.size(); ++i) {
      data::Example example = source.at(i);
      texts.push_back(std::move(example.text));
      pairs.push_back(std::move(example.pair_text));
      scores.push_back(*example.score);
    }
  }
  std::vector<std::string> texts;
  std::vector<std::string> pairs;
  std::vector<double> scores;
};

double score_set(const data::Source& source, const hub::OpenedSentenceEncoder& opened,
                 const std::vector<std::string>& languages, const EvaluateSimilarityStage& options) {
  const ScoredPairs set(source);
  const auto embed = [&](const std::vector<std::string>& texts, const std::string& language) {
    eval::EncodeOptions encode;
    encode.max_length = std::min(options.max_length, opened.model->encoder().max_tokens());
    encode.truncate_dim = options.truncate_dim;
    encode.language = static_cast<std::int32_t>(std::find(languages.begin(), languages.end(), language) -
                                                languages.begin());
    return eval::encode_texts(*opened.model, *opened.tokenizer, texts, encode);
  };
  const std::vector<std::string> own = source.languages();
  return eval::score_similarity(embed(set.texts, own.front()), embed(set.pairs, own.back()), set.scores);
}

}  // namespace

void run_stage(const SimilarityStage& options, StageContext& context) {
  const Recipe& recipe = context.recipe;
  const hub::OpenedSentenceEncoder opened = open_stage_encoder(context, context.stage.from);
  if (options.dropout >= 0) opened.model->encoder().config().hidden_dropout_prob = options.dropout;
  adapters::train_all(*opened.model);
  adapters::freeze(*opened.model, options.freeze);

  const std::vector<data::SourcePtr> sources = open_all_scored(recipe, options.files);
  const std::vector<std::string> languages = encoder_languages(recipe, sources);
  opened.model->encoder().set_languages(languages);
  objectives::SimilarityOptions objective_options = options.objective;
  objective_options.max_length = std::min(objective_options.max_length, opened.model->encoder().max_tokens());
  const objectives::Similarity objective(opened.tokenizer, languages, objective_options);
  // A score out of range stops the run now and not when its row's turn comes.
  for (const data::SourcePtr& source : sources)
    for (std::int64_t i = 0; i < source->size(); ++i) (void)objective.encode(source->at(i));
  const std::int64_t tokens_per_step = options.loader.rows_per_step * options.loader.sequence_length;
  data::Loader loader(
      options.loader, sources,
      [&objective](const data::Example& example) { return objective.encode(example); },
      context.loader_run(train::total_steps(options.train, tokens_per_step)));

  train::TrainParts parts;
  parts.source.languages = languages;
  parts.parameters = adapters::trainable_parameters(*opened.model);
  parts.model = opened.model.get();
  parts.embedding_loss = objectives::Similarity::loss(*opened.model);
  context.result["parameters"] = adapters::count_parameters(*opened.model);
  context.result["pairs_per_step"] = options.loader.rows_per_step;
  run_training(context, options.train, loader, std::move(parts), "similarity", [&](const fs::path& folder) {
    save_stage_encoder(folder, *opened.model, *opened.tokenizer, opened.settings);
  });
}

void run_stage(const EvaluateSimilarityStage& options, StageContext& context) {
  const hub::OpenedSentenceEncoder opened = open_stage_encoder(context, context.stage.from);
  const std::vector<data::SourcePtr> sources = open_all_scored(context.recipe, options.files);
  const std::vector<std::string> languages = encoder_languages(context.recipe, sources);
  opened.model->encoder().set_languages(languages);
  io::Json rows = io::Json::array();
  double sum = 0;
  for (const data::SourcePtr& source : sources) {
    double spearman = 0;
    try {
      spearman = score_set(*source, opened, languages, options);
    } catch (Error& error) {
      error.add_context(source->name());
      throw;
    }
    log_info(context.stage.name, ": ", source->name(), ", Spearman ", spearman);
    context.result["similarity"][source->name()] = {{"pairs", source->size()}, {"spearman", spearman}};
    rows.push_back({source->name(), source->size(), spearman});
    sum += spearman;
  }
  const double mean = sum / static_cast<double>(sources.size());
  context.result["mean"]["spearman"] = mean;
  rows.push_back({"mean", nullptr, mean});
  context.result["tables"] = {{{"title", "Semantic similarity"},
                               {"note", "Spearman's rank correlation of cosines with the scores of pairs."},
                               {"columns", {"Set", "Pairs", "Spearman"}},
                               {"rows", rows}}};
}

}  // namespace bitrain::recipe
