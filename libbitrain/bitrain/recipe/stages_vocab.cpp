#include <bitrain/base/format.h>
#include <bitrain/base/log.h>
#include <bitrain/eval/perplexity.h>
#include <bitrain/recipe/base_score.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/vocab/apply.h>
#include <bitrain/vocab/fertility.h>

/// The stage that gives tokenizer and model the target language's pieces.
namespace bitrain::recipe {
namespace {

io::Json fertility_json(const text::Tokenizer& tokenizer, const std::vector<std::string>& lines) {
  const vocab::Fertility fertility = vocab::measure_fertility(tokenizer, text::lines_of(lines));
  return {{"tokens_per_word", fertility.tokens_per_word()},
          {"bytes_per_token", fertility.bytes_per_token()},
          {"continued_words", fertility.continued_share()},
          {"byte_pieces", fertility.byte_share()}};
}

void report_tokenizers(const vocab::ExtensionPlan& plan, StageContext& context) {
  const Recipe& recipe = context.recipe;
  for (const bool target : {false, true}) {
    const std::string& language = target ? recipe.target.language : recipe.source.language;
    const std::vector<std::string>& lines = context.held_out->of(target);
    const vocab::SegmentationChange change =
        vocab::segmentation_change(*plan.base, *plan.tokenizer, text::lines_of(lines));
    context.result["changed_segmentation"][language] = change.line_share();
    context.result["changed_tokens"][language] = change.token_share();
    context.result["fertility"][language] = {{"before", fertility_json(*plan.base, lines)},
                                             {"after", fertility_json(*plan.tokenizer, lines)}};
    const io::Json& sides = context.result["fertility"][language];
    log_info(context.stage.name, ": ", language, ": ",
             format("%.2f -> %.2f tokens a word, %.1f -> %.1f %% of the pieces are bytes",
                    sides["before"]["tokens_per_word"].get<double>(),
                    sides["after"]["tokens_per_word"].get<double>(),
                    100 * sides["before"]["byte_pieces"].get<double>(),
                    100 * sides["after"]["byte_pieces"].get<double>()));
  }
}

}  // namespace

void run_stage(const ExtendStage& options, StageContext& context) {
  const Recipe& recipe = context.recipe;
  hub::OpenOptions open;  // On the CPU, whatever the device: tables are grown in memory.
  open.dtype = context.dtype();
  hub::OpenedModel opened = hub::open_model(context.directory_of(context.stage.from), open);
  score_base(context, *opened.model, *opened.tokenizer, recipe.dtype);
  const std::vector<std::string> lines = data::texts_of(*open_side(recipe, true, data::Split::kTrain));
  const vocab::ExtensionPlan plan =
      vocab::plan_extension(opened.tokenizer, text::lines_of(lines), options.vocab);
  const auto seed = static_cast<std::uint64_t>(recipe.seed);
  const std::string chosen = options.initialiser.preset;
  const vocab::ApplyReport report =
      vocab::apply_extension(*opened.model, plan, options.initialiser, seed, options.pad_to_multiple_of);

  context.result["old_vocab_size"] = plan.old_vocab_size();
  context.result["vocab_size"] = plan.vocab_size();
  context.result["rows"] = report.rows;
  context.result["added"] = plan.pieces.size();
  context.result["dropped"] = plan.dropped_counts();
  report_tokenizers(plan, context);

  std::vector<std::string> names{chosen};
  if (options.compare_initialisers)
    for (const std::string& name : vocab::initialiser_names())
      if (name != chosen) names.push_back(name);
  // The chosen one comes last, so that its rows are those that stay.
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    vocab::InitialiserOptions rule = options.initialiser;
    if (*name != chosen) {
      rule = {};
      rule.preset = *name;
    }
    vocab::initialise_new_rows(*opened.model, plan, rule, seed);
    context.result["initialisers"][*name] = score_held_out(context, *opened.model, *plan.tokenizer);
    log_info(context.stage.name, ": new rows by ", *name, ": ", recipe.target.language, " ",
             context.result["initialisers"][*name][recipe.target.language]["bits_per_byte"].get<double>(),
             " bits per byte");
  }
  warn_of_scores(context, context.result["initialisers"][chosen], "with new rows by " + chosen);
  context.result["chosen"] = chosen;
  hub::save_model(context.out, *opened.model, plan.tokenizer.get());
}

}  // namespace bitrain::recipe
