#include <bitrain/recipe/recipe.h>

#include <algorithm>

#include <bitrain/base/error.h>
#include <bitrain/recipe/decode.h>
#include <bitrain/recipe/stage_kinds.h>
#include <bitrain/recipe/stage_rules.h>

namespace bitrain::recipe {
namespace {

std::vector<std::string> type_names() {
  std::vector<std::string> names;
  for (const StageType& type : stage_types()) names.emplace_back(type.type);
  return names;
}

/// Reads one stage; false when its type is not known.
bool read_stage(const std::string& name, const Node& node, Stage& stage, Problems& problems) {
  const std::string key = "stages." + name;
  if (node.kind != Node::Kind::kMap) {
    problems.add(node.mark, key, "should be a map, not " + node.describe());
    return false;
  }
  stage.name = name;
  if (name.empty() || name == "base" ||
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") !=
          std::string::npos)
    problems.add(node.mark, key, "a stage's name is made of letters, digits, _ and -, and is not 'base'");
  const Node* type = node.find("recipe");
  if (type == nullptr) {
    problems.add(node.mark, key + ".recipe",
                 "is missing: what kind of stage is this? There are " + join(type_names(), ", "));
    return false;
  }
  Rule rule = one_of(type_names());
  decode_to(*type, key + ".recipe", rule, stage.type, problems);
  if (const Node* from = node.find("from"))
    decode_to(*from, key + ".from", not_empty(), stage.from, problems);
  for (StageType& known : stage_types()) {
    if (stage.type != known.type) continue;
    stage.options = std::move(known.defaults);
    decode_fields(node, key, fields_of_stage(stage.options), problems, {"recipe", "from"});
    return true;
  }
  return false;
}

bool trains_a_base(const Stage& stage) {
  return stage.type == "tokenizer" || stage.type == "pretrain";
}

/// Why `from` names nothing that can be read; "" if it does.
std::string problem_of_input(const Stage& stage, const std::vector<std::string>& before) {
  if (std::find(before.begin(), before.end(), stage.from) != before.end()) return "";
  if (!stage.from.empty())
    return "no earlier stage is called '" + stage.from + "'" + did_you_mean(stage.from, before);
  const std::vector<Leaves> kinds = reads(stage.options);
  if (kinds.empty()) return "";
  return "there is nothing to read from: set base=DIR, or put a stage before this one that leaves " +
         describe(kinds);
}

/// Checks who reads from whom, and fills in what a stage reads where nothing is said.
void connect(Recipe& recipe, const Node& stages, Problems& problems) {
  const bool has_base = !recipe.base.empty();
  std::vector<std::string> before;
  if (has_base) before.emplace_back("base");
  std::vector<Stage> kept;
  std::vector<std::string> replaced;
  for (Stage& stage : recipe.stages) {
    const Node& node = *stages.find(stage.name);
    const std::string key = "stages." + stage.name + ".";
    if (has_base && trains_a_base(stage)) {
      replaced.push_back(stage.name);
      continue;
    }
    if (std::find(replaced.begin(), replaced.end(), stage.from) != replaced.end()) stage.from = "base";
    if (stage.from.empty()) stage.from = default_input(stage.options, kept, has_base);
    if (const std::string problem = problem_of_input(stage, before); !problem.empty())
      problems.add(mark_of(node, "from"), key + "from", problem);
    for (const Reference& reference : references_of(stage))
      if (reference.kind == Refers::kStage &&
          std::find(before.begin(), before.end(), reference.name) == before.end())
        problems.add(
            mark_of(node, reference.key), key + reference.key,
            "no earlier stage is called '" + reference.name + "'" + did_you_mean(reference.name, before));
    check_kinds(stage, kept, node, problems);
    before.push_back(stage.name);
    kept.push_back(std::move(stage));
  }
  recipe.stages = std::move(kept);
}

/// Both languages are needed by nearly all stages, and wherever there is text of theirs.
void check_languages(const Recipe& recipe, const Node& document, Problems& problems) {
  std::string why;
  for (const Stage& stage : recipe.stages)
    if (why.empty() && !works_on_files_alone(recipe, stage))
      why = "the stage " + stage.name + " works with it";
  if (!recipe.source.path.empty() || !recipe.target.path.empty()) why = "the text must have one";
  if (why.empty()) return;
  for (const auto& [side, options] : {std::pair{"source", &recipe.source}, {"target", &recipe.target}}) {
    const Node* node = document.find(side);
    if (node == nullptr)
      problems.add(document.mark, side, "is missing: " + why);
    else if (node->find("language") == nullptr)
      problems.add(node->mark, side + std::string(".language"), "is missing: " + why);
  }
}

}  // namespace

const Stage* Recipe::find(const std::string& stage) const {
  for (const Stage& candidate : stages)
    if (candidate.name == stage) return &candidate;
  return nullptr;
}

FieldList fields_of_stage(StageOptions& options) {
  return std::visit([](auto& stage) { return fields_of(stage); }, options);
}

std::vector<Reference> references_of(const Stage& stage) {
  StageOptions options = stage.options;
  return references_of(fields_of_stage(options));
}

std::vector<StageType> stage_types() {
  return {
      {"tokenizer", "Learns a SentencePiece tokenizer.", TokenizerStage{}},
      {"pretrain", "Trains a model from random weights, with the tokenizer of the stage it reads from.",
       PretrainStage{}},
      {"evaluate", "Scores held-out text of both languages.", EvaluateStage{}},
      {"extend_vocab", "Adds pieces of the target language to tokenizer and model.", ExtendStage{}},
      {"cpt", "Continual pre-training of all weights, or of LoRA adapters on a 4-bit or 16-bit base.",
       CptStage{}},
      {"sft", "Supervised fine-tuning of all weights, or of adapters, on conversations.", SftStage{}},
      {"merge", "Folds the adapter of the stage it reads from into its base, and checks the result.",
       MergeStage{}},
      {"evaluate_encoder", "Finds held-out lines by their translations, both ways.", EvaluateEncoderStage{}},
      {"evaluate_retrieval", "Searches retrieval sets in BEIR's layout: nDCG, MRR, recall, beside BM25.",
       EvaluateRetrievalStage{}},
      {"extend_encoder", "Adds pieces of the target language to the WordPiece tokenizer of an encoder.",
       ExtendEncoderStage{}},
      {"contrastive", "Trains a sentence encoder on the pairs of source and target.", ContrastiveStage{}},
      {"masked_lm", "Trains an encoder to predict hidden words of texts and of pairs.", MaskedLmStage{}},
      {"context_prediction", "Trains a sentence encoder to tell what stands near a sentence in its document.",
       ContextPredictionStage{}},
      {"document_encoder", "Trains an encoder of documents over one of sentences, on pairs of documents.",
       DocumentEncoderStage{}},
      {"similarity", "Trains a sentence encoder on pairs with scores: their cosines become the scores.",
       SimilarityStage{}},
      {"evaluate_similarity", "Correlates the cosines of pairs with scores that people gave (STS).",
       EvaluateSimilarityStage{}},
      {"language_adapters", "Gives an encoder an adapter for each language (X-MOD).",
       LanguageAdaptersStage{}},
      {"late_interaction", "Trains an encoder to search by the vectors of all tokens (ColBERT).",
       LateInteractionStage{}},
      {"mine_negatives", "Finds hard negatives for pairs, with the encoder it reads from or by words.",
       MineNegativesStage{}},
      {"cross_encoder", "Trains an encoder to score answers of a query above its hard negatives.",
       CrossEncoderStage{}},
      {"evaluate_mexa",
       "Scores how far each layer of a decoder has aligned the target with the source (MEXA).",
       EvaluateMexaStage{}},
      {"evaluate_lexicon", "Finds the words of dictionaries by their translations: MRR, precision.",
       EvaluateLexiconStage{}},
      {"align_words",
       "Brings word vectors of two languages into one space (Procrustes, RCSLS) and scores a dictionary.",
       AlignWordsStage{}}};
}

Recipe read_recipe(const Node& document, const std::filesystem::path& file, Problems& problems) {
  Recipe recipe;
  recipe.file = file;
  if (document.kind != Node::Kind::kMap) {
    problems.add({file.string(), 1, 1}, "", "a recipe is a map of keys, not " + document.describe());
    return recipe;
  }
  decode_fields(document, "", fields_of(recipe), problems, {"schema", "stages"});
  std::int64_t schema = 0;
  const Node* version = document.find("schema");
  if (version == nullptr)
    problems.add(document.mark, "schema", "is missing; write 'schema: 1'");
  else
    decode_to(*version, "schema", in_range(1, 1), schema, problems);
  const Node* stages = document.find("stages");
  if (stages == nullptr || stages->kind != Node::Kind::kMap || stages->members.empty()) {
    problems.add(stages != nullptr ? stages->mark : document.mark, "stages",
                 "should be a map of stages, from name to what it does");
    return recipe;
  }
  for (const auto& [name, node] : stages->members) {
    Stage stage;
    if (!read_stage(name, node, stage, problems)) continue;
    check_stage(recipe, stage, node, problems);
    recipe.stages.push_back(std::move(stage));
  }
  std::vector<std::string> names;  // Also of stages that a base replaces: their claims are not wrong.
  for (const Stage& stage : recipe.stages) names.push_back(stage.name);
  const Node* claims = document.find("claims");
  for (std::size_t i = 0; i < recipe.claims.size(); ++i)
    if (const std::string problem = problem_of(recipe.claims[i], names); !problem.empty())
      problems.add(claims->items.size() > i ? claims->items[i].mark : claims->mark,
                   "claims[" + std::to_string(i) + "]", problem);
  connect(recipe, *stages, problems);
  check_languages(recipe, document, problems);
  return recipe;
}

Recipe load_recipe(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  Node document = load_yaml(file);
  for (const std::string& assignment : overrides) apply_override(document, assignment);
  Problems problems;
  Recipe recipe = read_recipe(document, file, problems);
  problems.raise();
  recipe.document = std::make_shared<const Node>(std::move(document));
  return recipe;
}

bool works_on_encoders(const Recipe& recipe) {
  return std::any_of(recipe.stages.begin(), recipe.stages.end(), [](const Stage& stage) {
    return is_one_of<EvaluateEncoderStage, EvaluateRetrievalStage, ExtendEncoderStage, ContrastiveStage,
                     MaskedLmStage, ContextPredictionStage, DocumentEncoderStage, SimilarityStage,
                     EvaluateSimilarityStage, LanguageAdaptersStage, LateInteractionStage, MineNegativesStage,
                     CrossEncoderStage, EvaluateLexiconStage>(stage.options);
  });
}

bool works_on_files_alone(const Recipe& recipe, const Stage& stage) {
  if (const auto* sft = std::get_if<SftStage>(&stage.options))
    return sft->instructions.empty() && !sft->files.empty();
  if (!std::holds_alternative<MergeStage>(stage.options)) return false;
  const Stage* merged = recipe.find(stage.from);
  return merged != nullptr && std::holds_alternative<SftStage>(merged->options) &&
         works_on_files_alone(recipe, *merged);
}

bool trains_adapters(const adapters::LoraOptions& lora) {
  return !lora.target_modules.empty() || !lora.modules_to_save.empty() ||
         !lora.trainable_token_indices.empty();
}

std::string name_of(const CollectionOptions& collection) {
  if (!collection.name.empty()) return collection.name;
  std::filesystem::path folder = std::filesystem::path(collection.path).lexically_normal();
  if (folder.filename().empty()) folder = folder.parent_path();  // "sets/one/".
  return folder.filename().string();
}

std::string name_of(const ScoredFileOptions& file) {
  return file.name.empty() ? std::filesystem::path(file.path).stem().string() : file.name;
}

std::filesystem::path resolve(const Recipe& recipe, const std::string& path) {
  std::filesystem::path given(path);
  std::error_code ignored;
  if (given.is_absolute() || recipe.file.empty() || std::filesystem::exists(given, ignored)) return given;
  // Recipes lie in recipes/<name>/ of the project: their data paths start at any folder above them.
  for (std::filesystem::path folder = std::filesystem::absolute(recipe.file, ignored).parent_path();
       !folder.empty(); folder = folder.parent_path()) {
    if (std::filesystem::exists(folder / given, ignored)) return folder / given;
    if (folder == folder.parent_path()) break;
  }
  return given;
}

}  // namespace bitrain::recipe
