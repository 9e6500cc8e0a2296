#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/eval/retrieval.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/stage_context.h>

/// What searches retrieval sets in the stage evaluate_retrieval.
namespace bitrain::recipe {

/// A search under the name it has in results and files.
struct SystemRun {
  std::string system;
  eval::RetrievalRun run;
};

/// Codes of a stage's languages, and which one texts of a collection are in.
class SearchLanguages {
 public:
  SearchLanguages(const EvaluateRetrievalStage& options, const Recipe& recipe);

  [[nodiscard]] const std::vector<std::string>& codes() const { return codes_; }
  [[nodiscard]] std::int32_t of_documents(const CollectionOptions& collection) const;
  [[nodiscard]] std::int32_t of_queries(const CollectionOptions& collection) const;

 private:
  [[nodiscard]] std::int32_t id_of(const std::string& code) const;

  std::vector<std::string> codes_;  ///< Source and target first.
};

/// Searches with the model that the stage reads from.
class ModelSearch {
 public:
  ModelSearch() = default;
  ModelSearch(const ModelSearch&) = delete;
  ModelSearch& operator=(const ModelSearch&) = delete;
  virtual ~ModelSearch() = default;

  /// The model's own search first, then variants of it. `about` takes figures besides the hits.
  [[nodiscard]] virtual std::vector<SystemRun> search(const eval::RetrievalSet& set,
                                                      const CollectionOptions& collection,
                                                      io::Json& about) = 0;
};

/// By late interaction where the folder is one for it, else by embeddings; these also with documents that
/// carry generated queries ("fused_<weight>").
[[nodiscard]] std::unique_ptr<ModelSearch> open_model_search(const EvaluateRetrievalStage& options,
                                                             const StageContext& context);

/// Orders anew what another system found.
class Reranker {
 public:
  Reranker(const EvaluateRetrievalStage& options, const StageContext& context);
  [[nodiscard]] eval::RetrievalRun rerank(const eval::RetrievalSet& set, const CollectionOptions& collection,
                                          const eval::RetrievalRun& run) const;

 private:
  const EvaluateRetrievalStage& options_;
  SearchLanguages languages_;
  hub::OpenedCrossEncoder opened_;
};

/// BM25.
[[nodiscard]] eval::RetrievalRun search_by_words(const eval::RetrievalSet& set,
                                                 const EvaluateRetrievalStage& options);

}  // namespace bitrain::recipe
