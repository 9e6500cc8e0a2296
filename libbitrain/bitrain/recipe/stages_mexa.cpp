#include <algorithm>
#include <string>
#include <vector>

#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/mexa.h>
#include <bitrain/recipe/stage_context.h>

/// The stage evaluate_mexa.
namespace bitrain::recipe {

void run_stage(const EvaluateMexaStage& options, StageContext& context) {
  const at::NoGradGuard no_grad;
  const Recipe& recipe = context.recipe;
  const data::SourcePtr pairs = open_pairs(recipe, data::Split::kHeldOut);
  std::vector<std::string> sentences;
  std::vector<std::string> translations;
  const std::int64_t bound = recipe.held_out.max_documents;
  const std::int64_t most = bound > 0 ? std::min(bound, options.sentences) : options.sentences;
  for (std::int64_t i = 0; i < pairs->size() && i < most; ++i) {
    const data::Example pair = pairs->at(i);
    sentences.push_back(pair.text);
    translations.push_back(pair.pair_text);
  }
  const hub::OpenedModel opened = open_stage_model(context, context.stage.from);
  const eval::MexaScores scores =
      eval::mexa(*opened.model, *opened.tokenizer, sentences, translations, options.mexa);
  context.result["mexa"][recipe.target.language] = {{"sentences", sentences.size()},
                                                    {"tokens", options.mexa.tokens},
                                                    {"layers", scores.layers},
                                                    {"mean", scores.mean},
                                                    {"max", scores.max}};
  io::Json rows = io::Json::array();
  for (std::size_t layer = 0; layer < scores.layers.size(); ++layer)
    rows.push_back({layer == 0 ? "embeddings" : "layer " + std::to_string(layer), scores.layers[layer]});
  rows.push_back({"mean", scores.mean});
  rows.push_back({"max", scores.max});
  context.result["tables"] = io::Json::array(
      {{{"title", "MEXA: " + recipe.source.language + " and " + recipe.target.language},
        {"note", "share of " + std::to_string(sentences.size()) +
                     " held-out pairs that are nearer to each other than either is to any other sentence"},
        {"columns", {"Hidden states", "MEXA"}},
        {"rows", rows}}});
}

}  // namespace bitrain::recipe
