#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <bitrain/dist/options.h>
#include <bitrain/recipe/claims.h>
#include <bitrain/recipe/document.h>
#include <bitrain/recipe/late_interaction_options.h>
#include <bitrain/recipe/mexa_options.h>
#include <bitrain/recipe/options.h>
#include <bitrain/recipe/references.h>
#include <bitrain/recipe/similarity_options.h>
#include <bitrain/recipe/word_options.h>

namespace bitrain::recipe {

using StageOptions =
    std::variant<TokenizerStage, PretrainStage, EvaluateStage, ExtendStage, CptStage, SftStage, MergeStage,
                 EvaluateEncoderStage, EvaluateRetrievalStage, ExtendEncoderStage, ContrastiveStage,
                 MaskedLmStage, ContextPredictionStage, DocumentEncoderStage, SimilarityStage,
                 EvaluateSimilarityStage, LanguageAdaptersStage, LateInteractionStage, MineNegativesStage,
                 CrossEncoderStage, EvaluateMexaStage, EvaluateLexiconStage, AlignWordsStage>;

/// Whether options are those of any of these stages.
template <class... Stages>
[[nodiscard]] bool is_one_of(const StageOptions& options) {
  return (std::holds_alternative<Stages>(options) || ...);
}

/// The fields of a stage's options. Their values refer to `options`.
[[nodiscard]] FieldList fields_of_stage(StageOptions& options);

/// One step of a recipe: reads the folder of an earlier stage, writes its own.
struct Stage {
  std::string name;
  std::string type;  ///< "tokenizer", "pretrain", ...
  std::string from;  ///< Name of an earlier stage, or "base"; empty for one that reads from none.
  StageOptions options;
};

/// A whole recipe: what all stages share, and the stages in order.
struct Recipe {
  std::filesystem::path file;            ///< Empty when it was not read from one.
  std::shared_ptr<const Node> document;  ///< What the file says, for places in messages; null as before.
  std::string name;
  std::string dir = "runs";
  std::int64_t seed = 42;
  std::string device = "cpu";
  std::string dtype = "bfloat16";
  std::int64_t threads = 0;
  dist::ParallelOptions parallel;
  std::string base;
  bool skip_invalid = false;
  TextOptions source;
  TextOptions target;
  HeldOutOptions held_out;
  std::vector<ClaimOptions> claims;
  std::vector<Stage> stages;

  /// The stage of that name, or null.
  [[nodiscard]] const Stage* find(const std::string& stage) const;
};

/// The fields of a recipe besides its stages.
template <class Visitor>
void visit_fields(Visitor& v, Recipe& o) {
  v.field("name", o.name, required(not_empty()), "Name of the run.");
  v.field("dir", o.dir, names_folder(not_empty()), "Folder of the run.");
  v.field("seed", o.seed, at_least(0), "Seed of everything random.");
  v.field("device", o.device, one_of({"cpu", "cuda"}), "Where models live.");
  v.field("dtype", o.dtype, one_of({"bfloat16", "float32"}), "Type of weights and activations.");
  v.field("threads", o.threads, in_range(0, 1024),
          "CPU threads of each process; 0: as many as its affinity and CPU quota leave it.");
  v.field("parallel", o.parallel, any(), "How several processes share the run.");
  v.field("base", o.base, names_folder(),
          "Hugging Face folder to start from, in place of the stages tokenizer and pretrain.");
  v.field("skip_invalid", o.skip_invalid, any(),
          "Leave out rows that cannot be read (not UTF-8, too few columns, broken JSON) and count them; "
          "otherwise they are errors.");
  v.field("source", o.source, any(), "The language the model knows.");
  v.field("target", o.target, any(), "The language it is to learn.");
  v.field("held_out", o.held_out, any(), "Rows kept for evaluation.");
  v.field("claims", o.claims, any(), "What the run is meant to show; the report says whether it did.");
}

/// The stage types with their options at their defaults and one line about each.
struct StageType {
  const char* type;
  const char* doc;
  StageOptions defaults;
};
[[nodiscard]] std::vector<StageType> stage_types();

/// What a stage names besides the one it reads from.
[[nodiscard]] std::vector<Reference> references_of(const Stage& stage);

/// Reads a recipe from its document. Every problem is added: unknown keys with the nearest name, wrong types,
/// values out of range, stages that read from none. With `base` set, tokenizer and pretrain stages are left
/// out and what read from them reads from the base.
[[nodiscard]] Recipe read_recipe(const Node& document, const std::filesystem::path& file, Problems& problems);

/// Loads a file, applies the overrides in turn, reads. Throws IoError, or ConfigError with all problems.
[[nodiscard]] Recipe load_recipe(const std::filesystem::path& file,
                                 const std::vector<std::string>& overrides = {});

/// Whether its stages work with encoders, and so its base is one.
[[nodiscard]] bool works_on_encoders(const Recipe& recipe);

/// Whether it has lines of text in source and target; without, stages work on files of their own.
[[nodiscard]] inline bool has_lines(const Recipe& recipe) {
  return !recipe.source.path.empty() && !recipe.target.path.empty();
}

/// Whether a stage does without lines of source and target, and without their languages: sft on files alone,
/// and a merge of what it trained.
[[nodiscard]] bool works_on_files_alone(const Recipe& recipe, const Stage& stage);

/// Whether a stage trains adapters in place of the model.
[[nodiscard]] bool trains_adapters(const adapters::LoraOptions& lora);

/// How a stage trains.
struct StageTraining {
  const train::TrainOptions& train;
  const data::LoaderOptions& loader;

  /// Steps of the run, as the trainer counts them. Throws ConfigError as train::total_steps.
  [[nodiscard]] std::int64_t steps() const {
    return train::total_steps(train, loader.rows_per_step * loader.sequence_length);
  }
};
/// Nothing for stages that do not train. It refers into `options`.
[[nodiscard]] inline std::optional<StageTraining> training_of(const StageOptions& options) {
  return std::visit(
      [](const auto& stage) -> std::optional<StageTraining> {
        if constexpr (requires { stage.data.loader; })
          return StageTraining{stage.train, stage.data.loader};
        else if constexpr (requires { stage.train; })
          return StageTraining{stage.train, stage.loader};
        else
          return std::nullopt;
      },
      options);
}

/// What a retrieval set is called in the report.
[[nodiscard]] std::string name_of(const CollectionOptions& collection);
/// What scored pairs are called in mixtures and in the report.
[[nodiscard]] std::string name_of(const ScoredFileOptions& file);

/// A data path of the recipe: as it is, if absolute or there from the current folder, else from the recipe's.
[[nodiscard]] std::filesystem::path resolve(const Recipe& recipe, const std::string& path);

}  // namespace bitrain::recipe
