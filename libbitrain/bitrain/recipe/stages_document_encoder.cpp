#include <algorithm>
#include <optional>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/data/document_sources.h>
#include <bitrain/data/sentence_windows.h>
#include <bitrain/eval/encode_documents.h>
#include <bitrain/hub/document_encoder.h>
#include <bitrain/objectives/document_contrastive.h>
#include <bitrain/objectives/gathered_loss.h>
#include <bitrain/recipe/encoder_stage.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/recipe/training.h>

/// The stage document_encoder.
namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

/// The document encoder of the folder, or a fresh one over its sentence encoder.
hub::OpenedDocumentEncoder open_documents(const DocumentEncoderStage& options, const StageContext& context) {
  const fs::path folder = context.directory_of(context.stage.from);
  hub::OpenOptions open;
  open.dtype = context.dtype();
  open.device = context.device();
  hub::OpenedDocumentEncoder opened;
  if (hub::is_document_encoder(folder)) {
    log_info(context.stage.name, ": goes on from the document encoder in ", folder.string());
    opened = hub::open_document_encoder(folder, open);
  } else {
    hub::OpenedSentenceEncoder lower = hub::open_sentence_encoder(folder, open);
    opened.tokenizer = std::move(lower.tokenizer);
    opened.settings = std::move(lower.settings);
    opened.model = std::make_unique<models::DocumentEncoder>(std::move(lower.model), options.model);
    models::initialise_documents(*opened.model, static_cast<std::uint64_t>(context.recipe.seed));
  }
  opened.model->sentences().encoder().set_languages(
      {context.recipe.source.language, context.recipe.target.language});
  return opened;
}

/// Held-out documents, found by their translations.
class HeldOutDocuments {
 public:
  HeldOutDocuments(const Recipe& recipe, const DocumentEncoderStage& options) : recipe_(recipe) {
    const data::SourcePtr pairs = open_pairs(recipe, data::Split::kHeldOut, options.lines_per_document);
    const std::int64_t most = recipe.held_out.max_documents;
    for (std::int64_t i = 0; i < pairs->size() && (most == 0 || i < most); ++i) {
      const data::Example pair = pairs->at(i);
      documents_.push_back(data::split_sentences(pair.text));
      translations_.push_back(data::split_sentences(pair.pair_text));
    }
    if (documents_.size() < 2)
      throw DataError("two held-out documents or more are needed, there is ", documents_.size(),
                      "; see held_out");
    encode_.max_length = options.objective.max_length;
  }

  [[nodiscard]] std::size_t size() const { return documents_.size(); }

  /// By the document encoder.
  [[nodiscard]] io::Json score(models::DocumentEncoder& model, const text::Tokenizer& tokenizer) const {
    return scores([&](const auto& documents, std::int32_t language) {
      return eval::encode_documents(model, tokenizer, documents, encoding(language));
    });
  }
  /// By the means of sentence vectors.
  [[nodiscard]] io::Json score_averages(models::DocumentEncoder& model,
                                        const text::Tokenizer& tokenizer) const {
    return scores([&](const auto& documents, std::int32_t language) {
      return eval::average_sentences(model.sentences(), tokenizer, documents, model.max_sentences(),
                                     encoding(language));
    });
  }

 private:
  template <class Embed>
  [[nodiscard]] io::Json scores(const Embed& embed) const {
    return pair_scores_json(recipe_, eval::score_pairs(embed(documents_, 0), embed(translations_, 1)));
  }
  [[nodiscard]] eval::EncodeOptions encoding(std::int32_t language) const {
    eval::EncodeOptions options = encode_;
    options.language = language;
    return options;
  }

  const Recipe& recipe_;
  std::vector<eval::Sentences> documents_;
  std::vector<eval::Sentences> translations_;
  eval::EncodeOptions encode_;
};

io::Json documents_table(const Recipe& recipe, const StageContext& context, std::size_t documents) {
  const std::string there = recipe.source.language + "-" + recipe.target.language;
  const std::string back = recipe.target.language + "-" + recipe.source.language;
  io::Json rows = io::Json::array();
  const auto add = [&](const char* system, const io::Json& scores) {
    rows.push_back({system, scores.at(there).at("accuracy_at_1"), scores.at(back).at("accuracy_at_1"),
                    scores.at(there).at("mrr_at_10"), scores.at(back).at("mrr_at_10")});
  };
  add("mean of sentence vectors, before", context.result.at("segment_average").at("before"));
  add("mean of sentence vectors, after", context.result.at("segment_average").at("after"));
  add("document encoder, before", context.result.at("before"));
  add("document encoder, after", context.result.at("retrieval"));
  return {{"title", "Documents of " + context.stage.name},
          {"note", std::to_string(documents) + " held-out documents found by their translations."},
          {"columns",
           {"System", there + " accuracy@1", back + " accuracy@1", there + " MRR@10", back + " MRR@10"}},
          {"rows", rows}};
}

}  // namespace

void run_stage(const DocumentEncoderStage& options, StageContext& context) {
  const Recipe& recipe = context.recipe;
  const auto seed = static_cast<std::uint64_t>(recipe.seed);
  const hub::OpenedDocumentEncoder opened = open_documents(options, context);
  models::DocumentEncoder& model = *opened.model;
  adapters::train_all(model);
  if (options.freeze_sentences) adapters::freeze(model.sentences());

  data::SourcePtr pairs = open_pairs(recipe, data::Split::kTrain, options.lines_per_document);
  if (options.neighbourhood > 0) pairs = data::neighbour_source(pairs, options.neighbourhood, seed);
  const std::vector<data::SourcePtr> sources = {pairs};
  objectives::DocumentContrastiveOptions objective_options = options.objective;
  objective_options.max_length =
      std::min(objective_options.max_length, model.sentences().encoder().max_tokens());
  const objectives::DocumentContrastive objective(opened.tokenizer, data::languages_of(sources),
                                                  model.max_sentences(), objective_options);
  const std::int64_t tokens_per_step = options.loader.rows_per_step * options.loader.sequence_length;
  data::Loader loader(
      options.loader, sources,
      [&objective](const data::Example& example) { return objective.encode(example); },
      context.loader_run(train::total_steps(options.train, tokens_per_step)));

  const HeldOutDocuments held_out(recipe, options);
  context.result["documents"] = held_out.size();
  context.result["parameters"] = adapters::count_parameters(model);
  context.result["pairs_per_step"] = options.loader.rows_per_step;
  context.result["segment_average"]["before"] = held_out.score_averages(model, *opened.tokenizer);
  context.result["before"] = held_out.score(model, *opened.tokenizer);
  train::TrainParts parts;
  parts.parameters = adapters::trainable_parameters(model);
  parts.model = &model;
  parts.embedding_loss = objectives::over_ranks(objective.loss(model), context.ranks);
  parts.evaluate = [&](std::int64_t) {
    return retrieval_figures({{"retrieval", held_out.score(model, *opened.tokenizer)}});
  };
  run_training(context, options.train, loader, std::move(parts), "retrieval", [&](const fs::path& folder) {
    hub::SaveOptions save;
    save.dtype = at::kFloat;  // So that every reader computes what was trained.
    hub::save_document_encoder(folder, model, opened.tokenizer.get(), opened.settings, save);
  });
  if (context.signal != 0) return;
  context.result["retrieval"] = held_out.score(model, *opened.tokenizer);
  context.result["segment_average"]["after"] = options.freeze_sentences
                                                   ? context.result["segment_average"]["before"]
                                                   : held_out.score_averages(model, *opened.tokenizer);
  context.result["tables"].push_back(documents_table(recipe, context, held_out.size()));
}

}  // namespace bitrain::recipe
