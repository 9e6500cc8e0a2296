#include <bitrain/recipe/sources.h>

#include <filesystem>

#include <bitrain/base/error.h>

namespace bitrain::recipe {
namespace {

/// One side as a source; rows kept for evaluation are the same everywhere.
data::SourceOptions side_options(const Recipe& recipe, const TextOptions& side, const std::string& name) {
  data::SourceOptions options;
  options.path = resolve(recipe, side.path).string();
  options.format = side.format;
  options.name = name;
  options.language = side.language;
  options.column = side.column;
  options.held_out_every = recipe.held_out.every;
  options.held_out_last = recipe.held_out.last;
  return options;
}

data::SourcePtr open_instructions(const Recipe& recipe, const InstructionOptions& set, data::Split split) {
  data::SourceOptions options =
      side_options(recipe, set.rows == "target" ? recipe.target : recipe.source, set.name);
  if (set.rows == "pairs") {
    if (recipe.source.path != recipe.target.path)
      throw ConfigError("instructions ", set.name, ": pairs need source and target in one TSV file");
    options.pair_column = recipe.target.column;
    options.pair_language = recipe.target.language;
  }
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
    data.sources.push_back(
        open_side(recipe, target, split, options.data.lines_per_document, options.data.skip_invalid));
  data.objective =
      std::make_unique<objectives::CausalLm>(tokenizer, data::languages_of(data.sources), options.objective);
  data.loader = options.data.loader;
  data.train = options.train;
  return data;
}

}  // namespace

data::SourcePtr open_side(const Recipe& recipe, bool target, data::Split split,
                          std::int64_t lines_per_document, bool skip_invalid) {
  data::SourceOptions options =
      side_options(recipe, target ? recipe.target : recipe.source, target ? "target" : "source");
  options.lines_per_document = lines_per_document;
  options.skip_invalid = skip_invalid;
  return data::open_source(options, split);
}

std::vector<std::string> held_out_lines(const Recipe& recipe, bool target) {
  if (recipe.held_out.every == 0 && recipe.held_out.last == 0)
    throw ConfigError("held_out: nothing is kept for evaluation; set held_out.every or held_out.last");
  return data::texts_of(*open_side(recipe, target, data::Split::kHeldOut), recipe.held_out.max_documents);
}

std::vector<data::SourcePtr> open_conversations(const Recipe& recipe, const SftStage& options,
                                                data::Split split) {
  std::vector<data::SourcePtr> sources;
  for (const InstructionOptions& set : options.instructions)
    sources.push_back(open_instructions(recipe, set, split));
  for (const std::string& file : options.files) {
    data::SourceOptions source;
    source.path = resolve(recipe, file).string();
    source.name = std::filesystem::path(file).stem().string();
    source.held_out_every = recipe.held_out.every;
    source.held_out_last = recipe.held_out.last;
    sources.push_back(data::open_source(source, split));
  }
  return sources;
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
