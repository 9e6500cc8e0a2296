#include <ATen/core/grad_mode.h>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/eval/perplexity.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/recipe/training.h>
#include <bitrain/text/sentencepiece_tokenizer.h>
#include <bitrain/text/spm_trainer.h>

/// Stages that make and judge a base: tokenizer, pretrain, evaluate.
namespace bitrain::recipe {

void run_stage(const TokenizerStage& options, StageContext& context) {
  const bool target = options.text == "target";
  const std::vector<std::string> lines =
      data::texts_of(*open_side(context.recipe, target, data::Split::kTrain));
  const auto tokenizer =
      text::make_sentencepiece_tokenizer(text::train_sentencepiece(text::lines_of(lines), options.tokenizer));
  tokenizer->save(context.out);
  context.result["vocab_size"] = tokenizer->vocab_size();
  context.result["lines"] = lines.size();
}

void run_stage(const PretrainStage& options, StageContext& context) {
  hub::OpenedModel opened;
  opened.tokenizer = text::open_tokenizer(context.directory_of(context.stage.from));
  models::LlamaConfig config = options.model;
  config.vocab_size = opened.tokenizer->vocab_size();
  const text::SpecialTokens& special = opened.tokenizer->special_tokens();
  config.bos_token_id = special.bos;
  config.eos_token_id.clear();
  if (special.eos) config.eos_token_id = {*special.eos};
  config.pad_token_id = special.pad;
  if (config.max_position_embeddings < options.data.loader.sequence_length)
    throw ConfigError("model.max_position_embeddings ", config.max_position_embeddings,
                      " is below data.loader.sequence_length ", options.data.loader.sequence_length);
  opened.model =
      models::make_llama(config, at::TensorOptions().dtype(context.dtype()).device(context.device()));
  models::initialise(*opened.model, static_cast<std::uint64_t>(context.recipe.seed));
  adapters::train_all(*opened.model);
  log_info(context.stage.name,
           ": begins with random weights, so there is no base to score; later figures are ",
           "compared with what this stage ends with");

  const StageData data = *stage_data(context.recipe, context.stage, opened.tokenizer, data::Split::kTrain);
  train_stage(context, {opened, data, [&](const std::filesystem::path& folder) {
                          hub::save_model(folder, *opened.model, opened.tokenizer.get());
                        }});
}

void run_stage(const EvaluateStage& options, StageContext& context) {
  const hub::OpenedModel opened = open_stage_model(context, context.stage.from);
  context.result["languages"] = score_held_out(context, *opened.model, *opened.tokenizer, options.perplexity);
  warn_of_scores(context, context.result["languages"], "as it is");
}

}  // namespace bitrain::recipe
