#include <bitrain/recipe/search_systems.h>

#include <algorithm>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/eval/bm25.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/late_interaction.h>
#include <bitrain/eval/query_fusion.h>
#include <bitrain/eval/rerank.h>
#include <bitrain/eval/search.h>
#include <bitrain/hub/late_interaction_dir.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/objectives/interaction_tokens.h>

namespace bitrain::recipe {
namespace {

std::vector<std::string> texts_of(const std::vector<eval::Document>& documents) {
  std::vector<std::string> texts;
  texts.reserve(documents.size());
  for (const eval::Document& document : documents) texts.push_back(eval::text_of(document));
  return texts;
}

hub::OpenOptions open_options(const StageContext& context) {
  hub::OpenOptions options;
  options.dtype = context.dtype();
  options.device = context.device();
  return options;
}

eval::RetrievalRun run_of(const eval::RetrievalSet& set, const eval::Neighbours& found) {
  const std::int64_t k = found.rows.size(1);
  const auto* row = found.rows.const_data_ptr<std::int64_t>();
  const auto* score = found.scores.const_data_ptr<float>();
  eval::RetrievalRun run;
  for (const eval::Document& query : set.queries) {
    std::vector<eval::Hit>& hits = run[query.id];
    for (std::int64_t i = 0; i < k; ++i, ++row, ++score)
      hits.push_back({set.corpus[static_cast<std::size_t>(*row)].id, *score});
  }
  return run;
}

/// "fused_0.01": documents with this weight of their generated queries.
std::string fused_name(double weight) {
  return format("fused_%g", weight);
}

/// By the embeddings of a sentence encoder.
class DenseSearch : public ModelSearch {
 public:
  DenseSearch(const EvaluateRetrievalStage& options, const StageContext& context)
      : options_(options),
        recipe_(context.recipe),
        languages_(options, recipe_),
        opened_(hub::open_sentence_encoder(context.directory_of(context.stage.from), open_options(context))) {
    opened_.model->encoder().set_languages(languages_.codes());
  }

  [[nodiscard]] std::vector<SystemRun> search(const eval::RetrievalSet& set,
                                              const CollectionOptions& collection, io::Json& about) override {
    const at::Tensor documents = embed_documents(texts_of(set.corpus), collection);
    const at::Tensor queries = embed_queries(texts_of(set.queries), collection);
    std::vector<SystemRun> runs;
    runs.push_back({"encoder", find(set, queries, documents)});
    if (collection.generated_queries.empty()) return runs;
    const eval::GeneratedQueries generated =
        eval::read_generated_queries(resolve(recipe_, collection.generated_queries), set.corpus);
    about["generated_queries"] = generated.texts.size();
    const at::Tensor carried = embed_queries(generated.texts, collection);
    for (const double weight : options_.fusion_weights)
      runs.push_back(
          {fused_name(weight),
           find(set, queries, eval::fuse_queries(documents, carried, generated.owners, {weight}))});
    return runs;
  }

 private:
  /// Sets of several query languages have one corpus: what was embedded last is not embedded again.
  [[nodiscard]] at::Tensor embed_documents(std::vector<std::string> texts,
                                           const CollectionOptions& collection) {
    const std::int32_t language = languages_.of_documents(collection);
    if (!documents_.defined() || texts != document_texts_ || language != document_language_) {
      documents_ = embed(texts, options_.document_prompt, language);
      document_texts_ = std::move(texts);
      document_language_ = language;
    }
    return documents_;
  }
  [[nodiscard]] at::Tensor embed_queries(const std::vector<std::string>& texts,
                                         const CollectionOptions& collection) const {
    return embed(texts, options_.query_prompt, languages_.of_queries(collection));
  }
  [[nodiscard]] at::Tensor embed(const std::vector<std::string>& texts, const std::string& prompt,
                                 std::int32_t language) const {
    eval::EncodeOptions encode;
    encode.max_length = std::min(options_.max_length, opened_.model->encoder().max_tokens());
    encode.truncate_dim = options_.truncate_dim;
    encode.prompt = prompt;
    encode.language = language;
    return eval::encode_texts(*opened_.model, *opened_.tokenizer, texts, encode);
  }
  [[nodiscard]] eval::RetrievalRun find(const eval::RetrievalSet& set, const at::Tensor& queries,
                                        const at::Tensor& documents) const {
    eval::SearchOptions search;
    search.k = options_.depth;
    search.similarity = options_.similarity;
    return run_of(set, eval::search(queries, documents, search));
  }

  const EvaluateRetrievalStage& options_;
  const Recipe& recipe_;
  SearchLanguages languages_;
  hub::OpenedSentenceEncoder opened_;
  std::vector<std::string> document_texts_;
  std::int32_t document_language_ = -1;
  at::Tensor documents_;
};

/// By the vectors of all tokens.
class LateSearch : public ModelSearch {
 public:
  LateSearch(const EvaluateRetrievalStage& options, const StageContext& context)
      : options_(options),
        languages_(options, context.recipe),
        opened_(hub::open_late_interaction(context.directory_of(context.stage.from), open_options(context))),
        tokens_(opened_.tokenizer, opened_.model->options()) {
    opened_.model->encoder().set_languages(languages_.codes());
  }

  [[nodiscard]] std::vector<SystemRun> search(const eval::RetrievalSet& set,
                                              const CollectionOptions& collection, io::Json& about) override {
    if (!collection.generated_queries.empty())
      throw ConfigError("generated_queries of ", name_of(collection),
                        ": documents of late interaction cannot carry them; search with a sentence encoder");
    eval::LateEncodeOptions encode;
    encode.language = languages_.of_documents(collection);
    const eval::LateInteractionIndex index =
        eval::index_documents(*opened_.model, tokens_, texts_of(set.corpus), options_.index, encode);
    log_info("an index of ", with_thousands(index.vectors()), " vectors in ", options_.index.storage,
             " takes ", human_bytes(index.bytes()));
    about["index"] = {{"vectors", index.vectors()}, {"bytes", index.bytes()}};
    encode.language = languages_.of_queries(collection);
    const eval::Neighbours found = index.search(
        eval::encode_queries(*opened_.model, tokens_, texts_of(set.queries), encode), options_.depth);
    std::vector<SystemRun> runs;
    runs.push_back({"late_interaction", run_of(set, found)});
    return runs;
  }

 private:
  const EvaluateRetrievalStage& options_;
  SearchLanguages languages_;
  hub::OpenedLateInteraction opened_;
  objectives::InteractionTokens tokens_;
};

}  // namespace

SearchLanguages::SearchLanguages(const EvaluateRetrievalStage& options, const Recipe& recipe)
    : codes_({recipe.source.language, recipe.target.language}) {
  for (const CollectionOptions& collection : options.collections)
    for (const std::string& code : {collection.query_language, collection.language})
      if (!code.empty() && std::find(codes_.begin(), codes_.end(), code) == codes_.end())
        codes_.push_back(code);
}

std::int32_t SearchLanguages::of_documents(const CollectionOptions& collection) const {
  return collection.language.empty() ? 1 : id_of(collection.language);
}

std::int32_t SearchLanguages::of_queries(const CollectionOptions& collection) const {
  return collection.query_language.empty() ? 0 : id_of(collection.query_language);
}

std::int32_t SearchLanguages::id_of(const std::string& code) const {
  return static_cast<std::int32_t>(std::find(codes_.begin(), codes_.end(), code) - codes_.begin());
}

std::unique_ptr<ModelSearch> open_model_search(const EvaluateRetrievalStage& options,
                                               const StageContext& context) {
  if (hub::is_late_interaction(context.directory_of(context.stage.from)))
    return std::make_unique<LateSearch>(options, context);
  return std::make_unique<DenseSearch>(options, context);
}

Reranker::Reranker(const EvaluateRetrievalStage& options, const StageContext& context)
    : options_(options),
      languages_(options, context.recipe),
      opened_(hub::open_cross_encoder(context.directory_of(options.rerank), open_options(context))) {
  opened_.model->encoder().set_languages(languages_.codes());
}

eval::RetrievalRun Reranker::rerank(const eval::RetrievalSet& set, const CollectionOptions& collection,
                                    const eval::RetrievalRun& run) const {
  eval::RerankOptions rerank;
  rerank.depth = options_.rerank_depth;
  rerank.max_length = options_.max_length;
  rerank.prompt = hub::prompt_of(opened_.settings);
  rerank.language = languages_.of_documents(collection);
  return eval::rerank(*opened_.model, *opened_.tokenizer, set, run, rerank);
}

eval::RetrievalRun search_by_words(const eval::RetrievalSet& set, const EvaluateRetrievalStage& options) {
  const eval::Bm25 index(texts_of(set.corpus), options.bm25_options);
  eval::RetrievalRun run;
  for (const eval::Document& query : set.queries)
    for (const eval::Bm25::Found& found : index.search(query.text, options.depth))
      run[query.id].push_back({set.corpus[static_cast<std::size_t>(found.document)].id, found.score});
  return run;
}

}  // namespace bitrain::recipe
