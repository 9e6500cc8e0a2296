#include <algorithm>
#include <filesystem>
#include <optional>

#include <ATen/core/grad_mode.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/merge.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/eval/completion.h>
#include <bitrain/hub/peft.h>
#include <bitrain/models/generation.h>
#include <bitrain/recipe/base_score.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/recipe/training.h>
#include <bitrain/train/sharded_weights.h>

/// Stages that train a language model on, and merge its adapters: cpt, sft, merge.
namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

/// Whether fresh adapters give another model than their base.
bool changes_the_base(const adapters::LoraOptions& lora) {
  return lora.init_lora_weights == "false";
}

/// The base of an adapter stage, packed as asked, with fresh adapters.
hub::OpenedModel open_for_adapters(StageContext& context, const QuantizationOptions& quantization,
                                   const adapters::LoraOptions& lora) {
  hub::OpenOptions open;
  open.dtype = context.dtype();
  open.device = context.device();
  open.quantize = quantize_options(quantization);
  if (context.ranks->size() > 1 && context.recipe.parallel.shard == "parameters")
    open.layer_loaded = [&](nn::Module& model, nn::Unit& layer) {
      train::ShardedWeights::attach(model, context.ranks)->share_rest(layer.index());
    };
  hub::OpenedModel opened = hub::open_model(context.directory_of(context.stage.from), open);
  const auto score = [&] {
    score_base(context, *opened.model, *opened.tokenizer,
               quantization.enabled ? quantization.type : context.recipe.dtype);
  };
  const bool changes = changes_the_base(lora);
  if (changes) score();
  const adapters::AttachReport report =
      adapters::attach(*opened.model, lora, static_cast<std::uint64_t>(context.recipe.seed));
  context.result["adapted_modules"] = report.adapted.size();
  if (!changes) score();  // With the adapters in place, as every later score is taken.
  return opened;
}

/// The base, all of whose weights are trained but those that `freeze` names.
hub::OpenedModel open_in_full(StageContext& context, const std::vector<std::string>& freeze) {
  hub::OpenOptions open;
  open.dtype = context.dtype();
  open.device = context.device();
  hub::OpenedModel opened = hub::open_model(context.directory_of(context.stage.from), open);
  score_base(context, *opened.model, *opened.tokenizer, context.recipe.dtype);
  adapters::train_all(*opened.model);
  adapters::freeze(*opened.model, freeze);
  return opened;
}

template <class Options>
hub::OpenedModel open_to_train(StageContext& context, const Options& options) {
  return trains_adapters(options.lora) ? open_for_adapters(context, options.quantize, options.lora)
                                       : open_in_full(context, options.freeze);
}

/// The base's scores, if this stage has taken them and its fresh adapters change nothing.
std::optional<io::Json> base_scores(const StageContext& context, const adapters::LoraOptions& lora) {
  if (!context.result.contains("base") || changes_the_base(lora)) return std::nullopt;
  return context.result["base"]["languages"];
}

/// Writes the adapters, or the whole model.
std::function<void(const fs::path&)> saver(const StageContext& context, const hub::OpenedModel& opened,
                                           const adapters::LoraOptions& lora) {
  return [&](const fs::path& folder) {
    if (!trains_adapters(lora)) return hub::save_model(folder, *opened.model, opened.tokenizer.get());
    const std::string base =
        fs::absolute(context.directory_of(context.stage.from)).lexically_normal().string();
    hub::save_adapter(folder, *opened.model, lora, base);
    opened.tokenizer->save(folder);
  };
}

/// Held-out prompts of one source, as greedy generation gets them.
std::vector<eval::CompletionCase> completion_cases(const objectives::Sft& objective,
                                                   const data::Source& source, std::int64_t count) {
  std::vector<eval::CompletionCase> cases;
  std::map<std::string, std::int64_t> taken;
  for (std::int64_t i = 0; i < source.size(); ++i) {
    const data::Example example = source.at(i);
    if (example.messages.empty() || example.messages.back().role != "assistant" ||
        taken[example.language] >= count)
      continue;
    const std::vector<data::Message> before(example.messages.begin(), example.messages.end() - 1);
    cases.push_back({objective.prompt(before), example.messages.back().content, example.language,
                     data::row_name(example)});
    ++taken[example.language];
  }
  return cases;
}

/// Response loss and exact next-word accuracy of the held-out conversations, by set and language.
io::Json score_responses(models::LanguageModel& model, const text::Tokenizer& tokenizer,
                         const objectives::Sft& objective, const std::vector<data::SourcePtr>& held_out,
                         std::int64_t cases, std::int64_t max_documents) {
  io::Json json = io::Json::object();
  for (const data::SourcePtr& source : held_out) {
    io::Json& set = json[source->name()];
    for (const auto& [language, score] : eval::objective_loss(model, objective, *source, max_documents))
      set[language]["response_loss"] = score.loss_per_token;
    const std::vector<eval::CompletionCase> prompts = completion_cases(objective, *source, cases);
    if (prompts.empty()) continue;
    for (const auto& [language, score] : eval::completion_accuracy(model, tokenizer, prompts)) {
      set[language]["next_word_accuracy"] = score.accuracy;
      set[language]["cases"] = score.cases;
    }
  }
  return json;
}

/// The same response losses, as the trainer wants them: by set, and by language in it where rows have one.
train::LanguageFigures response_figures(models::LanguageModel& model, const objectives::Sft& objective,
                                        const std::vector<data::SourcePtr>& held_out,
                                        std::int64_t max_documents) {
  train::LanguageFigures figures;
  for (const data::SourcePtr& source : held_out)
    for (const auto& [language, score] : eval::objective_loss(model, objective, *source, max_documents))
      figures[source->name() + (language.empty() ? "" : ", " + language)]["loss_per_token"] =
          score.loss_per_token;
  return figures;
}

/// Texts to see every module at work: held-out lines of both languages, or held-out conversations of the sft
/// stage that is merged. At most kMergeRowTokens of each, for the logits of all are held.
std::vector<std::vector<std::int32_t>> merge_rows(const StageContext& context,
                                                  const std::shared_ptr<const text::Tokenizer>& tokenizer) {
  const auto cut = [](std::vector<std::int32_t> ids) {
    ids.resize(std::min(ids.size(), static_cast<std::size_t>(kMergeRowTokens)));
    return ids;
  };
  constexpr auto kRows = static_cast<std::size_t>(kMergeRows);
  std::vector<std::vector<std::int32_t>> rows;
  if (has_lines(context.recipe)) {
    for (const bool target : {false, true}) {
      const std::vector<std::string>& lines = context.held_out->of(target);
      for (std::size_t i = 0; i < std::min(kRows, lines.size()); ++i) {
        rows.push_back(cut(tokenizer->encode(lines[i])));
        if (rows.back().empty()) rows.pop_back();
      }
    }
    return rows;
  }
  const StageData data =
      *stage_data(context.recipe, *context.recipe.find(context.stage.from), tokenizer, data::Split::kHeldOut);
  for (const data::SourcePtr& source : data.sources)
    for (std::int64_t i = 0; i < source->size() && rows.size() < kRows; ++i) {
      std::vector<std::int32_t> ids = cut(data.objective->encode(source->at(i)).ids);
      if (!ids.empty()) rows.push_back(std::move(ids));
    }
  return rows;
}

}  // namespace

void run_stage(const CptStage& options, StageContext& context) {
  hub::OpenedModel opened = open_to_train(context, options);
  const StageData data = *stage_data(context.recipe, context.stage, opened.tokenizer, data::Split::kTrain);
  TrainingParts parts{opened, data, saver(context, opened, options.lora)};
  parts.at_start = base_scores(context, options.lora);
  train_stage(context, parts);
}

void run_stage(const SftStage& options, StageContext& context) {
  hub::OpenedModel opened = open_to_train(context, options);
  const StageData data = *stage_data(context.recipe, context.stage, opened.tokenizer, data::Split::kTrain);
  const std::vector<data::SourcePtr> held_out =
      open_conversations(context.recipe, options, data::Split::kHeldOut);
  const std::int64_t most = context.recipe.held_out.max_documents;
  const std::int64_t cases = most > 0 ? std::min(most, options.accuracy_cases) : options.accuracy_cases;
  const auto score = [&] {
    return score_responses(*opened.model, *opened.tokenizer, *data.sft, held_out, cases, most);
  };
  // Fresh adapters change nothing: this is the model that the stage begins with.
  context.result["before"] = figures_before(context, "responses", score);
  TrainingParts parts{opened, data, saver(context, opened, options.lora)};
  parts.at_start = base_scores(context, options.lora);
  if (!has_lines(context.recipe))
    parts.evaluate = [&, most] { return response_figures(*opened.model, *data.sft, held_out, most); };
  train_stage(context, parts);
  if (context.signal == 0) context.result["after"] = score();
}

void run_stage(const MergeStage& options, StageContext& context) {
  const at::NoGradGuard no_grad;
  hub::OpenedModel opened = open_stage_model(context, context.stage.from);
  const text::Tokenizer& tokenizer = *opened.tokenizer;
  const std::vector<std::vector<std::int32_t>> rows = merge_rows(context, opened.tokenizer);
  std::vector<std::vector<std::int32_t>> labels;
  for (const auto& row : rows) labels.emplace_back(row.size(), static_cast<std::int32_t>(kIgnoreIndex));
  const Batch batch = make_batch(rows, labels).to(context.device());
  adapters::MergeOptions merge = options.merge;
  const adapters::LogitDifference difference = adapters::merge_and_compare(*opened.model, batch, merge);
  if (!(difference.mean_kl <= options.tolerance))
    throw StateError("the merged model is not the adapted one: mean KL divergence ", difference.mean_kl,
                     " nats a token, tolerance ", options.tolerance,
                     merge.requantize
                         ? "; packing in 4 bits again costs precision: raise the tolerance if that is meant"
                         : "");
  context.result["verified"] = true;
  context.result["max_logit_difference"] = difference.max_absolute;
  context.result["mean_kl"] = difference.mean_kl;
  context.result["top1_agreement"] = difference.top1_agreement;
  hub::save_model(context.out, *opened.model, &tokenizer);
  if (options.evaluate && has_lines(context.recipe)) {
    context.result["languages"] = score_held_out(context, *opened.model, tokenizer);
    warn_of_scores(context, context.result["languages"], "merged");
  }
  io::Json generations = io::Json::array();
  for (const std::string& prompt : options.prompts) {
    const std::vector<text::TokenId> ids = eval::encode_prompt(tokenizer, prompt);
    const auto continuation =
        models::generate(*opened.model, ids, options.generation, {}, tokenizer.vocab_size());
    // Decoded together, so that a space at the seam is not lost.
    std::vector<text::TokenId> whole = ids;
    whole.insert(whole.end(), continuation.begin(), continuation.end());
    const std::string text = tokenizer.decode(whole);
    const std::string begin = tokenizer.decode(ids);
    generations.push_back({{"prompt", prompt}, {"text", text.substr(std::min(begin.size(), text.size()))}});
  }
  if (!generations.empty()) context.result["generations"] = generations;
}

}  // namespace bitrain::recipe
