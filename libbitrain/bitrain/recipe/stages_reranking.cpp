#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/eval/mining_file.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/recipe/encoder_stage.h>
#include <bitrain/recipe/training.h>
#include <bitrain/train/signals.h>

/// Stages around hard negatives and reranking: mine_negatives, cross_encoder.
namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

/// Thrown out of long work once SIGINT or SIGTERM was noted.
struct Interrupted {};

void stop_when_interrupted() {
  if (train::SignalWatch::received() != 0) throw Interrupted{};
}

/// What finds the negatives of a set; with an encoder, the model it keeps.
class Finder {
 public:
  Finder(const MineNegativesStage& options, const StageContext& context, const eval::MiningSet& set) {
    if (options.bm25) {
      find_ = eval::find_by_words(set, options.mining);
      return;
    }
    opened_ = open_stage_encoder(context, context.stage.from);
    opened_.model->encoder().set_languages(
        {language_or(options.pairs.language, context.recipe.source.language),
         language_or(options.pairs.pair_language, context.recipe.target.language)});
    eval::EncodeOptions queries;
    queries.max_length = options.max_length;
    queries.progress = [](std::int64_t) { stop_when_interrupted(); };
    eval::EncodeOptions texts = queries;
    queries.prompt = options.query_prompt;
    queries.language = 0;
    texts.prompt = options.document_prompt;
    texts.language = 1;
    find_ = eval::find_by_encoder(set, *opened_.model, *opened_.tokenizer, queries, texts, options.mining);
  }

  [[nodiscard]] const eval::NegativeFinder& get() const { return find_; }

 private:
  static std::string language_or(const std::string& language, const std::string& other) {
    return language.empty() ? other : language;
  }

  hub::OpenedSentenceEncoder opened_;
  eval::NegativeFinder find_;
};

/// The model with its head; a fresh one where the folder has none.
hub::OpenedCrossEncoder open_with_head(const StageContext& context) {
  const fs::path folder = context.directory_of(context.stage.from);
  hub::OpenOptions options;
  options.dtype = context.dtype();
  options.device = context.device();
  try {
    return hub::open_cross_encoder(folder, options);
  } catch (const FormatError&) {
    hub::OpenedEncoder encoder = hub::open_encoder(folder, options);  // Says what else may be wrong.
    log_info(context.stage.name, ": ", folder.string(), " has no head that scores pairs: it begins fresh");
    hub::OpenedCrossEncoder opened;
    opened.tokenizer = encoder.tokenizer;
    opened.model =
        models::with_fresh_head(std::move(encoder.model), static_cast<std::uint64_t>(context.recipe.seed));
    return opened;
  }
}

}  // namespace

void run_stage(const MineNegativesStage& options, StageContext& context) {
  data::SourceCounts counts;
  const data::SourcePtr source = open_pair_file(context.recipe, options.pairs, &counts);
  eval::MiningPairs read = eval::read_mining_pairs(*source, counts, source->name());
  std::optional<std::vector<std::string>> corpus;
  if (!options.corpus.empty()) corpus = eval::read_mining_corpus(resolve(context.recipe, options.corpus));
  const eval::MiningSet set = eval::make_mining_set(std::move(read.pairs), corpus);
  const train::SignalWatch signals;
  const fs::path file = context.work / kMinedFile;
  eval::MiningTally tally;
  try {
    const Finder finder(options, context, set);
    io::ResumableFile out(file, io::Json::object());
    tally = eval::mine_into(out, set, finder.get(), options.mining.negatives, {}, 1024,
                            [](std::int64_t) { stop_when_interrupted(); });
    stop_when_interrupted();  // While the lines are where the next run looks for them.
    out.commit();
  } catch (const Interrupted&) {
    context.signal = train::SignalWatch::received();
    train::SignalWatch::obey();
    return;
  }
  fs::rename(file, context.out / kMinedFile);
  context.result["pairs"] = set.pairs.size();
  context.result["left_out"] = read.skipped;
  context.result["candidates"] = set.candidates;
  context.result["negatives"] = tally.negatives;
  context.result["pairs_with_fewer"] = tally.fewer;
  context.result["pairs_without"] = tally.none;
  log_info(context.stage.name, ": ", with_thousands(tally.negatives), " negatives for ",
           with_thousands(static_cast<std::int64_t>(set.pairs.size())), " pairs; ",
           with_thousands(tally.fewer), " have fewer than ", options.mining.negatives, ", of which ",
           with_thousands(tally.none), " none");
}

void run_stage(const CrossEncoderStage& options, StageContext& context) {
  const Recipe& recipe = context.recipe;
  hub::OpenedCrossEncoder opened = open_with_head(context);
  models::CrossEncoder& model = *opened.model;
  if (options.dropout >= 0) {
    model.encoder().config().hidden_dropout_prob = options.dropout;
    model.encoder().config().classifier_dropout = options.dropout;
  }
  adapters::train_all(model);
  adapters::freeze(model, options.freeze);

  const std::vector<data::SourcePtr> sources = open_pair_files(recipe, options.files);
  const std::vector<std::string> languages = data::languages_of(sources);
  model.encoder().set_languages(languages);
  objectives::ListwiseOptions objective_options = options.objective;
  objective_options.max_length = std::min(objective_options.max_length, model.encoder().max_tokens());
  const objectives::Listwise objective(opened.tokenizer, languages, objective_options,
                                       hub::prompt_of(opened.settings));
  const std::int64_t tokens_per_step = options.loader.rows_per_step * options.loader.sequence_length;
  data::Loader loader(
      options.loader, sources,
      [&objective](const data::Example& example) { return objective.encode(example); },
      context.loader_run(train::total_steps(options.train, tokens_per_step)));

  train::TrainParts parts;
  parts.parameters = adapters::trainable_parameters(model);
  parts.model = &model;
  parts.loss = [&](const Batch& batch, const nn::ForwardContext& forward) {
    return objective.loss(model, batch, forward);
  };
  context.result["parameters"] = adapters::count_parameters(model);
  context.result["queries_per_step"] = options.loader.rows_per_step;
  run_training(context, options.train, loader, std::move(parts), "ranking", [&](const fs::path& folder) {
    hub::SaveOptions save;
    save.dtype = at::kFloat;  // So that every reader computes what was trained.
    hub::save_cross_encoder(folder, model, opened.tokenizer.get(), save, opened.settings);
  });
}

}  // namespace bitrain::recipe
