#include <bitrain/recipe/stage_rules.h>

#include <set>
#include <string>

namespace bitrain::recipe {
namespace {

/// The rules, one function a type of stage.
class StageRules {
 public:
  StageRules(const Stage& stage, const Node& node, Problems& problems)
      : key_("stages." + stage.name), node_(node), problems_(problems) {}

  void check(const PretrainStage& stage) { steps(stage.train); }
  void check(const CptStage& stage) {
    steps(stage.train);
    if (stage.lora.target_modules.empty() && stage.lora.modules_to_save.empty() &&
        stage.lora.trainable_token_indices.empty())
      add("lora.target_modules", "nothing would be trained: name modules, or all-linear");
  }
  void check(const SftStage& stage) {
    steps(stage.train);
    if (stage.instructions.empty() && stage.files.empty())
      add("instructions", "no conversations: set instructions or files");
    if (stage.objective.max_length > stage.loader.sequence_length)
      add("objective.max_length", "must not be above loader.sequence_length");
  }

  void check(const EvaluateRetrievalStage& stage) {
    if (stage.collections.empty()) add("collections", "there are none to search");
    if (!stage.encoder && !stage.bm25) add("encoder", "nothing searches: set encoder or bm25 to true");
    std::set<std::string> names;
    for (const CollectionOptions& collection : stage.collections) {
      if (collection.name.find('/') != std::string::npos)
        add("collections", "'" + collection.name + "' names files too: write it without '/'");
      if (!names.insert(name_of(collection)).second)
        add("collections", "two are called '" + name_of(collection) + "': give them a name each");
    }
  }
  void check(const EvaluateSimilarityStage& stage) { scored(stage.files); }

  void check(const MaskedLmStage& stage) {
    steps(stage.train);
    if (!stage.texts && !stage.pairs) add("texts", "there is no text: set texts or pairs to true");
    if (stage.next_sentence && !stage.texts) add("next_sentence", "reads texts: set texts to true");
    whole(stage.loader, "texts with hidden words");
  }
  void check(const ContrastiveStage& stage) {
    steps(stage.train);
    const objectives::ContrastiveOptions& objective = stage.objective;
    const bool distils = objective.distill_text > 0 || objective.distill_pair > 0;
    if (distils && stage.teacher.empty())
      add("teacher", "distillation needs one: name an earlier stage, or base");
    if (!distils && objective.contrast == 0) add("objective.contrast", "nothing to learn: every weight is 0");
    if (stage.loader.rows_per_step < 2 && objective.contrast > 0)
      add("loader.rows_per_step", "one pair has no negatives: take 2 or more");
    pair_files(stage.files, "files");
    if (!stage.pairs && stage.files.empty()) add("files", "no pairs: set pairs to true, or name files");
    whole(stage.loader, "pairs");
    if (trains_adapters(stage) && !stage.freeze.empty())
      add("freeze", "with lora all other weights are frozen anyway");
  }
  void check(const ContextPredictionStage& stage) {
    steps(stage.train);
    if (stage.loader.rows_per_step < 2)
      add("loader.rows_per_step", "one sentence and its context have no negatives: take 2 or more");
    whole(stage.loader, "sentences and their contexts");
  }
  void check(const DocumentEncoderStage& stage) {
    steps(stage.train);
    if (stage.loader.rows_per_step < 2)
      add("loader.rows_per_step", "one pair has no negatives: take 2 or more");
    whole(stage.loader, "documents");
    if (stage.lines_per_document > stage.model.max_sentences)
      add("lines_per_document",
          "must not be above model.max_sentences, " + std::to_string(stage.model.max_sentences));
  }
  void check(const SimilarityStage& stage) {
    steps(stage.train);
    scored(stage.files);
    whole(stage.loader, "pairs");
    not_evaluated(stage.train, "evaluate_similarity");
  }
  void check(const LateInteractionStage& stage) {
    if ((stage.train.max_steps > 0 || stage.train.max_tokens > 0) && stage.files.empty())
      add("files", "there is nothing to train on: name files, or set max_steps: 0");
    pair_files(stage.files, "files");
    if (stage.loader.rows_per_step < 2 && stage.objective.negatives == 0)
      add("loader.rows_per_step",
          "one query without hard negatives has nothing to be told from: take 2 or more");
    whole(stage.loader, "queries and documents");
    not_evaluated(stage.train, "evaluate_retrieval");
  }
  void check(const MineNegativesStage& stage) {
    pair_files({stage.pairs}, "pairs");
    if (stage.mining.rank_to - stage.mining.rank_from < stage.mining.negatives)
      add("mining.rank_to", "the ranks hold fewer candidates than negatives");
  }
  void check(const CrossEncoderStage& stage) {
    steps(stage.train);
    if (stage.files.empty()) add("files", "there are none to learn from");
    pair_files(stage.files, "files");
    whole(stage.loader, "queries and candidates");
  }
  template <class Options>
  void check(const Options&) {}

 private:
  void add(const std::string& key, const std::string& what) {
    problems_.add(node_.mark, key_ + "." + key, what);
  }
  void steps(const train::TrainOptions& train) {
    if (train.max_steps == 0 && train.max_tokens == 0) add("train.max_steps", "set max_steps or max_tokens");
  }
  void whole(const data::LoaderOptions& loader, const std::string& what) {
    if (loader.packing != "whole") add("loader.packing", what + " need packing whole");
  }
  void not_evaluated(const train::TrainOptions& train, const std::string& evaluation) {
    if (train.eval_every > 0 || train.keep_best)
      add("train.eval_every", "nothing is evaluated on the way: put a stage " + evaluation + " behind it");
  }
  void pair_files(const std::vector<PairFileOptions>& files, const std::string& key) {
    for (const PairFileOptions& file : files)
      if (file.path.empty() == file.stage.empty())
        add(key, "each has either a path or a stage that wrote it");
  }
  void scored(const std::vector<ScoredFileOptions>& files) {
    if (files.empty()) add("files", "there are no scored pairs");
    std::set<std::string> names;
    for (const ScoredFileOptions& file : files)
      if (!names.insert(name_of(file)).second)
        add("files", "two are called '" + name_of(file) + "': give them a name each");
  }

  std::string key_;
  const Node& node_;
  Problems& problems_;
};

}  // namespace

void check_stage(const Stage& stage, const Node& node, Problems& problems) {
  StageRules rules(stage, node, problems);
  std::visit([&](const auto& options) { rules.check(options); }, stage.options);
}

void check_kinds(const Stage& stage, const std::vector<Stage>& before, const Node& node, Problems& problems) {
  const auto check = [&](const std::string& key, const std::string& name, const std::string& type) {
    for (const Stage& other : before)
      if (other.name == name && other.type != type)
        problems.add(node.mark, "stages." + stage.name + "." + key,
                     to_text("'", name, "' is no stage of type ", type));
    if (name == "base")
      problems.add(node.mark, "stages." + stage.name + "." + key, "base is no stage of type " + type);
  };
  const auto check_files = [&](const std::vector<PairFileOptions>& files) {
    for (const PairFileOptions& file : files) check("files", file.stage, "mine_negatives");
  };
  if (const auto* contrastive = std::get_if<ContrastiveStage>(&stage.options))
    check_files(contrastive->files);
  if (const auto* late = std::get_if<LateInteractionStage>(&stage.options)) check_files(late->files);
  if (const auto* cross = std::get_if<CrossEncoderStage>(&stage.options)) check_files(cross->files);
  if (const auto* mine = std::get_if<MineNegativesStage>(&stage.options))
    check("pairs", mine->pairs.stage, "mine_negatives");
  if (const auto* search = std::get_if<EvaluateRetrievalStage>(&stage.options))
    check("rerank", search->rerank, "cross_encoder");
}

}  // namespace bitrain::recipe
