#include <bitrain/recipe/stage_rules.h>

#include <algorithm>
#include <set>
#include <string>

#include <bitrain/base/error.h>
#include <bitrain/data/schedule.h>
#include <bitrain/data/transform.h>
#include <bitrain/optim/schedule.h>

namespace bitrain::recipe {
namespace {

/// The rules, one function a type of stage.
class StageRules {
 public:
  StageRules(const Stage& stage, const Node& node, Problems& problems)
      : key_("stages." + stage.name), node_(node), unread_(problems), problems_(problems) {}

  void check(const PretrainStage& stage) { steps(stage.train); }
  void check(const CptStage& stage) {
    steps(stage.train);
    weights(stage.quantize, stage.lora, stage.freeze);
  }
  void check(const SftStage& stage) {
    steps(stage.train);
    weights(stage.quantize, stage.lora, stage.freeze);
    if (stage.instructions.empty() && stage.files.empty())
      add("instructions", "no conversations: set instructions or files");
    if (stage.objective.max_length > stage.loader.sequence_length)
      add("objective.max_length", "must not be above loader.sequence_length");
    if (std::none_of(stage.objective.roles.begin(), stage.objective.roles.end(),
                     [](const auto& role) { return role.second.supervised; }))
      add("objective.roles", "no role is supervised, so there is nothing to learn");
    for (std::size_t i = 0; i < stage.instructions.size(); ++i)
      instructions(stage.instructions[i], "instructions[" + std::to_string(i) + "]");
  }

  /// Adapters, or all weights.
  void weights(const QuantizationOptions& quantize, const adapters::LoraOptions& lora,
               const std::vector<std::string>& freeze) {
    if (trains_adapters(lora)) {
      if (!freeze.empty())
        add("freeze", "is for training all weights; beside adapters those of the model stay as they are");
      return;
    }
    if (node_.find("lora") != nullptr)
      add("lora.target_modules",
          "nothing would be trained: name modules, or all-linear; to train all weights, leave lora out");
    else if (quantize.enabled)
      add("quantize.enabled",
          "weights in 4 bits cannot be trained: set it to false to train all weights, or name modules for "
          "adapters "
          "in lora.target_modules");
  }

  /// Warm-up, decay and the stages of a mixture must fit into the steps, as the run itself checks.
  void check_steps(const StageTraining& training) {
    const train::TrainOptions& train = training.train;
    const data::LoaderOptions& loader = training.loader;
    if (const Node* node = node_.find("train"); node != nullptr && node->find("seed") != nullptr)
      add("train.seed", "a recipe has one seed for all that is random: set seed at its top");
    if (train.max_steps <= 0 && train.max_tokens <= 0) return;
    if (loader.rows_per_step <= 0 || loader.sequence_length <= 0) return;  // Said already.
    const std::int64_t steps = training.steps();
    const optim::ScheduleOptions& schedule = train.schedule;
    try {
      optim::check_schedule(schedule, steps);
    } catch (const ConfigError& error) {
      add(schedule.warmup_steps > 0   ? "train.schedule.warmup_steps"
          : schedule.warmup_ratio > 0 ? "train.schedule.warmup_ratio"
                                      : "train.schedule.type",
          error.what());
    }
    const std::vector<data::MixtureStage>& stages = loader.mixture.stages;
    if (stages.empty()) return;
    try {
      (void)data::ShareSchedule(stages, std::vector<std::vector<double>>(stages.size(), {1.0}), steps, false);
    } catch (const ConfigError& error) {
      add((node_.find("data") != nullptr ? "data.loader" : "loader") + std::string(".mixture.stages"),
          error.what());
    }
  }

  /// Options that look at evaluations on the way need some. `why_none`: why there are none; "" if there are.
  void check_evaluations(const train::TrainOptions& train, const std::string& why_none) {
    if (why_none.empty()) {
      if (train.keep_best && train.eval_every == 0)
        add("train.keep_best", "compares evaluations on the way, and there are none: set train.eval_every");
      if (train.early_stopping_patience > 0 && train.eval_every == 0)
        add("train.early_stopping_patience", "looks at evaluations on the way: set train.eval_every");
      return;
    }
    if (train.eval_every > 0) add("train.eval_every", why_none);
    if (train.eval_at_start) add("train.eval_at_start", why_none);
    if (train.keep_best) add("train.keep_best", why_none);
    if (train.early_stopping_patience > 0) add("train.early_stopping_patience", why_none);
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
    if (trains_adapters(stage.lora) && !stage.freeze.empty())
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
  }
  void check(const LateInteractionStage& stage) {
    if ((stage.train.max_steps > 0 || stage.train.max_tokens > 0) && stage.files.empty())
      add("files", "there is nothing to train on: name files, or set max_steps: 0");
    pair_files(stage.files, "files");
    if (stage.loader.rows_per_step < 2 && stage.objective.negatives == 0)
      add("loader.rows_per_step",
          "one query without hard negatives has nothing to be told from: take 2 or more");
    whole(stage.loader, "queries and documents");
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
    const std::string whole = key_ + "." + key;
    if (!unread_.mentions(whole)) problems_.add(mark_of(node_, key), whole, what);
  }
  void instructions(const InstructionOptions& set, const std::string& key) {
    bool conversations = false;
    for (std::size_t i = 0; i < set.transforms.size(); ++i) {
      const data::TransformOptions& transform = set.transforms[i];
      const std::string where = key + ".transforms[" + std::to_string(i) + "]";
      if (transform.type == "clone_language")
        add(where + ".type",
            "clone_language gives other ids to plain text; conversations have none for clones");
      if (transform.type == "translation_instruction" && set.rows != "pairs")
        add(where + ".type", "translation_instruction needs both sides of a line: set rows to pairs");
      conversations = conversations || transform.type == "translation_instruction" ||
                      transform.type == "verse_completion";
      if (!data::builtin_transforms().contains(transform.type)) continue;  // Said already.
      try {
        (void)data::make_transform(transform);
      } catch (const ConfigError& error) {
        add(where, error.what());
      }
    }
    if (!conversations)
      add(key + ".transforms",
          "none makes conversations of lines: add translation_instruction or verse_completion");
  }
  void steps(const train::TrainOptions& train) {
    if (train.max_steps == 0 && train.max_tokens == 0) add("train.max_steps", "set max_steps or max_tokens");
  }
  void whole(const data::LoaderOptions& loader, const std::string& what) {
    if (loader.packing != "whole") add("loader.packing", what + " need packing whole");
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
  const Problems unread_;  ///< Of values that could not be read: no rule is held against them.
  Problems& problems_;
};

/// Why a stage that trains has no figures on the way; "" where it has.
std::string why_not_evaluated(const Recipe& recipe, const StageOptions& options) {
  const auto behind = [](const char* evaluation) {
    return std::string("nothing is evaluated on the way: put a stage ") + evaluation + " behind it";
  };
  if (is_one_of<SimilarityStage>(options)) return behind("evaluate_similarity");
  if (is_one_of<LateInteractionStage, CrossEncoderStage>(options)) return behind("evaluate_retrieval");
  if (is_one_of<ContrastiveStage>(options) && !has_lines(recipe))
    return "nothing is evaluated on the way: that takes held-out lines of source.path and target.path";
  if (is_one_of<ContextPredictionStage>(options) && recipe.source.path != recipe.target.path)
    return "nothing is evaluated on the way: that takes source and target side by side in one TSV file";
  return "";
}

}  // namespace

void check_stage(const Recipe& recipe, const Stage& stage, const Node& node, Problems& problems) {
  StageRules rules(stage, node, problems);
  if (const std::optional<StageTraining> training = training_of(stage.options)) {
    rules.check_steps(*training);
    rules.check_evaluations(training->train, why_not_evaluated(recipe, stage.options));
  }
  std::visit([&](const auto& options) { rules.check(options); }, stage.options);
}

}  // namespace bitrain::recipe
