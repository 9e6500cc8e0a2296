#include <bitrain/recipe/sources.h>

#include <algorithm>
#include <filesystem>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/data/next_sentence.h>
#include <bitrain/recipe/stage_folders.h>

namespace bitrain::recipe {

data::SourceOptions side_options(const Recipe& recipe, const TextOptions& side, const std::string& name) {
  data::SourceOptions options;
  options.path = resolve(recipe, side.path).string();
  options.format = side.format;
  options.name = name;
  options.language = side.language;
  options.column = side.column;
  options.text_field = side.text_field;
  options.reads = "text";
  options.held_out_every = recipe.held_out.every;
  options.held_out_last = recipe.held_out.last;
  options.skip_invalid = recipe.skip_invalid;
  return options;
}

data::SourceOptions file_options(const Recipe& recipe, const SftStage& stage,
                                 const ConversationFileOptions& file) {
  data::SourceOptions options;
  options.path = resolve(recipe, file.path).string();
  options.name = name_of(file);
  options.format = file.format;
  options.language = file.language;
  options.messages_field = file.messages_field;
  options.prompt_field = file.prompt_field;
  options.response_field = file.response_field;
  options.reads = "conversations";
  for (const auto& [role, format] : stage.objective.roles) {
    options.roles.push_back(role);
    if (format.supervised) options.learnt_roles.push_back(role);
  }
  options.held_out_every = recipe.held_out.every;
  options.held_out_last = recipe.held_out.last;
  options.skip_invalid = recipe.skip_invalid || file.skip_invalid;
  return options;
}

data::SourceOptions pair_file_options(const Recipe& recipe, const PairFileOptions& file) {
  data::SourceOptions options;
  options.path = file.stage.empty() ? resolve(recipe, file.path).string()
                                    : (stage_directory(recipe, file.stage) / kMinedFile).string();
  options.name = name_of(file);
  options.format = "jsonl";
  options.text_field = file.text_field;
  options.pair_field = file.pair_field;
  options.negatives_field = file.negatives_field;
  options.language = file.language.empty() ? recipe.source.language : file.language;
  options.pair_language = file.pair_language.empty() ? recipe.target.language : file.pair_language;
  options.skip_invalid = recipe.skip_invalid;
  return options;
}

data::SourceOptions pair_options(const Recipe& recipe, const std::string& name) {
  if (recipe.source.path != recipe.target.path)
    throw ConfigError(name, ": pairs need source and target in one TSV file");
  data::SourceOptions options = side_options(recipe, recipe.source, name);
  options.pair_column = recipe.target.column;
  options.pair_language = recipe.target.language;
  return options;
}

namespace {

/// Collects the files of stages besides source and target, those that earlier stages write left out.
class StageFiles {
 public:
  StageFiles(const Recipe& recipe, std::vector<InputFile>& files) : recipe_(recipe), files_(files) {}

  void add(const Stage& stage) {
    key_ = "stages." + stage.name + ".";
    std::visit([this](const auto& options) { visit(options); }, stage.options);
  }

 private:
  void visit(const SftStage& stage) {
    each(stage.files, [&](const auto& file) { return file_options(recipe_, stage, file); });
  }
  void visit(const ContrastiveStage& stage) { pairs(stage.files); }
  void visit(const LateInteractionStage& stage) { pairs(stage.files); }
  void visit(const CrossEncoderStage& stage) { pairs(stage.files); }
  void visit(const MineNegativesStage& stage) {
    if (stage.pairs.stage.empty())
      files_.push_back({key_ + "pairs", pair_file_options(recipe_, stage.pairs)});
  }
  void visit(const SimilarityStage& stage) { scored(stage.files); }
  void visit(const EvaluateSimilarityStage& stage) { scored(stage.files); }
  template <class Other>
  void visit(const Other& /*stage*/) {}

  void pairs(const std::vector<PairFileOptions>& files) {
    each(files, [this](const PairFileOptions& file) -> std::optional<data::SourceOptions> {
      if (!file.stage.empty()) return std::nullopt;
      return pair_file_options(recipe_, file);
    });
  }
  void scored(const std::vector<ScoredFileOptions>& files) {
    each(files, [this](const ScoredFileOptions& file) { return scored_options(recipe_, file); });
  }
  template <class File, class Options>
  void each(const std::vector<File>& files, const Options& options_of) {
    for (std::size_t i = 0; i < files.size(); ++i)
      if (const std::optional<data::SourceOptions> options = options_of(files[i]))
        files_.push_back({key_ + "files[" + std::to_string(i) + "]", *options});
  }

  const Recipe& recipe_;
  std::vector<InputFile>& files_;
  std::string key_;
};

data::SourcePtr open_instructions(const Recipe& recipe, const InstructionOptions& set, data::Split split) {
  const data::SourceOptions options =
      set.rows == "pairs"
          ? pair_options(recipe, set.name)
          : side_options(recipe, set.rows == "target" ? recipe.target : recipe.source, set.name);
  std::vector<data::Transform> transforms;
  for (const data::TransformOptions& transform : set.transforms)
    transforms.push_back(data::make_transform(transform));
  return data::transform_source(data::open_source(options, split), std::move(transforms));
}

template <class Options>
StageData text_data(const Recipe& recipe, const Options& options,
                    const std::shared_ptr<const text::Tokenizer>& tokenizer, data::Split split) {
  StageData data;
  for (const bool target : {false, true})
    data.sources.push_back(open_side(recipe, target, split, options.data.lines_per_document));
  data.objective =
      std::make_unique<objectives::CausalLm>(tokenizer, data::languages_of(data.sources), options.objective);
  data.loader = options.data.loader;
  data.train = options.train;
  return data;
}

}  // namespace

data::SourcePtr open_side(const Recipe& recipe, bool target, data::Split split,
                          std::int64_t lines_per_document) {
  data::SourceOptions options =
      side_options(recipe, target ? recipe.target : recipe.source, target ? "target" : "source");
  options.lines_per_document = lines_per_document;
  return data::open_source(options, split);
}

const std::vector<std::string>& HeldOutLines::of(bool target) {
  if (recipe_.held_out.every == 0 && recipe_.held_out.last == 0)
    throw ConfigError("held_out: nothing is kept for evaluation; set held_out.every or held_out.last");
  std::optional<std::vector<std::string>>& lines = sides_[target ? 1 : 0];
  if (!lines)
    lines =
        data::texts_of(*open_side(recipe_, target, data::Split::kHeldOut), recipe_.held_out.max_documents);
  return *lines;
}

data::SourcePtr open_pairs(const Recipe& recipe, data::Split split, std::int64_t lines_per_document) {
  data::SourceOptions options = pair_options(recipe, "pairs");
  options.lines_per_document = lines_per_document;
  return data::open_source(options, split);
}

std::string name_of(const PairFileOptions& file) {
  return file.stage.empty() ? std::filesystem::path(file.path).stem().string() : file.stage;
}

std::string name_of(const ConversationFileOptions& file) {
  return file.name.empty() ? std::filesystem::path(file.path).stem().string() : file.name;
}

data::SourceOptions scored_options(const Recipe& recipe, const ScoredFileOptions& file) {
  data::SourceOptions options;
  options.path = resolve(recipe, file.path).string();
  options.format = "jsonl";
  options.name = name_of(file);
  options.text_field = file.text_field;
  options.pair_field = file.pair_field;
  options.score_field = file.score_field;
  options.language = file.language.empty() ? recipe.source.language : file.language;
  options.pair_language = file.pair_language.empty() ? options.language : file.pair_language;
  options.skip_invalid = recipe.skip_invalid;
  return options;
}

data::SourcePtr open_pair_file(const Recipe& recipe, const PairFileOptions& file,
                               data::SourceCounts* counts) {
  return data::open_source(pair_file_options(recipe, file), data::Split::kAll, counts);
}

std::vector<data::SourcePtr> open_pair_files(const Recipe& recipe,
                                             const std::vector<PairFileOptions>& files) {
  std::vector<data::SourcePtr> sources;
  sources.reserve(files.size());
  for (const PairFileOptions& file : files) sources.push_back(open_pair_file(recipe, file));
  return sources;
}

std::vector<data::SourcePtr> open_training_pairs(const Recipe& recipe, const ContrastiveStage& options) {
  std::vector<data::SourcePtr> sources = open_pair_files(recipe, options.files);
  if (options.pairs) sources.insert(sources.begin(), open_pairs(recipe, data::Split::kTrain));
  return sources;
}

data::SourcePtr open_next_sentences(const Recipe& recipe, const MaskedLmStage& options, bool target,
                                    data::Split split) {
  return data::next_sentence_source(open_side(recipe, target, split, options.lines_per_document),
                                    static_cast<std::uint64_t>(recipe.seed));
}

std::vector<data::SourcePtr> open_masked_texts(const Recipe& recipe, const MaskedLmStage& options) {
  constexpr data::Split kTrain = data::Split::kTrain;
  std::vector<data::SourcePtr> sources;
  for (const bool target : {false, true}) {
    if (!options.texts) break;
    sources.push_back(options.next_sentence ? open_next_sentences(recipe, options, target, kTrain)
                                            : open_side(recipe, target, kTrain));
  }
  if (options.pairs) sources.push_back(open_pairs(recipe, kTrain));
  return sources;
}

std::vector<data::SourcePtr> open_conversations(const Recipe& recipe, const SftStage& options,
                                                data::Split split) {
  std::vector<data::SourcePtr> sources;
  for (const InstructionOptions& set : options.instructions)
    sources.push_back(open_instructions(recipe, set, split));
  for (const ConversationFileOptions& file : options.files)
    sources.push_back(data::open_source(file_options(recipe, options, file), split));
  return sources;
}

std::vector<InputFile> input_files(const Recipe& recipe) {
  std::vector<InputFile> files;
  if (has_lines(recipe))
    files = {{"source", side_options(recipe, recipe.source, "source")},
             {"target", side_options(recipe, recipe.target, "target")}};
  StageFiles stage_files(recipe, files);
  for (const Stage& stage : recipe.stages) stage_files.add(stage);
  return files;
}

std::map<std::string, std::int64_t> count_invalid_rows(const Recipe& recipe) {
  std::map<std::string, std::int64_t> invalid;
  for (const auto& [key, file] : input_files(recipe)) {
    if (!file.skip_invalid) continue;
    data::SourceCounts counts;
    (void)data::open_source(file, data::Split::kAll, &counts);
    // Source and target may be columns of one file: a row that lacks either counts once.
    std::int64_t& count = invalid[file.path];
    count = std::max(count, counts.invalid);
    if (counts.invalid > 0)
      log_info(file.name, ": ", counts.invalid, " of ", counts.rows, " rows of ", file.path,
               " cannot be read and are left out");
  }
  return invalid;
}

std::optional<StageData> stage_data(const Recipe& recipe, const Stage& stage,
                                    const std::shared_ptr<const text::Tokenizer>& tokenizer,
                                    data::Split split) {
  if (const auto* pretrain = std::get_if<PretrainStage>(&stage.options))
    return text_data(recipe, *pretrain, tokenizer, split);
  if (const auto* cpt = std::get_if<CptStage>(&stage.options))
    return text_data(recipe, *cpt, tokenizer, split);
  const auto* sft = std::get_if<SftStage>(&stage.options);
  if (sft == nullptr) return std::nullopt;
  StageData data;
  data.sources = open_conversations(recipe, *sft, split);
  auto objective =
      std::make_unique<objectives::Sft>(tokenizer, data::languages_of(data.sources), sft->objective);
  data.sft = objective.get();
  data.objective = std::move(objective);
  data.loader = sft->loader;
  data.train = sft->train;
  return data;
}

}  // namespace bitrain::recipe
