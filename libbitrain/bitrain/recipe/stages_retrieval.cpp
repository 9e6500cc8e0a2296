#include <algorithm>
#include <memory>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/eval/bm25.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/late_interaction.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/eval/search.h>
#include <bitrain/hub/late_interaction_dir.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/objectives/interaction_tokens.h>
#include <bitrain/recipe/stage_context.h>

/// The stage evaluate_retrieval.
namespace bitrain::recipe {
namespace {

constexpr const char* kBm25 = "bm25";

std::vector<std::string> texts_of(const std::vector<eval::Document>& documents) {
  std::vector<std::string> texts;
  texts.reserve(documents.size());
  for (const eval::Document& document : documents)
    texts.push_back(document.title.empty() ? document.text : document.title + " " + document.text);
  return texts;
}

std::vector<std::string> languages_of(const EvaluateRetrievalStage& options, const Recipe& recipe) {
  std::vector<std::string> languages = {recipe.source.language, recipe.target.language};
  for (const CollectionOptions& collection : options.collections)
    for (const std::string& language : {collection.query_language, collection.language})
      if (!language.empty() && std::find(languages.begin(), languages.end(), language) == languages.end())
        languages.push_back(language);
  return languages;
}

eval::RetrievalRun search_by_words(const eval::RetrievalSet& set, const EvaluateRetrievalStage& options) {
  const eval::Bm25 index(texts_of(set.corpus), options.bm25_options);
  eval::RetrievalRun run;
  for (const eval::Document& query : set.queries)
    for (const eval::Bm25::Found& found : index.search(query.text, options.depth))
      run[query.id].push_back({set.corpus[static_cast<std::size_t>(found.document)].id, found.score});
  return run;
}

/// Searches with one model.
class ModelSearch {
 public:
  ModelSearch(const EvaluateRetrievalStage& options, const StageContext& context)
      : options_(options), recipe_(context.recipe), languages_(languages_of(options, recipe_)) {}
  ModelSearch(const ModelSearch&) = delete;
  ModelSearch& operator=(const ModelSearch&) = delete;
  virtual ~ModelSearch() = default;

  /// What the system is called in results and files.
  [[nodiscard]] virtual const char* name() const = 0;

  [[nodiscard]] eval::RetrievalRun search(const eval::RetrievalSet& set, const CollectionOptions& collection,
                                          io::Json& about) const {
    const Side documents = {
        texts_of(set.corpus),
        language_id(collection.language.empty() ? recipe_.target.language : collection.language)};
    const Side queries = {
        texts_of(set.queries),
        language_id(collection.query_language.empty() ? recipe_.source.language : collection.query_language)};
    const eval::Neighbours found = find(queries, documents, about);
    const std::int64_t k = found.rows.size(1);
    const auto* row = found.rows.const_data_ptr<std::int64_t>();
    const auto* score = found.scores.const_data_ptr<float>();
    eval::RetrievalRun run;
    for (std::size_t q = 0; q < set.queries.size(); ++q) {
      std::vector<eval::Hit>& hits = run[set.queries[q].id];
      for (std::int64_t i = 0; i < k; ++i, ++row, ++score)
        hits.push_back({set.corpus[static_cast<std::size_t>(*row)].id, *score});
    }
    return run;
  }

 protected:
  struct Side {
    std::vector<std::string> texts;
    std::int32_t language = 0;  ///< Index into languages().
  };
  /// `about`: figures of the search besides its hits.
  [[nodiscard]] virtual eval::Neighbours find(const Side& queries, const Side& documents,
                                              io::Json& about) const = 0;

  [[nodiscard]] const EvaluateRetrievalStage& options() const { return options_; }
  [[nodiscard]] const std::vector<std::string>& languages() const { return languages_; }

 private:
  [[nodiscard]] std::int32_t language_id(const std::string& language) const {
    return static_cast<std::int32_t>(std::find(languages_.begin(), languages_.end(), language) -
                                     languages_.begin());
  }

  const EvaluateRetrievalStage& options_;
  const Recipe& recipe_;
  std::vector<std::string> languages_;
};

hub::OpenOptions open_options(const StageContext& context) {
  hub::OpenOptions options;
  options.dtype = context.dtype();
  options.device = context.device();
  return options;
}

/// By the embeddings of a sentence encoder.
class DenseSearch : public ModelSearch {
 public:
  DenseSearch(const EvaluateRetrievalStage& options, const StageContext& context)
      : ModelSearch(options, context),
        opened_(hub::open_sentence_encoder(context.directory_of(context.stage.from), open_options(context))) {
    opened_.model->encoder().set_languages(languages());
  }
  [[nodiscard]] const char* name() const override { return "encoder"; }

 private:
  [[nodiscard]] eval::Neighbours find(const Side& queries, const Side& documents, io::Json&) const override {
    eval::SearchOptions search;
    search.k = options().depth;
    search.similarity = options().similarity;
    const at::Tensor candidates = embed(documents, options().document_prompt);
    return eval::search(embed(queries, options().query_prompt), candidates, search);
  }
  [[nodiscard]] at::Tensor embed(const Side& side, const std::string& prompt) const {
    eval::EncodeOptions encode;
    encode.max_length = std::min(options().max_length, opened_.model->encoder().max_tokens());
    encode.prompt = prompt;
    encode.language = side.language;
    return eval::encode_texts(*opened_.model, *opened_.tokenizer, side.texts, encode);
  }

  hub::OpenedSentenceEncoder opened_;
};

/// By the vectors of all tokens.
class LateSearch : public ModelSearch {
 public:
  LateSearch(const EvaluateRetrievalStage& options, const StageContext& context)
      : ModelSearch(options, context),
        opened_(hub::open_late_interaction(context.directory_of(context.stage.from), open_options(context))),
        tokens_(opened_.tokenizer, opened_.model->options()) {
    opened_.model->encoder().set_languages(languages());
  }
  [[nodiscard]] const char* name() const override { return "late_interaction"; }

 private:
  [[nodiscard]] eval::Neighbours find(const Side& queries, const Side& documents,
                                      io::Json& about) const override {
    eval::LateEncodeOptions encode;
    encode.language = documents.language;
    const eval::LateInteractionIndex index =
        eval::index_documents(*opened_.model, tokens_, documents.texts, options().index, encode);
    log_info("an index of ", with_thousands(index.vectors()), " vectors in ", options().index.storage,
             " takes ", human_bytes(index.bytes()));
    about["index"] = {{"vectors", index.vectors()}, {"bytes", index.bytes()}};
    encode.language = queries.language;
    return index.search(eval::encode_queries(*opened_.model, tokens_, queries.texts, encode),
                        options().depth);
  }

  hub::OpenedLateInteraction opened_;
  objectives::InteractionTokens tokens_;
};

std::unique_ptr<ModelSearch> open_model_search(const EvaluateRetrievalStage& options,
                                               const StageContext& context) {
  if (hub::is_late_interaction(context.directory_of(context.stage.from)))
    return std::make_unique<LateSearch>(options, context);
  return std::make_unique<DenseSearch>(options, context);
}

}  // namespace

void run_stage(const EvaluateRetrievalStage& options, StageContext& context) {
  std::unique_ptr<ModelSearch> model;
  if (options.encoder) model = open_model_search(options, context);
  for (const CollectionOptions& collection : options.collections) {
    const std::string name = name_of(collection);
    const eval::RetrievalSet set =
        eval::read_beir(resolve(context.recipe, collection.path), collection.split);
    log_info(context.stage.name, ": ", name, ", ", set.queries.size(), " queries, ", set.corpus.size(),
             " documents");
    io::Json& result = context.result["search"][name];
    const auto score = [&](const std::string& system, const eval::RetrievalRun& run) {
      result[system] = eval::evaluate_run(run, set.qrels);
      eval::write_trec_run(context.out / (name + "." + system + ".trec"), run, system);
    };
    result["queries"] = set.queries.size();
    result["documents"] = set.corpus.size();
    if (options.bm25) score(kBm25, search_by_words(set, options));
    if (model) score(model->name(), model->search(set, collection, result));
  }
}

}  // namespace bitrain::recipe
