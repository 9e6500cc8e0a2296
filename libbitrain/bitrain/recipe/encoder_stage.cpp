#include <bitrain/recipe/encoder_stage.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/nn/unit_rows.h>
#include <bitrain/recipe/training.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

/// Lines whose pairs are compared with those of the base: half a million pairs say enough.
constexpr std::int64_t kAgreementLines = 1000;

/// What a rank correlation needs.
bool varies(const std::vector<double>& values) {
  return std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) != values.end();
}

/// Of every pair of the first texts once.
std::vector<double> cosines(const at::Tensor& embeddings) {
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

/// Cosines of the first texts with the first translations.
io::Json picture(const at::Tensor& left, const at::Tensor& right, std::int64_t most) {
  const std::int64_t n = std::min(most, left.size(0));
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

}  // namespace

hub::OpenedSentenceEncoder open_stage_encoder(const StageContext& context, const std::string& stage) {
  hub::OpenOptions options;
  options.dtype = context.dtype();
  options.device = context.device();
  hub::OpenedSentenceEncoder opened = hub::open_sentence_encoder(context.directory_of(stage), options);
  opened.model->encoder().set_languages({context.recipe.source.language, context.recipe.target.language});
  if (!opened.settings.include_prompt)
    log_warn(context.stage.name,
             ": include_prompt is false, but prompts of a recipe are pooled with the text");
  return opened;
}

void leave_out_special_tokens(const hub::OpenedSentenceEncoder& opened) {
  models::PoolingMargins margins;
  bool before = true;
  for (const text::InputTemplate::Item& item : opened.tokenizer->input_template().single) {
    const bool special = item.kind == text::InputTemplate::Kind::kSpecial;
    before = before && special;
    if (special) ++(before ? margins.first : margins.last);
  }
  opened.model->set_margins(margins);
}

void save_stage_encoder(const fs::path& folder, models::SentenceEncoder& model,
                        const text::Tokenizer& tokenizer, const hub::SentenceSettings& settings) {
  hub::SaveOptions options;
  options.dtype = at::kFloat;
  hub::save_sentence_encoder(folder, model, &tokenizer, settings, options);
}

std::vector<std::string> encoder_languages(const Recipe& recipe,
                                           const std::vector<data::SourcePtr>& sources) {
  std::vector<std::string> languages = {recipe.source.language, recipe.target.language};
  for (const std::string& language : data::languages_of(sources))
    if (std::find(languages.begin(), languages.end(), language) == languages.end())
      languages.push_back(language);
  return languages;
}

HeldOutPairs::HeldOutPairs(const StageContext& context, RetrievalOptions options)
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

io::Json HeldOutPairs::score(models::SentenceEncoder& model, const text::Tokenizer& tokenizer) {
  return score(embed(model, tokenizer));
}

HeldOutPairs::Sides HeldOutPairs::embed(models::SentenceEncoder& model,
                                        const text::Tokenizer& tokenizer) const {
  return {embed(model, tokenizer, texts_, false), embed(model, tokenizer, translations_, true),
          model.margins()};
}

io::Json HeldOutPairs::score(const Sides& sides) {
  const at::NoGradGuard no_grad;
  io::Json json;
  json["pairs"] = texts_.size();
  json["retrieval"] = pair_scores_json(context_.recipe, eval::score_pairs(sides.source, sides.target));
  const std::vector<double>& before = base_cosines(sides.margins);
  const std::vector<double> now = cosines(sides.source);
  if (varies(before) && varies(now))
    json["agreement"][context_.recipe.source.language] = eval::spearman(before, now);
  if (options_.matrix > 0) json["similarities"] = picture(sides.source, sides.target, options_.matrix);
  return json;
}

at::Tensor HeldOutPairs::embed(models::SentenceEncoder& model, const text::Tokenizer& tokenizer,
                               const std::vector<std::string>& texts, bool target) const {
  eval::EncodeOptions encode;
  encode.max_length = options_.max_length;
  encode.truncate_dim = options_.truncate_dim;
  encode.prompt = target ? options_.pair_prompt : options_.text_prompt;
  encode.language = target ? 1 : 0;
  return eval::encode_texts(model, tokenizer, texts, encode);
}

const std::vector<double>& HeldOutPairs::base_cosines(const models::PoolingMargins& margins) {
  if (base_cosines_.empty() && !context_.recipe.base.empty()) {
    const hub::OpenedSentenceEncoder base = open_stage_encoder(context_, "base");
    base.model->set_margins(margins);
    base_cosines_ = cosines(embed(*base.model, *base.tokenizer, texts_, false));
  }
  return base_cosines_;
}

io::Json pair_scores_json(const Recipe& recipe, const eval::PairScores& scores) {
  const std::string& source = recipe.source.language;
  const std::string& target = recipe.target.language;
  return {{source + "-" + target,
           {{"accuracy_at_1", scores.forward_accuracy}, {"mrr_at_10", scores.forward_mrr}}},
          {target + "-" + source,
           {{"accuracy_at_1", scores.backward_accuracy}, {"mrr_at_10", scores.backward_mrr}}}};
}

train::LanguageFigures retrieval_figures(const io::Json& scores) {
  train::LanguageFigures figures = language_figures(scores.at("retrieval"));
  for (auto& [pair, values] : figures) values["error_at_1"] = 1 - values.at("accuracy_at_1");
  if (scores.contains("agreement"))
    for (const auto& [language, value] : scores.at("agreement").items())
      figures[language]["agreement"] = value.get<double>();
  return figures;
}

}  // namespace bitrain::recipe
