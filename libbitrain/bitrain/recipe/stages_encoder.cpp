#include <algorithm>
#include <map>
#include <optional>

#include <ATen/core/grad_mode.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/merge.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/hub/peft.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/recipe/calibration.h>
#include <bitrain/recipe/encoder_stage.h>
#include <bitrain/recipe/training.h>
#include <bitrain/vocab/apply.h>
#include <bitrain/vocab/fertility.h>
#include <bitrain/vocab/wordpiece_plan.h>

/// Stages that work with sentence encoders: evaluate_encoder, extend_encoder, contrastive.
namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

io::Json fertility_json(const text::Tokenizer& tokenizer, const std::vector<std::string>& lines) {
  const vocab::Fertility fertility = vocab::measure_fertility(tokenizer, text::lines_of(lines));
  return {{"tokens_per_word", fertility.tokens_per_word()},
          {"bytes_per_token", fertility.bytes_per_token()},
          {"continued_words", fertility.continued_share()},
          {"byte_pieces", fertility.byte_share()}};
}

/// The ranks that candidates come from.
std::shared_ptr<dist::Communicator> candidate_group(const ContrastiveStage& options,
                                                    const StageContext& context) {
  if (options.group_ranks == 0) return context.ranks;
  return context.ranks->split(options.group_ranks);
}

/// Makes trainable what the stage trains: adapters, or all weights but the frozen ones.
void choose_weights(const ContrastiveStage& options, models::SentenceEncoder& model, StageContext& context) {
  if (trains_adapters(options.lora)) {
    const adapters::AttachReport report =
        adapters::attach(model.encoder(), options.lora, static_cast<std::uint64_t>(context.recipe.seed));
    context.result["adapted_modules"] = report.adapted.size();
    return;
  }
  adapters::train_all(model);
  adapters::freeze(model, options.freeze);
}

/// Writes the model that the stage began with, in float32, with what was trained merged into it, so that
/// every reader opens it; and beside it adapter/, as PEFT reads it on that model.
void save_adapted(const fs::path& folder, const ContrastiveStage& options,
                  hub::OpenedSentenceEncoder& trained, const StageContext& context) {
  const fs::path base = context.directory_of(context.stage.from);
  hub::OpenOptions open;
  open.dtype = at::kFloat;
  open.device = context.device();
  open.tokenizer = false;
  const hub::OpenedSentenceEncoder exact = hub::open_sentence_encoder(base, open);
  models::EncoderModel& encoder = exact.model->encoder();
  adapters::attach(encoder, options.lora, 0);
  std::map<std::string, at::Tensor> tensors;
  for (const optim::Parameter& parameter : adapters::trainable_parameters(trained.model->encoder()))
    tensors[parameter.name] = parameter.tensor;
  {
    const at::NoGradGuard no_grad;
    const std::shared_ptr<nn::WeightKeeper> keeper = nn::keeper_of(trained.model->encoder());
    for (const optim::Parameter& parameter : adapters::trainable_parameters(encoder)) {
      const at::Tensor& learnt = tensors.at(parameter.name);
      if (keeper) keeper->fetch(learnt);
      parameter.tensor.copy_(learnt);
    }
  }
  adapters::merge(encoder);
  save_stage_encoder(folder, *exact.model, *trained.tokenizer, trained.settings);
  hub::save_adapter(folder / "adapter", trained.model->encoder(), options.lora,
                    fs::absolute(base).lexically_normal().string());
}

}  // namespace

void run_stage(const EvaluateEncoderStage& options, StageContext& context) {
  const hub::OpenedSentenceEncoder opened = open_stage_encoder(context, context.stage.from);
  HeldOutPairs held_out(context, options.retrieval);
  const HeldOutPairs::Sides sides = held_out.embed(*opened.model, *opened.tokenizer);
  context.result.update(held_out.score(sides));
  if (!options.calibrate.empty())
    score_calibrated(options, context, *opened.model, *opened.tokenizer, held_out, sides);
}

void run_stage(const ExtendEncoderStage& options, StageContext& context) {
  const Recipe& recipe = context.recipe;
  hub::OpenedSentenceEncoder opened = open_stage_encoder(context, context.stage.from);
  const std::vector<std::string> lines = data::texts_of(*open_side(recipe, true, data::Split::kTrain));
  const vocab::WordPiecePlan plan =
      vocab::plan_wordpiece_extension(opened.tokenizer, text::lines_of(lines), options.vocab);
  const vocab::ApplyReport report =
      vocab::apply_extension(opened.model->encoder(), plan, options.initialiser,
                             static_cast<std::uint64_t>(recipe.seed), options.pad_to_multiple_of);
  context.result["old_vocab_size"] = plan.old_vocab_size();
  context.result["vocab_size"] = plan.vocab_size();
  context.result["rows"] = report.rows;
  context.result["added"] = plan.pieces.size();
  context.result["chosen"] = options.initialiser.preset;
  for (const bool target : {false, true}) {
    const std::string& language = target ? recipe.target.language : recipe.source.language;
    const std::vector<std::string>& held_out = context.held_out->of(target);
    const vocab::SegmentationChange change =
        vocab::segmentation_change(*plan.base, *plan.tokenizer, text::lines_of(held_out));
    context.result["changed_segmentation"][language] = change.line_share();
    context.result["changed_tokens"][language] = change.token_share();
    context.result["fertility"][language] = {{"before", fertility_json(*plan.base, held_out)},
                                             {"after", fertility_json(*plan.tokenizer, held_out)}};
  }
  context.result.update(HeldOutPairs(context, options.retrieval).score(*opened.model, *plan.tokenizer));
  save_stage_encoder(context.out, *opened.model, *plan.tokenizer, opened.settings);
}

void run_stage(const ContrastiveStage& options, StageContext& context) {
  const Recipe& recipe = context.recipe;
  hub::OpenedSentenceEncoder opened = open_stage_encoder(context, context.stage.from);
  if (options.dropout >= 0) opened.model->encoder().config().hidden_dropout_prob = options.dropout;
  choose_weights(options, *opened.model, context);
  std::optional<hub::OpenedSentenceEncoder> teacher;
  if (!options.teacher.empty()) teacher = open_stage_encoder(context, options.teacher);
  if (!options.pool_special_tokens) {
    leave_out_special_tokens(opened);
    if (teacher) leave_out_special_tokens(*teacher);
  }

  const std::vector<data::SourcePtr> sources = open_training_pairs(recipe, options);
  const std::vector<std::string> languages = encoder_languages(recipe, sources);
  opened.model->encoder().set_languages(languages);
  if (teacher) teacher->model->encoder().set_languages(languages);
  objectives::ContrastiveOptions objective_options = options.objective;
  objective_options.max_length = std::min(objective_options.max_length, opened.model->encoder().max_tokens());
  const objectives::Contrastive objective(opened.tokenizer, languages, objective_options,
                                          teacher ? teacher->tokenizer : nullptr);
  const std::int64_t tokens_per_step = options.loader.rows_per_step * options.loader.sequence_length;
  data::Loader loader(
      options.loader, sources,
      [&objective](const data::Example& example) { return objective.encode(example); },
      context.loader_run(train::total_steps(options.train, tokens_per_step)));

  std::optional<HeldOutPairs> held_out;
  if (has_lines(recipe)) held_out.emplace(context, options.retrieval);
  train::TrainParts parts;
  parts.source.languages = languages;
  parts.parameters = adapters::trainable_parameters(*opened.model);
  parts.model = opened.model.get();
  const std::shared_ptr<dist::Communicator> candidates = candidate_group(options, context);
  parts.embedding_loss = objective.loss(*opened.model, teacher ? teacher->model.get() : nullptr, candidates);
  if (held_out)
    parts.evaluate = [&](std::int64_t) {
      return retrieval_figures(held_out->score(*opened.model, *opened.tokenizer));
    };
  context.result["parameters"] = adapters::count_parameters(*opened.model);
  context.result["pairs_per_step"] = options.loader.rows_per_step;
  run_training(context, options.train, loader, std::move(parts), "retrieval", [&](const fs::path& folder) {
    if (trains_adapters(options.lora))
      save_adapted(folder, options, opened, context);
    else
      save_stage_encoder(folder, *opened.model, *opened.tokenizer, opened.settings);
  });
  if (context.signal != 0) return;
  if (candidates != context.ranks) context.result["group_traffic"] = traffic_json(candidates->traffic());
  double pairs = 0;
  for (const data::SourceShare& share : loader.shares()) pairs += static_cast<double>(share.samples);
  context.result["pairs_per_second"] = pairs / std::max(1e-9, context.result["train_seconds"].get<double>());
  if (held_out) context.result.update(held_out->score(*opened.model, *opened.tokenizer));
}

}  // namespace bitrain::recipe
