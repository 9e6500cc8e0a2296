#pragma once

#include <functional>
#include <string>

#include <bitrain/io/json.h>
#include <bitrain/models/language_model.h>
#include <bitrain/recipe/recipe.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/text/tokenizer.h>

/// Figures of a model before a stage changes it.
namespace bitrain::recipe {

/// The stage that scores the model the run starts from: the first that extends or adapts a decoder, before it
/// does. Null where no lines of text are held out, or where a stage before it has scored the same model on
/// the same terms.
[[nodiscard]] const Stage* stage_that_scores_the_base(const Recipe& recipe);

/// Where `context.stage` is that stage: scores held-out text with the model as it is open now and puts "base"
/// into context.result: `model` (the stage or "base" that it is), `weights` (their type) and `languages`.
/// A run that goes on with unfinished work keeps the figures it has. All ranks of the stage call it together.
void score_base(StageContext& context, models::LanguageModel& model, const text::Tokenizer& tokenizer,
                const std::string& weights);

/// What `make` gave when this stage began: from the file of figures in the work folder, where unfinished work
/// has it, else made now and kept there under `name`. All ranks of the stage call it together.
[[nodiscard]] io::Json figures_before(const StageContext& context, const std::string& name,
                                      const std::function<io::Json()>& make);

}  // namespace bitrain::recipe
