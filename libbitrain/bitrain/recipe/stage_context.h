#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <bitrain/data/loader.h>
#include <bitrain/data/source.h>
#include <bitrain/dist/communicator.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/recipe.h>
#include <bitrain/recipe/sources.h>

namespace bitrain::recipe {

/// What a stage gets to work with.
struct StageContext {
  const Recipe& recipe;
  const Stage& stage;
  std::filesystem::path out;   ///< Folder to write into; it becomes the stage's when the stage returns.
  std::filesystem::path work;  ///< Folder that survives an interruption: checkpoints and logs of training.
  io::Json result = io::Json::object();  ///< Figures, under the names of summary.json.
  int signal = 0;                        ///< Set when a signal ended the stage early: nothing is finished.
  /// That run this stage, all of them together where it trains. Only rank 0's `out` and `result` are kept.
  std::shared_ptr<dist::Communicator> ranks = std::make_shared<dist::Communicator>();
  std::set<std::string> warned = {};  ///< Languages that warn_of_scores has spoken of.
  std::shared_ptr<HeldOutLines> held_out = std::make_shared<HeldOutLines>(recipe);  ///< Of the whole run.

  /// Throws IoError when a file that the run is made from is not what it was when the run began.
  std::function<void()> check_inputs = [] {};

  [[nodiscard]] at::ScalarType dtype() const;
  [[nodiscard]] at::Device device() const;
  /// What a loader of training steps must know of a run of `steps` steps.
  [[nodiscard]] data::LoaderRun loader_run(std::int64_t steps) const;
  /// The Hugging Face folder behind "base" or a stage's name.
  [[nodiscard]] std::filesystem::path directory_of(const std::string& stage_name) const;
};

/// The 4-bit options of a stage, or none.
[[nodiscard]] std::optional<quant::QuantizeOptions> quantize_options(const QuantizationOptions& options);

/// Opens what a stage (or "base") left: a model folder, or an adapter on its base in the form it was trained
/// on.
[[nodiscard]] hub::OpenedModel open_stage_model(const StageContext& context, const std::string& stage_name);

/// Loss per token and bits per byte of the held-out text, by language code, as in summary.json.
[[nodiscard]] io::Json score_held_out(const StageContext& context, models::LanguageModel& model,
                                      const text::Tokenizer& tokenizer,
                                      const eval::PerplexityOptions& options = {});

/// Warns of languages whose score is above that of guessing bytes, once each in a stage. `when`: "before
/// training", "at step 30".
void warn_of_scores(StageContext& context, const io::Json& languages, const std::string& when);

// One function a type of stage; figures go into context.result.
void run_stage(const TokenizerStage& options, StageContext& context);
void run_stage(const PretrainStage& options, StageContext& context);
void run_stage(const EvaluateStage& options, StageContext& context);
void run_stage(const ExtendStage& options, StageContext& context);
void run_stage(const CptStage& options, StageContext& context);
void run_stage(const SftStage& options, StageContext& context);
void run_stage(const MergeStage& options, StageContext& context);
void run_stage(const EvaluateEncoderStage& options, StageContext& context);
void run_stage(const EvaluateRetrievalStage& options, StageContext& context);
void run_stage(const ExtendEncoderStage& options, StageContext& context);
void run_stage(const MaskedLmStage& options, StageContext& context);
void run_stage(const ContrastiveStage& options, StageContext& context);
void run_stage(const EvaluateMexaStage& options, StageContext& context);
void run_stage(const EvaluateLexiconStage& options, StageContext& context);
void run_stage(const AlignWordsStage& options, StageContext& context);
void run_stage(const LanguageAdaptersStage& options, StageContext& context);
void run_stage(const LateInteractionStage& options, StageContext& context);
void run_stage(const MineNegativesStage& options, StageContext& context);
void run_stage(const CrossEncoderStage& options, StageContext& context);
void run_stage(const ContextPredictionStage& options, StageContext& context);
void run_stage(const DocumentEncoderStage& options, StageContext& context);
void run_stage(const SimilarityStage& options, StageContext& context);
void run_stage(const EvaluateSimilarityStage& options, StageContext& context);

}  // namespace bitrain::recipe
