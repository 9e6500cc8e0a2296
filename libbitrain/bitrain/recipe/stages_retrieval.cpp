#include <algorithm>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/eval/bm25.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/eval/search.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/recipe/search_means.h>
#include <bitrain/recipe/stage_context.h>

/// The stage evaluate_retrieval.
namespace bitrain::recipe {
namespace {

constexpr const char* kEncoder = "encoder";
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

/// Searches by the embeddings of one model.
class DenseSearch {
 public:
  DenseSearch(const EvaluateRetrievalStage& options, const StageContext& context)
      : options_(options), recipe_(context.recipe), languages_(languages_of(options, recipe_)) {
    hub::OpenOptions open;
    open.dtype = context.dtype();
    open.device = context.device();
    opened_ = hub::open_sentence_encoder(context.directory_of(context.stage.from), open);
    opened_.model->encoder().set_languages(languages_);
  }

  [[nodiscard]] eval::RetrievalRun search(const eval::RetrievalSet& set,
                                          const CollectionOptions& collection) {
    const std::string& language = collection.language.empty() ? recipe_.target.language : collection.language;
    const std::string& query_language =
        collection.query_language.empty() ? recipe_.source.language : collection.query_language;
    const at::Tensor& documents = embed_documents(texts_of(set.corpus), language);
    const at::Tensor queries = embed(texts_of(set.queries), options_.query_prompt, query_language);
    eval::SearchOptions search;
    search.k = options_.depth;
    search.similarity = options_.similarity;
    const eval::Neighbours found = eval::search(queries, documents, search);
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

 private:
  /// Sets of several query languages have one corpus: what was embedded last is not embedded again.
  const at::Tensor& embed_documents(std::vector<std::string> texts, const std::string& language) {
    if (!documents_.defined() || texts != document_texts_ || language != document_language_) {
      documents_ = embed(texts, options_.document_prompt, language);
      document_texts_ = std::move(texts);
      document_language_ = language;
    }
    return documents_;
  }

  [[nodiscard]] at::Tensor embed(const std::vector<std::string>& texts, const std::string& prompt,
                                 const std::string& language) const {
    eval::EncodeOptions encode;
    encode.max_length = std::min(options_.max_length, opened_.model->encoder().max_tokens());
    encode.prompt = prompt;
    encode.language = static_cast<std::int32_t>(std::find(languages_.begin(), languages_.end(), language) -
                                                languages_.begin());
    return eval::encode_texts(*opened_.model, *opened_.tokenizer, texts, encode);
  }

  const EvaluateRetrievalStage& options_;
  const Recipe& recipe_;
  std::vector<std::string> languages_;
  hub::OpenedSentenceEncoder opened_;
  std::vector<std::string> document_texts_;
  std::string document_language_;
  at::Tensor documents_;
};

}  // namespace

void run_stage(const EvaluateRetrievalStage& options, StageContext& context) {
  std::optional<DenseSearch> dense;
  if (options.encoder) dense.emplace(options, context);
  for (const CollectionOptions& collection : options.collections) {
    const std::string name = name_of(collection);
    const eval::RetrievalSet set =
        eval::read_beir(resolve(context.recipe, collection.path), collection.split);
    log_info(context.stage.name, ": ", name, ", ", set.queries.size(), " queries, ", set.corpus.size(),
             " documents");
    const auto score = [&](const std::string& system, const eval::RetrievalRun& run) {
      context.result["search"][name][system] = eval::evaluate_run(run, set.qrels);
      eval::write_trec_run(context.out / (name + "." + system + ".trec"), run, system);
    };
    context.result["search"][name]["queries"] = set.queries.size();
    context.result["search"][name]["documents"] = set.corpus.size();
    if (options.bm25) score(kBm25, search_by_words(set, options));
    if (dense) score(kEncoder, dense->search(set, collection));
  }
  add_search_means(context.result);
}

}  // namespace bitrain::recipe
