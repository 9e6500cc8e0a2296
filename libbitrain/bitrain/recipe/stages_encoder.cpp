#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/nn/unit_rows.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/recipe/training.h>
#include <bitrain/vocab/apply.h>
#include <bitrain/vocab/fertility.h>
#include <bitrain/vocab/wordpiece_plan.h>

/// Stages that work with sentence encoders: evaluate_encoder, extend_encoder, contrastive.
namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

hub::OpenedSentenceEncoder open_stage_encoder(const StageContext& context, const std::string& stage) {
  hub::OpenOptions options;
  options.dtype = context.dtype();
  options.device = context.device();
  hub::OpenedSentenceEncoder opened = hub::open_sentence_encoder(context.directory_of(stage), options);
  opened.model->encoder().set_languages({context.recipe.source.language, context.recipe.target.language});
  return opened;
}

/// Always in float32, so that every reader computes what was trained, whatever it takes for its own type.
void save_stage_encoder(const fs::path& folder, models::SentenceEncoder& model,
                        const text::Tokenizer& tokenizer, const hub::SentenceSettings& settings) {
  hub::SaveOptions options;
  options.dtype = at::kFloat;
  hub::save_sentence_encoder(folder, model, &tokenizer, settings, options);
}

/// Lines whose pairs are compared with those of the base: half a million pairs say enough.
constexpr std::int64_t kAgreementLines = 1000;

/// Held-out lines, and what the model that the recipe began with says of the source's: encoded once a stage.
class HeldOutPairs {
 public:
  HeldOutPairs(const StageContext& context, RetrievalOptions options)
      : context_(context), options_(std::move(options)) {
    const data::SourcePtr pairs = open_pairs(context.recipe, data::Split::kHeldOut);
    const std::int64_t most = context.recipe.held_out.max_documents;
    for (std::int64_t i = 0; i < pairs->size() && (most == 0 || i < most); ++i) {
      const data::Example pair = pairs->at(i);
      texts_.push_back(pair.text);
      translations_.push_back(pair.pair_text);
    }
    if (texts_.size() < 2) throw DataError("retrieval needs two held-out pairs or more; see held_out");
  }

  /// Retrieval both ways, agreement with the base on the source language, and the picture of similarities.
  [[nodiscard]] io::Json score(models::SentenceEncoder& model, const text::Tokenizer& tokenizer) {
    const at::NoGradGuard no_grad;
    const std::string& source = context_.recipe.source.language;
    const std::string& target = context_.recipe.target.language;
    const at::Tensor left = embed(model, tokenizer, texts_, options_.text_prompt, 0);
    const at::Tensor right = embed(model, tokenizer, translations_, options_.pair_prompt, 1);
    const eval::PairScores scores = eval::score_pairs(left, right);
    io::Json json;
    json["pairs"] = texts_.size();
    json["retrieval"][source + "-" + target] = {{"accuracy_at_1", scores.forward_accuracy},
                                                {"mrr_at_10", scores.forward_mrr}};
    json["retrieval"][target + "-" + source] = {{"accuracy_at_1", scores.backward_accuracy},
                                                {"mrr_at_10", scores.backward_mrr}};
    const std::vector<double>& before = base_cosines();
    const std::vector<double> now = cosines(left);
    if (varies(before) && varies(now)) json["agreement"][source] = eval::spearman(before, now);
    if (options_.matrix > 0) json["similarities"] = picture(left, right);
    return json;
  }

 private:
  [[nodiscard]] at::Tensor embed(models::SentenceEncoder& model, const text::Tokenizer& tokenizer,
                                 const std::vector<std::string>& texts, const std::string& prompt,
                                 std::int32_t language) const {
    eval::EncodeOptions encode;
    encode.max_length = options_.max_length;
    encode.prompt = prompt;
    encode.language = language;
    return eval::encode_texts(model, tokenizer, texts, encode);
  }

  /// What a rank correlation needs.
  static bool varies(const std::vector<double>& values) {
    return std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) != values.end();
  }

  /// Of every pair of the first texts once.
  static std::vector<double> cosines(const at::Tensor& embeddings) {
    const at::Tensor units =
        nn::unit_rows(embeddings.narrow(0, 0, std::min(kAgreementLines, embeddings.size(0))));
    const at::Tensor all = at::mm(units, units.t()).contiguous();
    const std::int64_t n = all.size(0);
    std::vector<double> values;
    values.reserve(static_cast<std::size_t>(n * (n - 1) / 2));
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < i; ++j)
        values.push_back(static_cast<double>(all.const_data_ptr<float>()[i * n + j]));
    return values;
  }

  const std::vector<double>& base_cosines() {
    if (base_cosines_.empty() && !context_.recipe.base.empty()) {
      const hub::OpenedSentenceEncoder base = open_stage_encoder(context_, "base");
      base_cosines_ = cosines(embed(*base.model, *base.tokenizer, texts_, options_.text_prompt, 0));
    }
    return base_cosines_;
  }

  [[nodiscard]] io::Json picture(const at::Tensor& left, const at::Tensor& right) const {
    const std::int64_t n = std::min(options_.matrix, left.size(0));
    const at::Tensor all =
        at::mm(nn::unit_rows(left.narrow(0, 0, n)), nn::unit_rows(right.narrow(0, 0, n)).t()).contiguous();
    io::Json rows = io::Json::array();
    for (std::int64_t i = 0; i < n; ++i) {
      io::Json row = io::Json::array();
      for (std::int64_t j = 0; j < n; ++j)
        row.push_back(std::round(1e4 * static_cast<double>(all.const_data_ptr<float>()[i * n + j])) / 1e4);
      rows.push_back(std::move(row));
    }
    return rows;
  }

  const StageContext& context_;
  RetrievalOptions options_;
  std::vector<std::string> texts_;
  std::vector<std::string> translations_;
  std::vector<double> base_cosines_;
};

/// Held-out text is in the first two, whatever the stage trains on.
std::vector<std::string> languages_of(const Recipe& recipe, const std::vector<data::SourcePtr>& sources) {
  std::vector<std::string> languages = {recipe.source.language, recipe.target.language};
  for (const std::string& language : data::languages_of(sources))
    if (std::find(languages.begin(), languages.end(), language) == languages.end())
      languages.push_back(language);
  return languages;
}

io::Json fertility_json(const text::Tokenizer& tokenizer, const std::vector<std::string>& lines) {
  const vocab::Fertility fertility = vocab::measure_fertility(tokenizer, text::lines_of(lines));
  return {{"tokens_per_word", fertility.tokens_per_word()},
          {"bytes_per_token", fertility.bytes_per_token()},
          {"continued_words", fertility.continued_share()}};
}

/// Scores as the trainer wants them: by pair of languages, and the agreement by language.
train::LanguageFigures retrieval_figures(const io::Json& scores) {
  train::LanguageFigures figures = language_figures(scores.at("retrieval"));
  for (auto& [pair, values] : figures) values["error_at_1"] = 1 - values.at("accuracy_at_1");
  if (scores.contains("agreement"))
    for (const auto& [language, value] : scores.at("agreement").items())
      figures[language]["agreement"] = value.get<double>();
  return figures;
}

}  // namespace

void run_stage(const EvaluateEncoderStage& options, StageContext& context) {
  const hub::OpenedSentenceEncoder opened = open_stage_encoder(context, context.stage.from);
  context.result.update(HeldOutPairs(context, options.retrieval).score(*opened.model, *opened.tokenizer));
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
    const std::vector<std::string> held_out = held_out_lines(recipe, target);
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
  adapters::train_all(*opened.model);
  adapters::freeze(*opened.model, options.freeze);
  std::optional<hub::OpenedSentenceEncoder> teacher;
  if (!options.teacher.empty()) teacher = open_stage_encoder(context, options.teacher);

  const std::vector<data::SourcePtr> sources = open_training_pairs(recipe, options);
  const std::vector<std::string> languages = languages_of(recipe, sources);
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
      {static_cast<std::uint64_t>(recipe.seed), train::total_steps(options.train, tokens_per_step)});

  HeldOutPairs held_out(context, options.retrieval);
  train::TrainParts parts;
  parts.source.languages = languages;
  parts.parameters = adapters::trainable_parameters(*opened.model);
  parts.embedding_loss = objective.loss(*opened.model, teacher ? teacher->model.get() : nullptr);
  parts.evaluate = [&](std::int64_t) {
    return retrieval_figures(held_out.score(*opened.model, *opened.tokenizer));
  };
  context.result["parameters"] = adapters::count_parameters(*opened.model);
  context.result["pairs_per_step"] = options.loader.rows_per_step;
  run_training(context, options.train, loader, std::move(parts), "retrieval", [&](const fs::path& folder) {
    save_stage_encoder(folder, *opened.model, *opened.tokenizer, opened.settings);
  });
  if (context.signal != 0) return;
  double pairs = 0;
  for (const data::SourceShare& share : loader.shares()) pairs += static_cast<double>(share.samples);
  context.result["pairs_per_second"] = pairs / std::max(1e-9, context.result["train_seconds"].get<double>());
  context.result.update(held_out.score(*opened.model, *opened.tokenizer));
}

}  // namespace bitrain::recipe
