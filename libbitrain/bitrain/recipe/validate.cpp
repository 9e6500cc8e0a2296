#include <bitrain/recipe/validate.h>

#include <algorithm>

#include <bitrain/base/cuda_library.h>
#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/byte_reader.h>
#include <bitrain/io/directory.h>
#include <bitrain/recipe/run.h>
#include <bitrain/recipe/sources.h>
#include <bitrain/recipe/stage_folders.h>
#include <bitrain/recipe/validate_inputs.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

/// Why a path cannot be read as a file again and again; empty: it can.
std::string problem_of_file(const fs::path& path, const std::string& name) {
  switch (io::kind_of(path)) {
    case io::PathKind::kFile: return "";
    case io::PathKind::kMissing: return "there is no file " + name;
    case io::PathKind::kFolder: return name + " is no file but a folder";
    case io::PathKind::kDevice: return name + " is no file but a device";
    case io::PathKind::kPipe:
      return name + " is a pipe, which can be read only once; write it to a file and name that";
  }
  return "";
}

void check_file(const Recipe& recipe, const TextOptions& side, const std::string& key, const Node* document,
                Problems& problems) {
  if (side.path.empty()) return;
  const fs::path path = resolve(recipe, side.path);
  const std::string where = key + ".path";
  if (const std::string problem = problem_of_file(path, path.string()); !problem.empty())
    problems.add(mark_of(recipe, document, where), where, problem);
}

void check_dir(const Recipe& recipe, const Node* document, Problems& problems) {
  try {
    io::check_output_directory(recipe.dir);
  } catch (const Error& problem) {
    problems.add(mark_of(recipe, document, "dir"), "dir", problem.what());
  }
}

void check_weights(const Recipe& recipe, const Node* document, const std::string& key,
                   const data::MixtureOptions& mixture, const std::vector<std::string>& sources,
                   Problems& problems) {
  const auto check = [&](const std::map<std::string, double>& weights, const std::string& where) {
    for (const auto& [name, weight] : weights) {
      bool known = false;
      for (const std::string& source : sources) known = known || source == name;
      if (!known)
        problems.add(mark_of(recipe, document, where), std::string(where).append(".").append(name),
                     "there is no source '" + name + "'" + did_you_mean(name, sources) + "; there are " +
                         join(sources, ", "));
    }
  };
  check(mixture.weights, key + ".mixture.weights");
}

/// Files and folders that a stage names must be there.
void check_references(const Recipe& recipe, const Stage& stage, const Node* document, Problems& problems) {
  for (const Reference& reference : references_of(stage)) {
    const std::string key = "stages." + stage.name + "." + reference.key;
    const fs::path path = resolve(recipe, reference.name);
    std::error_code error;
    if (reference.kind == Refers::kFile)
      if (const std::string problem = problem_of_file(path, reference.name); !problem.empty())
        problems.add(mark_of(recipe, document, key), key, problem);
    if (reference.kind == Refers::kFolder && !fs::is_directory(path, error))
      problems.add(mark_of(recipe, document, key), key, "there is no folder " + reference.name);
  }
}

void check_stage_inputs(const Recipe& recipe, const Stage& stage, const Node* document, Problems& problems) {
  const std::string key = "stages." + stage.name;
  if (const auto* pretrain = std::get_if<PretrainStage>(&stage.options))
    check_weights(recipe, document, key + ".data.loader", pretrain->data.loader.mixture, {"source", "target"},
                  problems);
  if (const auto* cpt = std::get_if<CptStage>(&stage.options))
    check_weights(recipe, document, key + ".data.loader", cpt->data.loader.mixture, {"source", "target"},
                  problems);
  if (const auto* masked = std::get_if<MaskedLmStage>(&stage.options)) {
    std::vector<std::string> names;
    if (masked->texts) names = {"source", "target"};
    if (masked->pairs) names.emplace_back("pairs");
    check_weights(recipe, document, key + ".loader", masked->loader.mixture, names, problems);
    if (masked->next_sentence && recipe.held_out.every > 0)
      problems.add(mark_of(recipe, document, "held_out.every"), "held_out.every",
                   "leaves no line beside its next, which next_sentence asks for: set held_out.last");
    if (masked->pairs && recipe.source.path != recipe.target.path)
      problems.add(mark_of(recipe, document, "target.path"), "target.path",
                   "pairs need source and target in one TSV file");
  }
  if (std::holds_alternative<EvaluateMexaStage>(stage.options) && recipe.source.path != recipe.target.path)
    problems.add(mark_of(recipe, document, "target.path"), "target.path",
                 "pairs need source and target in one TSV file");
  if (const auto* contrastive = std::get_if<ContrastiveStage>(&stage.options)) {
    std::vector<std::string> names;
    if (contrastive->pairs) names.emplace_back("pairs");
    for (const PairFileOptions& file : contrastive->files) names.push_back(name_of(file));
    check_weights(recipe, document, key + ".loader", contrastive->loader.mixture, names, problems);
    if (has_lines(recipe) && recipe.source.path != recipe.target.path)
      problems.add(mark_of(recipe, document, "target.path"), "target.path",
                   "pairs need source and target in one TSV file");
  }
  if (const auto* late = std::get_if<LateInteractionStage>(&stage.options)) {
    std::vector<std::string> names;
    for (const PairFileOptions& file : late->files) names.push_back(name_of(file));
    check_weights(recipe, document, key + ".loader", late->loader.mixture, names, problems);
  }
  if (const auto* cross = std::get_if<CrossEncoderStage>(&stage.options)) {
    std::vector<std::string> names;
    for (const PairFileOptions& file : cross->files) names.push_back(name_of(file));
    check_weights(recipe, document, key + ".loader", cross->loader.mixture, names, problems);
  }
  if (const auto* context = std::get_if<ContextPredictionStage>(&stage.options))
    check_weights(recipe, document, key + ".loader", context->loader.mixture, {"source", "target"}, problems);
  const auto* documents = std::get_if<DocumentEncoderStage>(&stage.options);
  if (documents != nullptr && recipe.source.path != recipe.target.path)
    problems.add(mark_of(recipe, document, "target.path"), "target.path",
                 "pairs of documents need source and target in one TSV file");
  if (const auto* similarity = std::get_if<SimilarityStage>(&stage.options)) {
    std::vector<std::string> names;
    for (const ScoredFileOptions& file : similarity->files) names.push_back(name_of(file));
    check_weights(recipe, document, key + ".loader", similarity->loader.mixture, names, problems);
  }
  if (const auto* sft = std::get_if<SftStage>(&stage.options)) {
    std::vector<std::string> names;
    for (const InstructionOptions& set : sft->instructions) names.push_back(set.name);
    for (const ConversationFileOptions& file : sft->files) names.push_back(name_of(file));
    check_weights(recipe, document, key + ".loader", sft->loader.mixture, names, problems);
  }
  if (const auto* extend = std::get_if<ExtendStage>(&stage.options)) {
    try {
      (void)vocab::rules_of(extend->initialiser);
    } catch (const Error& error) {
      problems.add(mark_of(recipe, document, key + ".initialiser"), key + ".initialiser", error.what());
    }
  }
}

/// Whether a stage cannot do without lines of source and target.
bool reads_lines(const Recipe& recipe, const Stage& stage) {
  if (works_on_files_alone(recipe, stage)) return false;
  if (const auto* contrastive = std::get_if<ContrastiveStage>(&stage.options)) return contrastive->pairs;
  return !is_one_of<EvaluateRetrievalStage, SimilarityStage, EvaluateSimilarityStage, LanguageAdaptersStage,
                    LateInteractionStage, MineNegativesStage, CrossEncoderStage, EvaluateLexiconStage,
                    AlignWordsStage>(stage.options);
}

/// Whether it scores what it trained on rows of its own files.
bool holds_rows_out(const Stage& stage) {
  const auto* sft = std::get_if<SftStage>(&stage.options);
  return sft != nullptr && !sft->files.empty();
}

/// A stage's folder must be its own.
void check_folder(const Recipe& recipe, const Stage& stage, const Node* document, Problems& problems) {
  if (problems.mentions("dir")) return;
  const std::string key = "stages." + stage.name;
  try {
    check_place(stage, stage_directory(recipe, stage.name));
  } catch (const Error& error) {
    problems.add(mark_of(recipe, document, key), key, error.what());
  }
}

void check_all(const Recipe& recipe, const Node* document, BaseFiles base, Problems& problems) {
  check_file(recipe, recipe.source, "source", document, problems);
  check_file(recipe, recipe.target, "target", document, problems);
  const bool one_side = recipe.source.path.empty() != recipe.target.path.empty();
  const std::string missing = recipe.source.path.empty() ? "source" : "target";
  if (one_side && !problems.mentions(missing + ".path"))
    problems.add(mark_of(recipe, document, missing), missing + ".path", "is missing: the other side has one");
  if (!recipe.source.language.empty() && recipe.source.language == recipe.target.language)
    problems.add(mark_of(recipe, document, "target.language"), "target.language",
                 "is the source's language too: '" + recipe.target.language + "'");
  const bool holds_out =
      has_lines(recipe) || std::any_of(recipe.stages.begin(), recipe.stages.end(), holds_rows_out);
  if (holds_out && recipe.held_out.every == 0 && recipe.held_out.last == 0 && !problems.mentions("held_out"))
    problems.add(mark_of(recipe, document, "held_out"), "held_out",
                 "nothing is kept for evaluation: set every or last");
  if (recipe.held_out.every == 1 &&
      std::any_of(recipe.stages.begin(), recipe.stages.end(),
                  [](const Stage& stage) { return training_of(stage.options).has_value(); }))
    problems.add(mark_of(recipe, document, "held_out.every"), "held_out.every",
                 "keeps every row for evaluation and leaves none to train on");
  check_dir(recipe, document, problems);
  if (!recipe.base.empty()) check_base(recipe, document, base, problems);
  if (recipe.device == "cuda")
    for (const std::string& reason : missing_for_cuda())
      problems.add(mark_of(recipe, document, "device"), "device", reason);
  if (problems.empty())
    for (const auto& [key, what] : reads_own_folders(recipe))
      problems.add(mark_of(recipe, document, key), key, what);
  for (const Stage& stage : recipe.stages) {
    check_folder(recipe, stage, document, problems);
    if (!has_lines(recipe) && !one_side && reads_lines(recipe, stage))
      problems.add(mark_of(recipe, document, "stages." + stage.name), "stages." + stage.name,
                   "reads lines of text: set source.path and target.path");
    check_references(recipe, stage, document, problems);
    check_stage_inputs(recipe, stage, document, problems);
  }
}

/// The plans of all stages, or none when there are problems: those that shapes show are added, but of stages
/// of which something is said already.
std::vector<MemoryPlan> plan_stages(const Recipe& recipe, const Node& document, Problems& problems) {
  if (problems.mentions("base")) return {};
  std::vector<MemoryPlan> plans = memory_plan(recipe, [&](const Stage& stage, const std::string& what) {
    const std::string key = "stages." + stage.name;
    if (!problems.mentions(key)) problems.add(mark_of(recipe, &document, key), key, what);
  });
  if (!problems.empty()) plans.clear();
  return plans;
}

}  // namespace

Validation validate(const fs::path& file, const std::vector<std::string>& overrides) {
  Node document = load_yaml(file);
  for (const std::string& assignment : overrides) apply_override(document, assignment);
  Validation result;
  result.recipe = read_recipe(document, file, result.problems);
  check_all(result.recipe, &document, BaseFiles::kAll, result.problems);
  check_first_rows(result.recipe, &document, result.problems);
  result.plans = plan_stages(result.recipe, document, result.problems);
  return result;
}

void check_inputs(const Recipe& recipe, BaseFiles base) {
  Problems problems;
  check_all(recipe, recipe.document.get(), base, problems);
  problems.raise();
  check_first_rows(recipe, recipe.document.get(), problems);
  if (!problems.empty()) throw DataError(problems.text());
}

}  // namespace bitrain::recipe
