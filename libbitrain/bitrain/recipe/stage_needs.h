#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <bitrain/recipe/recipe.h>
#include <bitrain/recipe/stage_shapes.h>
#include <bitrain/recipe/text_sample.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::recipe {

/// Bytes that a stage holds besides the model it trains or reads, its adapters and its optimizer.
struct StageNeeds {
  std::uint64_t data = 0;    ///< Texts, what is learned of them, tokenizers.
  std::uint64_t models = 0;  ///< Models beside the stage's own, held as long as it.
  std::uint64_t passes = 0;  ///< What waits for backward, and the widest point of a pass.
  /// What is held for a time besides passes of training: passes of evaluation, models that are compared with,
  /// vectors, copies that are saved. It takes the memory that training's passes left.
  std::uint64_t scoring = 0;
};

/// Works out the needs of a recipe's stages. It reads the first rows of their files, and a base's tokenizer.
class NeedsCounter {
 public:
  explicit NeedsCounter(const Recipe& recipe);

  /// `shape`: of the stage's model, or null where none is known.
  [[nodiscard]] StageNeeds needs_of(const Stage& stage, const StageShape* shape);

 private:
  using Row = TextSample::Row;

  void visit(const TokenizerStage& options);
  void visit(const PretrainStage& options);
  void visit(const EvaluateStage& options);
  void visit(const ExtendStage& options);
  void visit(const CptStage& options);
  void visit(const SftStage& options);
  void visit(const MergeStage& options);
  void visit(const EvaluateEncoderStage& options);
  void visit(const EvaluateRetrievalStage& options);
  void visit(const ExtendEncoderStage& options);
  void visit(const ContrastiveStage& options);
  void visit(const MaskedLmStage& options);
  void visit(const ContextPredictionStage& options);
  void visit(const DocumentEncoderStage& options);
  void visit(const SimilarityStage& options);
  void visit(const EvaluateSimilarityStage& options);
  void visit(const LanguageAdaptersStage& options);
  void visit(const LateInteractionStage& options);
  void visit(const MineNegativesStage& options);
  void visit(const CrossEncoderStage& options);
  void visit(const EvaluateMexaStage& options);
  void visit(const EvaluateLexiconStage& options);
  void visit(const AlignWordsStage& options);

  // What text costs.
  [[nodiscard]] const TextSample* sample(const data::SourceOptions& options);
  [[nodiscard]] const TextSample* side(bool target);
  [[nodiscard]] const TextSample* pairs();
  void open(const TextSample* sample);
  void keep_lines(const TextSample* sample, double share = 1);
  [[nodiscard]] double held_out_share(const TextSample& sample) const;
  [[nodiscard]] std::int64_t held_out_rows(const TextSample* sample) const;

  // What passes cost.
  [[nodiscard]] std::uint64_t forward(const ModelShape& model, std::int64_t tokens) const;
  [[nodiscard]] std::uint64_t head(const ModelShape& model, std::int64_t tokens, bool trained) const;
  [[nodiscard]] bool computes_wide(const ModelShape& model) const;
  [[nodiscard]] std::uint64_t training(std::int64_t tokens) const;
  [[nodiscard]] std::int64_t rows_in_memory() const;
  void train_rows(const TextSample* sample, const std::function<std::int64_t(const Row&)>& tokens);
  void train_language_model(const data::LoaderOptions& loader);
  void train_on_pairs(const std::vector<PairFileOptions>& files,
                      const std::function<std::int64_t(const Row&)>& tokens);
  void score(std::uint64_t bytes);
  void score_text(std::int64_t batch_tokens);
  void score_lines(std::int64_t max_length);
  [[nodiscard]] std::uint64_t encoding(std::int64_t texts, std::int64_t max_length,
                                       const TextSample* sample) const;
  void save_encoder();
  [[nodiscard]] const TextSample* pair_file(const PairFileOptions& file);

  const Recipe& recipe_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;  ///< Of the base; null where it has none.
  std::map<std::string, std::optional<TextSample>> samples_;
  std::map<std::string, ModelShape> models_;  ///< By stage.
  // Of the stage that is looked at.
  const Stage* stage_ = nullptr;
  const StageShape* shape_ = nullptr;
  StageNeeds needs_;
};

}  // namespace bitrain::recipe
