#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/data/source.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/train/trainer.h>

/// What the stages that work with sentence encoders share.
namespace bitrain::recipe {

/// The encoder that a stage (or "base") left, with the recipe's languages.
[[nodiscard]] hub::OpenedSentenceEncoder open_stage_encoder(const StageContext& context,
                                                            const std::string& stage);

/// From now on the encoder pools a text without what its tokenizer frames it with: [CLS] and [SEP].
void leave_out_special_tokens(const hub::OpenedSentenceEncoder& opened);

/// Always in float32, so that every reader computes what was trained, whatever it takes for its own type.
void save_stage_encoder(const std::filesystem::path& folder, models::SentenceEncoder& model,
                        const text::Tokenizer& tokenizer, const hub::SentenceSettings& settings);

/// The languages of sources behind the recipe's two, which held-out text is in whatever the stage trains on.
[[nodiscard]] std::vector<std::string> encoder_languages(const Recipe& recipe,
                                                         const std::vector<data::SourcePtr>& sources);

/// Held-out lines, and what the model that the recipe began with says of the source's: encoded once a stage.
class HeldOutPairs {
 public:
  /// Throws DataError for fewer than two pairs.
  HeldOutPairs(const StageContext& context, RetrievalOptions options);

  /// Retrieval both ways, agreement with the base on the source language, and the picture of similarities.
  [[nodiscard]] io::Json score(models::SentenceEncoder& model, const text::Tokenizer& tokenizer);

  /// The vectors of held-out lines, [N, D] each: row i of one side translates row i of the other.
  struct Sides {
    at::Tensor source;
    at::Tensor target;
    models::PoolingMargins margins = {};  ///< What pooling left out.
  };
  [[nodiscard]] Sides embed(models::SentenceEncoder& model, const text::Tokenizer& tokenizer) const;
  /// The score of these.
  [[nodiscard]] io::Json score(const Sides& sides);
  /// Texts of one side, encoded as the held-out lines are.
  [[nodiscard]] at::Tensor embed(models::SentenceEncoder& model, const text::Tokenizer& tokenizer,
                                 const std::vector<std::string>& texts, bool target) const;

 private:
  [[nodiscard]] const std::vector<double>& base_cosines(const models::PoolingMargins& margins);

  const StageContext& context_;
  RetrievalOptions options_;
  std::vector<std::string> texts_;
  std::vector<std::string> translations_;
  std::vector<double> base_cosines_;
};

/// {"en-es": {"accuracy_at_1": .., "mrr_at_10": ..}, "es-en": ..}.
[[nodiscard]] io::Json pair_scores_json(const Recipe& recipe, const eval::PairScores& scores);

/// Scores of held-out pairs as the trainer wants them: by pair of languages, and the agreement by language.
[[nodiscard]] train::LanguageFigures retrieval_figures(const io::Json& scores);

}  // namespace bitrain::recipe
