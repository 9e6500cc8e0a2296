#include <algorithm>
#include <cstdlib>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <bitrain/adapters/parameters.h>
#include <bitrain/data/document_sources.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/search.h>
#include <bitrain/losses/uniformity.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/nn/unit_rows.h>
#include <bitrain/objectives/context_prediction.h>
#include <bitrain/objectives/gathered_loss.h>
#include <bitrain/recipe/encoder_stage.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/recipe/training.h>

/// The stage context_prediction.
namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

/// How well lines are found by those near them among all lines: the mean of 1 / rank of the first that is at
/// most `window` away, within the first 10. Lines [N, D] are consecutive.
double context_mrr(const at::Tensor& lines, std::int64_t window) {
  const at::Tensor found = eval::search(lines, lines, {.k = 11}).rows.contiguous();
  const std::int64_t k = found.size(1);
  const auto* row = found.const_data_ptr<std::int64_t>();
  double sum = 0;
  for (std::int64_t i = 0; i < lines.size(0); ++i) {
    std::int64_t rank = 0;
    for (std::int64_t j = 0; j < k && rank < 10; ++j) {
      const std::int64_t other = row[i * k + j];
      if (other == i) continue;
      ++rank;
      if (std::abs(other - i) > window) continue;
      sum += 1.0 / static_cast<double>(rank);
      break;
    }
  }
  return sum / static_cast<double>(lines.size(0));
}

/// How far the languages lie apart: the distance of their means, and how many lines the nearer mean puts into
/// their language, the means taken of every other line and asked of the rest.
io::Json between_languages(const HeldOutPairs::Sides& sides) {
  const at::Tensor source = nn::unit_rows(sides.source);
  const at::Tensor target = nn::unit_rows(sides.target);
  const auto half = [](const at::Tensor& rows, std::int64_t first) {
    return rows.slice(0, first, rows.size(0), 2);
  };
  const at::Tensor direction = half(source, 0).mean(0) - half(target, 0).mean(0);
  const at::Tensor middle = (half(source, 0).mean(0) + half(target, 0).mean(0)) / 2;
  const at::Tensor rest =
      at::cat({(half(source, 1) - middle).matmul(direction), (middle - half(target, 1)).matmul(direction)});
  return {{"distance_of_means", (source.mean(0) - target.mean(0)).norm().item<double>()},
          {"probe_accuracy", rest.gt(0).to(at::kDouble).mean().item<double>()}};
}

/// Held-out lines of both languages: beside each other where there are pairs, else each by itself.
class HeldOutSides {
 public:
  HeldOutSides(const StageContext& context, const ContextPredictionStage& options)
      : recipe_(context.recipe), options_(options) {
    if (recipe_.source.path == recipe_.target.path) {
      pairs_.emplace(context, options.retrieval);
      return;
    }
    for (const bool target : {false, true}) lines_.push_back(context.held_out->of(target));
  }

  [[nodiscard]] bool paired() const { return pairs_.has_value(); }

  /// What HeldOutPairs says, and "spaces".
  [[nodiscard]] io::Json score(models::SentenceEncoder& model, const text::Tokenizer& tokenizer) {
    const at::NoGradGuard no_grad;
    const HeldOutPairs::Sides sides = embed(model, tokenizer);
    io::Json json = pairs_ ? pairs_->score(sides) : io::Json::object();
    io::Json& spaces = json["spaces"];
    for (const bool target : {false, true}) {
      const at::Tensor& lines = target ? sides.target : sides.source;
      io::Json& own = spaces[target ? recipe_.target.language : recipe_.source.language];
      own["uniformity"] = losses::uniformity(nn::unit_rows(lines));
      // Only the last rows of a file are neighbours of each other.
      if (recipe_.held_out.last > 0) own["context_mrr_at_10"] = context_mrr(lines, options_.window);
    }
    spaces["languages"] = between_languages(sides);
    return json;
  }

 private:
  [[nodiscard]] HeldOutPairs::Sides embed(models::SentenceEncoder& model,
                                          const text::Tokenizer& tokenizer) const {
    if (pairs_) return pairs_->embed(model, tokenizer);
    const auto side = [&](std::size_t target) {
      eval::EncodeOptions encode;
      encode.max_length = options_.retrieval.max_length;
      encode.prompt = target == 1 ? options_.retrieval.pair_prompt : options_.retrieval.text_prompt;
      encode.language = static_cast<std::int32_t>(target);
      return eval::encode_texts(model, tokenizer, lines_[target], encode);
    };
    return {side(0), side(1)};
  }

  const Recipe& recipe_;
  const ContextPredictionStage& options_;
  std::optional<HeldOutPairs> pairs_;
  std::vector<std::vector<std::string>> lines_;
};

io::Json spaces_table(const Recipe& recipe, const std::string& stage, const io::Json& before,
                      const io::Json& after) {
  const std::string& source = recipe.source.language;
  const std::string& target = recipe.target.language;
  io::Json rows = io::Json::array();
  const auto figure = [&](const io::Json& scores, const std::string& part, const char* name) {
    const io::Json& figures = scores.at("spaces").at(part);
    return figures.contains(name) ? figures.at(name) : io::Json(nullptr);
  };
  const auto add = [&](const char* when, const io::Json& scores) {
    rows.push_back({when, figure(scores, source, "context_mrr_at_10"),
                    figure(scores, target, "context_mrr_at_10"), figure(scores, source, "uniformity"),
                    figure(scores, target, "uniformity"), figure(scores, "languages", "distance_of_means"),
                    figure(scores, "languages", "probe_accuracy")});
  };
  add("before", before);
  add("after", after);
  return {
      {"title", "Contexts and spaces of " + stage},
      {"note",
       "MRR@10 of a held-out line's neighbours among all held-out lines of its language; uniformity (0: all "
       "vectors "
       "are one); how far the languages lie apart, and how often a line's language is told from its vector."},
      {"columns",
       {"Model", source + " context MRR@10", target + " context MRR@10", source + " uniformity",
        target + " uniformity", "distance of languages", "language told"}},
      {"rows", rows}};
}

/// Lines of both languages as sentences beside their contexts.
std::vector<data::SourcePtr> open_windows(const Recipe& recipe, const ContextPredictionStage& options) {
  std::vector<data::SourcePtr> sources;
  for (const bool target : {false, true})
    sources.push_back(
        data::window_source(open_side(recipe, target, data::Split::kTrain, options.lines_per_document),
                            options.window, static_cast<std::uint64_t>(recipe.seed)));
  return sources;
}

}  // namespace

void run_stage(const ContextPredictionStage& options, StageContext& context) {
  const Recipe& recipe = context.recipe;
  const auto seed = static_cast<std::uint64_t>(recipe.seed);
  hub::OpenedSentenceEncoder opened = open_stage_encoder(context, context.stage.from);
  models::SentenceEncoder& model = *opened.model;
  if (options.dropout >= 0) model.encoder().config().hidden_dropout_prob = options.dropout;
  adapters::train_all(model);
  adapters::freeze(model, options.freeze);

  const std::vector<data::SourcePtr> sources = open_windows(recipe, options);
  objectives::ContextPredictionOptions objective_options = options.objective;
  objective_options.max_length = std::min(objective_options.max_length, model.encoder().max_tokens());
  objectives::ContextPrediction objective(opened.tokenizer, data::languages_of(sources), model.dimension(),
                                          seed, objective_options, context.device());
  const std::int64_t tokens_per_step = options.loader.rows_per_step * options.loader.sequence_length;
  data::Loader loader(
      options.loader, sources,
      [&objective](const data::Example& example) { return objective.encode(example); },
      context.loader_run(train::total_steps(options.train, tokens_per_step)));

  HeldOutSides held_out(context, options);
  train::TrainParts parts;
  parts.parameters = adapters::trainable_parameters(model);
  parts.model = &model;
  for (optim::Parameter& parameter : adapters::trainable_parameters(objective.head())) {
    parameter.name = "projection_head." + parameter.name;
    parts.parameters.push_back(std::move(parameter));
  }
  parts.embedding_loss = objectives::over_ranks(objective.loss(model), context.ranks);
  parts.extra_state = train::ExtraState{[&objective] { return objective.state(); },
                                        [&objective](const auto& lookup) { objective.load_state(lookup); }};
  if (held_out.paired())
    parts.evaluate = [&](std::int64_t) {
      return retrieval_figures(held_out.score(model, *opened.tokenizer));
    };
  context.result["parameters"] = adapters::count_parameters(model);
  context.result["pairs_per_step"] = options.loader.rows_per_step;
  io::Json before = held_out.score(model, *opened.tokenizer);
  before.erase("similarities");
  run_training(context, options.train, loader, std::move(parts), "retrieval", [&](const fs::path& folder) {
    save_stage_encoder(folder, model, *opened.tokenizer, opened.settings);  // The head stays behind.
  });
  if (context.signal != 0) return;
  const io::Json after = held_out.score(model, *opened.tokenizer);
  context.result["before"] = before;
  context.result.update(after);
  context.result["tables"].push_back(spaces_table(recipe, context.stage.name, before, after));
}

}  // namespace bitrain::recipe
