#include <bitrain/recipe/stage_kinds.h>

#include <algorithm>

#include <bitrain/base/strings.h>

namespace bitrain::recipe {
namespace {

const char* name_of(Leaves kind) {
  switch (kind) {
    case Leaves::kNothing: return "nothing to read from";
    case Leaves::kTokenizer: return "a tokenizer";
    case Leaves::kLanguageModel: return "a language model";
    case Leaves::kAdapter: return "an adapter";
    case Leaves::kEncoder: return "a sentence encoder";
    case Leaves::kCrossEncoder: return "a cross-encoder";
    case Leaves::kLateInteraction: return "a late-interaction encoder";
    case Leaves::kDocumentEncoder: return "a document encoder";
    case Leaves::kNegatives: return "hard negatives";
  }
  return "";
}

bool contains(const std::vector<Leaves>& kinds, Leaves kind) {
  return std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
}

/// The stages before that would do, for messages.
std::string candidates(const std::vector<Leaves>& kinds, const std::vector<Stage>& before) {
  std::vector<std::string> names;
  for (const Stage& stage : before)
    if (contains(kinds, leaves(stage.options))) names.push_back("'" + stage.name + "'");
  return names.empty() ? "no stage before it leaves one" : "there is " + join(names, ", ");
}

/// What a stage that is named by an option besides `from` must leave.
Leaves wanted_of(const std::string& key) {
  if (key == "teacher") return Leaves::kEncoder;
  if (key == "rerank") return Leaves::kCrossEncoder;
  return Leaves::kNegatives;  // files[0].stage, pairs.stage
}

}  // namespace

Leaves leaves(const StageOptions& options) {
  if (is_one_of<TokenizerStage>(options)) return Leaves::kTokenizer;
  if (is_one_of<PretrainStage, ExtendStage, MergeStage>(options)) return Leaves::kLanguageModel;
  const auto adapted = [](const auto& stage) {
    return trains_adapters(stage.lora) ? Leaves::kAdapter : Leaves::kLanguageModel;
  };
  if (const auto* cpt = std::get_if<CptStage>(&options)) return adapted(*cpt);
  if (const auto* sft = std::get_if<SftStage>(&options)) return adapted(*sft);
  if (is_one_of<ExtendEncoderStage, ContrastiveStage, MaskedLmStage, ContextPredictionStage, SimilarityStage,
                LanguageAdaptersStage>(options))
    return Leaves::kEncoder;
  if (is_one_of<CrossEncoderStage>(options)) return Leaves::kCrossEncoder;
  if (is_one_of<LateInteractionStage>(options)) return Leaves::kLateInteraction;
  if (is_one_of<DocumentEncoderStage>(options)) return Leaves::kDocumentEncoder;
  if (is_one_of<MineNegativesStage>(options)) return Leaves::kNegatives;
  return Leaves::kNothing;
}

std::vector<Leaves> reads(const StageOptions& options) {
  if (is_one_of<TokenizerStage, AlignWordsStage>(options)) return {};
  if (is_one_of<PretrainStage>(options)) return {Leaves::kTokenizer, Leaves::kLanguageModel};
  if (is_one_of<ExtendStage, CptStage, SftStage>(options)) return {Leaves::kLanguageModel};
  if (is_one_of<EvaluateStage, EvaluateMexaStage, MergeStage>(options))
    return {Leaves::kLanguageModel, Leaves::kAdapter};
  if (const auto* search = std::get_if<EvaluateRetrievalStage>(&options)) {
    if (!search->encoder) return {};
    return {Leaves::kEncoder, Leaves::kLateInteraction};
  }
  if (const auto* mine = std::get_if<MineNegativesStage>(&options); mine != nullptr && mine->bm25) return {};
  // These take the encoder alone and leave aside what is above it.
  if (is_one_of<MaskedLmStage, LanguageAdaptersStage, LateInteractionStage, CrossEncoderStage>(options))
    return {Leaves::kEncoder, Leaves::kCrossEncoder, Leaves::kLateInteraction};
  if (is_one_of<DocumentEncoderStage>(options)) return {Leaves::kEncoder, Leaves::kDocumentEncoder};
  return {Leaves::kEncoder};
}

std::string default_input(const StageOptions& options, const std::vector<Stage>& before, bool base) {
  const std::vector<Leaves> kinds = reads(options);
  if (kinds.empty()) return "";
  for (auto stage = before.rbegin(); stage != before.rend(); ++stage)
    if (contains(kinds, leaves(stage->options))) return stage->name;
  return base ? "base" : "";
}

void check_kinds(const Stage& stage, const std::vector<Stage>& before, const Node& node, Problems& problems) {
  const auto check = [&](const std::string& key, const std::string& name, const std::vector<Leaves>& wanted,
                         bool base_may_be_one) {
    const auto add = [&](const std::string& what) {
      problems.add(mark_of(node, key), "stages." + stage.name + "." + key,
                   what + "; wanted is " + describe(wanted) + ": " + candidates(wanted, before));
    };
    if (name == "base" && !base_may_be_one) add("base is none");
    for (const Stage& other : before)
      if (const Leaves kind = leaves(other.options); other.name == name && !contains(wanted, kind))
        add(to_text("'", name, "' is a stage of type ", other.type, ", which leaves ", name_of(kind)));
  };
  const std::vector<Leaves> kinds = reads(stage.options);
  if (!kinds.empty()) check("from", stage.from, kinds, true);
  if (is_one_of<TokenizerStage, AlignWordsStage>(stage.options) && !stage.from.empty())
    problems.add(mark_of(node, "from"), "stages." + stage.name + ".from",
                 "a stage of type " + stage.type + " reads from no other: leave it out");
  for (const Reference& reference : references_of(stage))
    if (reference.kind == Refers::kStage)
      check(reference.key, reference.name, {wanted_of(reference.key)}, reference.key == "teacher");
}

std::string describe(const std::vector<Leaves>& kinds) {
  std::vector<std::string> names;
  names.reserve(kinds.size());
  for (const Leaves kind : kinds) names.emplace_back(name_of(kind));
  return join(names, " or ");
}

}  // namespace bitrain::recipe
