#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <bitrain/base/log.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/recipe/search_means.h>
#include <bitrain/recipe/search_systems.h>
#include <bitrain/recipe/stage_context.h>

/// The stage evaluate_retrieval.
namespace bitrain::recipe {
namespace {

/// Ranks at which papers measure.
const std::vector<std::int64_t> kCutoffs = {1, 10, 20, 50, 100};

/// Compares the plain search of a set with those whose documents carry generated queries.
io::Json fusion_table(const std::string& name, const std::vector<SystemRun>& runs, const io::Json& figures) {
  io::Json rows = io::Json::array();
  for (const SystemRun& run : runs) {
    const io::Json& of = figures.at(run.system);
    rows.push_back({&run == &runs.front() ? "none" : run.system.substr(run.system.find('_') + 1),
                    of.at("ndcg@10"), of.at("mrr@10"), of.at("accuracy@1"), of.at("recall@10"),
                    of.at("recall@100")});
  }
  return {{"title", "Passages with their generated queries: " + name},
          {"note", "(1 - a) passage + a (sum of its queries)"},
          {"columns", {"a", "nDCG@10", "MRR@10", "Accuracy@1", "Recall@10", "Recall@100"}},
          {"rows", rows}};
}

}  // namespace

void run_stage(const EvaluateRetrievalStage& options, StageContext& context) {
  std::unique_ptr<ModelSearch> model;
  if (options.encoder) model = open_model_search(options, context);
  std::optional<Reranker> reranker;
  if (!options.rerank.empty()) reranker.emplace(options, context);
  for (const CollectionOptions& collection : options.collections) {
    const std::string name = name_of(collection);
    const eval::RetrievalSet set =
        eval::read_beir(resolve(context.recipe, collection.path), collection.split);
    log_info(context.stage.name, ": ", name, ", ", set.queries.size(), " queries, ", set.corpus.size(),
             " documents");
    io::Json result;
    result["queries"] = set.queries.size();
    result["documents"] = set.corpus.size();
    const auto score = [&](const SystemRun& found) {
      result[found.system] = eval::evaluate_run(found.run, set.qrels, kCutoffs);
      eval::write_trec_run(context.out / (name + "." + found.system + ".trec"), found.run, found.system);
    };
    SystemRun words;
    if (options.bm25) score(words = {"bm25", search_by_words(set, options)});
    std::vector<SystemRun> runs;
    if (model) runs = model->search(set, collection, result);
    for (const SystemRun& run : runs) score(run);
    if (reranker)
      score({"reranked", reranker->rerank(set, collection, runs.empty() ? words.run : runs.front().run)});
    if (runs.size() > 1) context.result["tables"].push_back(fusion_table(name, runs, result));
    context.result["search"][name] = std::move(result);
  }
  add_search_means(context.result);
}

}  // namespace bitrain::recipe
