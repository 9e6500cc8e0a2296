#include <cmath>

#include <bitrain/train/report_html.h>

namespace bitrain::train {
namespace {

using Json = nlohmann::ordered_json;

/// Lines by themselves, and beside their translations.
constexpr std::pair<const char*, const char*> kKinds[] = {{"masked_", ""}, {"translated_", ", translated"}};

double figure(const Json& languages, const std::string& language, const std::string& name) {
  const Json* figures = find_at(languages, language.c_str());
  return figures == nullptr ? std::nan("") : number_at(*figures, name.c_str());
}

}  // namespace

std::string masked_section(const SummaryView& view) {
  std::vector<std::vector<std::string>> rows(1, {"Model", "Text", "Nats per word piece", "Predicted"});
  for (const auto& [name, stage] : view.stages()) {
    for (const auto& [key, label] :
         {std::pair<const char*, std::string>{"before", name + ", before"}, {"masked", name}}) {
      const Json* languages = find_at(*stage, key);
      if (languages == nullptr || !languages->is_object()) continue;
      std::string model = escape_html(label);
      for (const auto& [language, figures] : languages->items()) {
        for (const auto& [prefix, kind] : kKinds) {
          const double loss = figure(*languages, language, std::string(prefix) + "loss");
          if (std::isnan(loss)) continue;
          const double accuracy = figure(*languages, language, std::string(prefix) + "accuracy");
          rows.push_back({model, escape_html(language_name(language) + kind), fixed(loss, 3),
                          std::isnan(accuracy) ? "–" : percent(accuracy)});
          model.clear();
        }
        const double told = figure(*languages, language, "next_sentence_accuracy");
        if (std::isnan(told)) continue;
        rows.push_back(
            {model, escape_html(language_name(language) + ", next sentences"), "–", percent(told)});
        model.clear();
      }
    }
  }
  if (rows.size() == 1) return "";
  return "<h2>Hidden words</h2><p>Held-out lines with hidden words, by themselves and beside their "
         "translations (translated); predicted: the share that the model names. Next sentences: the share of "
         "pairs that it rightly takes to follow on each other or not, as half of them do.</p>" +
         table(rows);
}

Chart masked_chart(const SummaryView& view, const std::string& stage, const Json& evaluations) {
  Chart chart{stage + ": hidden words predicted", "step", "share of hidden word pieces", {}, {}};
  int color = 0;
  for (const std::string& language : {view.source(), view.target()}) {
    for (const auto& [prefix, kind] : kKinds) {
      ChartSeries series{language_name(language) + kind, color, {}, {}};
      for (const Json& evaluation : evaluations) {
        const Json* languages = find_at(evaluation, "masked");
        if (languages == nullptr) continue;
        const double accuracy = figure(*languages, language, std::string(prefix) + "accuracy");
        if (std::isnan(accuracy)) continue;
        series.x.push_back(number_at(evaluation, "step", 0));
        series.y.push_back(accuracy);
      }
      if (!series.x.empty()) chart.series.push_back(std::move(series));
      color = (color + 1) % 4;
    }
  }
  return chart;
}

}  // namespace bitrain::train
