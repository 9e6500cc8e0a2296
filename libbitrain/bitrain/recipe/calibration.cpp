#include <bitrain/recipe/calibration.h>

#include <algorithm>
#include <optional>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/eval/alignment.h>

namespace bitrain::recipe {
namespace {

/// Training lines that calibrations are learned on.
struct Sample {
  std::vector<std::string> source;
  std::vector<std::string> target;      ///< Of other rows than `source`.
  std::vector<std::string> translated;  ///< The translations of `source`.
};

/// Lines evenly spread over the training split; source and target from alternating rows.
Sample sample_lines(const Recipe& recipe, std::int64_t lines) {
  const data::SourcePtr pairs = open_pairs(recipe, data::Split::kTrain);
  const std::int64_t count = std::min(lines, pairs->size() / 2);
  if (count < 2) throw DataError("calibration needs four training lines or more, there are ", pairs->size());
  Sample sample;
  for (std::int64_t i = 0; i < 2 * count; ++i) {
    data::Example pair = pairs->at(i * pairs->size() / (2 * count));
    if (i % 2 == 1) {
      sample.target.push_back(std::move(pair.pair_text));
      continue;
    }
    sample.source.push_back(std::move(pair.text));
    sample.translated.push_back(std::move(pair.pair_text));
  }
  return sample;
}

}  // namespace

void score_calibrated(const EvaluateEncoderStage& options, StageContext& context,
                      models::SentenceEncoder& model, const text::Tokenizer& tokenizer,
                      const HeldOutPairs& held_out, const HeldOutPairs::Sides& sides) {
  const Recipe& recipe = context.recipe;
  const Sample lines = sample_lines(recipe, options.calibration_lines);
  const at::Tensor source = held_out.embed(model, tokenizer, lines.source, false);
  const at::Tensor target = held_out.embed(model, tokenizer, lines.target, true);
  const eval::Calibration of_source = eval::fit_shift_and_scale(source);
  const eval::Calibration of_target = eval::fit_shift_and_scale(target);
  const auto rotation_of = [&](const std::string& method) -> at::Tensor {
    if (method == "rotation")
      return eval::fit_rotation_unsupervised(of_target.apply(target), of_source.apply(source));
    if (method != "procrustes") return {};
    const at::Tensor translated = held_out.embed(model, tokenizer, lines.translated, true);
    return eval::procrustes(of_target.apply(translated), of_source.apply(source));
  };

  io::Json& results = context.result["calibration"];
  const std::string there = recipe.source.language + "-" + recipe.target.language;
  const std::string back = recipe.target.language + "-" + recipe.source.language;
  io::Json rows = io::Json::array();
  const auto add = [&](const std::string& method, const at::Tensor& left, const at::Tensor& right) {
    const io::Json& scores = results[method] = pair_scores_json(recipe, eval::score_pairs(left, right));
    rows.push_back({method, scores[there]["accuracy_at_1"], scores[back]["accuracy_at_1"],
                    scores[there]["mrr_at_10"], scores[back]["mrr_at_10"]});
  };
  add("none", sides.source, sides.target);
  for (const std::string& method : options.calibrate) {
    eval::Calibration calibration = of_target;
    try {
      calibration.rotation = rotation_of(method);
    } catch (const StateError& error) {
      log_warn(context.stage.name, ": ", method, ": ", error.what());
      rows.push_back({method + " (no match found)", nullptr, nullptr, nullptr, nullptr});
      continue;
    }
    add(method, of_source.apply(sides.source), calibration.apply(sides.target));
  }
  context.result["tables"].push_back(
      {{"title", "Calibration of " + context.stage.name},
       {"note", "Held-out lines found by their translations, with vectors calibrated on " +
                    std::to_string(lines.source.size()) + " training lines of each language."},
       {"columns",
        {"Calibration", there + " accuracy@1", back + " accuracy@1", there + " MRR@10", back + " MRR@10"}},
       {"rows", rows}});
}

}  // namespace bitrain::recipe
