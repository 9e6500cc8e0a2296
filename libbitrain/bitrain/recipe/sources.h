#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/data/source.h>
#include <bitrain/objectives/objective.h>
#include <bitrain/objectives/sft.h>
#include <bitrain/recipe/recipe.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::recipe {

/// What a training stage reads, and how it becomes tokens.
struct StageData {
  std::vector<data::SourcePtr> sources;
  std::unique_ptr<objectives::Objective> objective;
  const objectives::Sft* sft = nullptr;  ///< The objective, when it is one.
  data::LoaderOptions loader;
  train::TrainOptions train;
};

/// Sources and objective of a stage of type pretrain, cpt or sft; nothing for others.
[[nodiscard]] std::optional<StageData> stage_data(const Recipe& recipe, const Stage& stage,
                                                  const std::shared_ptr<const text::Tokenizer>& tokenizer,
                                                  data::Split split);

/// How the files of a recipe are read. One side; rows kept for evaluation are the same everywhere.
[[nodiscard]] data::SourceOptions side_options(const Recipe& recipe, const TextOptions& side,
                                               const std::string& name);
/// Both sides, as columns of one file. Throws ConfigError when they are in two.
[[nodiscard]] data::SourceOptions pair_options(const Recipe& recipe, const std::string& name);
/// A file of conversations that `stage` reads.
[[nodiscard]] data::SourceOptions file_options(const Recipe& recipe, const SftStage& stage,
                                               const ConversationFileOptions& file);
[[nodiscard]] data::SourceOptions pair_file_options(const Recipe& recipe, const PairFileOptions& file);
/// A file that a recipe names, and how its rows are read.
struct InputFile {
  std::string key;  ///< "source", "stages.tune.files[0]": where the recipe has its path.
  data::SourceOptions options;
};
/// All of them: both sides, where there is text, and the files of every stage but those that earlier stages
/// write.
[[nodiscard]] std::vector<InputFile> input_files(const Recipe& recipe);

/// Text of one side as a source called "source" or "target".
[[nodiscard]] data::SourcePtr open_side(const Recipe& recipe, bool target, data::Split split,
                                        std::int64_t lines_per_document = 1);
/// The lines that are kept for evaluation, read from the files once: all evaluations of a run come back to
/// them.
class HeldOutLines {
 public:
  /// `recipe` must outlive it.
  explicit HeldOutLines(const Recipe& recipe) : recipe_(recipe) {}

  /// Those of one side. Throws ConfigError when none are kept.
  [[nodiscard]] const std::vector<std::string>& of(bool target);

 private:
  const Recipe& recipe_;
  std::optional<std::vector<std::string>> sides_[2];
};

/// The lines of source and target side by side, or documents of several, from one TSV file: text and
/// pair_text. Throws ConfigError when they are in two files.
[[nodiscard]] data::SourcePtr open_pairs(const Recipe& recipe, data::Split split,
                                         std::int64_t lines_per_document = 1);

/// A file of pairs of a stage: a path of the recipe, or what a mine_negatives stage wrote. Its name in
/// mixtures is the file's without ending, or the stage's.
[[nodiscard]] data::SourcePtr open_pair_file(const Recipe& recipe, const PairFileOptions& file,
                                             data::SourceCounts* counts = nullptr);
[[nodiscard]] std::vector<data::SourcePtr> open_pair_files(const Recipe& recipe,
                                                           const std::vector<PairFileOptions>& files);
[[nodiscard]] std::string name_of(const PairFileOptions& file);

/// A file of scored pairs as a source.
[[nodiscard]] data::SourceOptions scored_options(const Recipe& recipe, const ScoredFileOptions& file);

/// Name of a file of conversations in mixtures.
[[nodiscard]] std::string name_of(const ConversationFileOptions& file);

/// All pairs that a contrastive stage trains on.
[[nodiscard]] std::vector<data::SourcePtr> open_training_pairs(const Recipe& recipe,
                                                               const ContrastiveStage& options);

/// All that a masked_lm stage reads: lines, or with next_sentence pairs of sentences, of source and of
/// target; then lines beside their translations.
[[nodiscard]] std::vector<data::SourcePtr> open_masked_texts(const Recipe& recipe,
                                                             const MaskedLmStage& options);

/// Pairs of sentences of one side, as next_sentence reads them.
[[nodiscard]] data::SourcePtr open_next_sentences(const Recipe& recipe, const MaskedLmStage& options,
                                                  bool target, data::Split split);

/// The conversations of an sft stage.
[[nodiscard]] std::vector<data::SourcePtr> open_conversations(const Recipe& recipe, const SftStage& options,
                                                              data::Split split);

/// Rows that cannot be read and are left out, by file, of the files for which skip_invalid is set; also
/// logged.
[[nodiscard]] std::map<std::string, std::int64_t> count_invalid_rows(const Recipe& recipe);

}  // namespace bitrain::recipe
