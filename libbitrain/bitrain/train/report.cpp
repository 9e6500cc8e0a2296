#include <bitrain/train/report.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include <bitrain/base/strings.h>
#include <bitrain/train/report_html.h>
#include <bitrain/train/summary_view.h>
#include <bitrain/train/svg_chart.h>

namespace bitrain::train {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kStyle = R"css(
:root{color-scheme:light dark;--page:#f9f9f7;--card:#fcfcfb;--ink:#0b0b0b;--ink2:#52514e;--muted:#6f6e69;
--line:#e1e0d9;--axis:#c3c2b7;--s0:#2a78d6;--s1:#d1521f;--s2:#14865f;--s3:#4a3aa7;--good:#006300}
@media(prefers-color-scheme:dark){:root{--page:#0d0d0d;--card:#1a1a19;--ink:#fff;--ink2:#c3c2b7;--muted:#98978f;
--line:#2c2c2a;--axis:#4a4945;--s0:#5598e7;--s1:#ee7a4b;--s2:#2fb888;--s3:#9085e9;--good:#0ca30c}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;line-height:1.2;margin:0 0 6px}h2{font-size:18px;margin:38px 0 4px}
p{margin:6px 0;color:var(--ink2);max-width:75ch}.lead{font-size:17px;color:var(--ink)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(195px,1fr));gap:12px;margin:22px 0 4px}
.tile,figure,.scroll{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tile{padding:12px 14px}.tile span{display:block;color:var(--ink2);font-size:13px}
.tile b{display:block;font-size:21px;line-height:1.3;font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:14px;margin-top:12px}
figure{margin:0;padding:14px 14px 8px;min-width:0}figcaption b{display:block}
figcaption span{color:var(--ink2);font-size:13px}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;margin:6px 0 2px;font-size:13px;color:var(--ink2)}
.legend i{display:inline-block;width:16px;border-top:3px solid;margin-right:6px;vertical-align:middle}
.legend i.dashed{border-top-style:dashed;border-top-width:2px}
svg{display:block;width:100%;height:auto;overflow:visible}
.grid{stroke:var(--line)}.axis{stroke:var(--axis)}.tick{fill:var(--muted);font-size:12.5px}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.reference{stroke-width:1.5;stroke-dasharray:5 4}.dot{stroke:var(--card);stroke-width:2}.hit{fill-opacity:0;stroke:none}
.hit:hover{fill-opacity:1}
path.s0,line.s0{stroke:var(--s0)}path.s1,line.s1{stroke:var(--s1)}path.s2,line.s2{stroke:var(--s2)}
path.s3,line.s3{stroke:var(--s3)}circle.s0{fill:var(--s0)}circle.s1{fill:var(--s1)}circle.s2{fill:var(--s2)}
circle.s3{fill:var(--s3)}i.s0{border-color:var(--s0)}i.s1{border-color:var(--s1)}i.s2{border-color:var(--s2)}
i.s3{border-color:var(--s3)}
.scroll{overflow-x:auto;margin-top:12px}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:7px 10px;text-align:right;white-space:nowrap;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--ink2);font-weight:500;font-size:13px}
th:first-child,td:first-child{text-align:left}td.text{text-align:left;white-space:normal;min-width:220px}
tr.chosen td{font-weight:600}.bar{display:inline-block;width:90px;height:9px;border-radius:5px;background:var(--line);
margin-left:10px;overflow:hidden}.bar i{display:block;height:100%;border-radius:5px}.bar i.s0{background:var(--s0)}
.bar i.s1{background:var(--s1)}.bar i.s2{background:var(--s2)}.bar i.s3{background:var(--s3)}
.matrix rect{fill:var(--s0)}.none{color:var(--muted)}footer{margin-top:40px;color:var(--muted);font-size:13px}
@media(max-width:520px){main{padding:20px 12px 40px}h1{font-size:22px}.tick{font-size:15px}th,td{padding:6px 9px}
.tile b{font-size:17px}.tiles{grid-template-columns:1fr 1fr}}
)css";

std::string tiles(const SummaryView& view, const std::vector<Snapshot>& snapshots) {
  std::string html = "<div class=\"tiles\">";
  for (const std::string& language : view.languages()) {
    const Snapshot* base = view.baseline(snapshots, language);
    const Snapshot* last = SummaryView::last(snapshots, language);
    if (base == nullptr || base == last) continue;
    const double before = base->languages.at(language).bits_per_byte;
    const double after = last->languages.at(language).bits_per_byte;
    html += tile(language_name(language) + ", bits per byte", fixed(before, 3) + " → " + fixed(after, 3),
                 relative_change(before, after) + " (lower is better)");
  }
  for (const auto& [name, stage] : view.stages()) {
    const Json* fertility = find_at(*stage, "fertility");
    const Json* target = fertility != nullptr ? find_at(*fertility, view.target().c_str()) : nullptr;
    if (target == nullptr || find_at(*target, "before") == nullptr || find_at(*target, "after") == nullptr)
      continue;
    const double before = number_at(target->at("before"), "tokens_per_word");
    const double after = number_at(target->at("after"), "tokens_per_word");
    html +=
        tile(language_name(view.target()) + ", tokens per word", fixed(before, 2) + " → " + fixed(after, 2),
             relative_change(before, after) + " (" + name + ")");
  }
  html += retrieval_tiles(view);
  html += tile("Time", human_seconds(view.number("seconds")), "all stages");
  html += tile("Peak memory", human_bytes(static_cast<std::uint64_t>(view.number("peak_memory_bytes"))),
               "of the process");
  return html + "</div>";
}

std::vector<double> numbers(const Json& object, const char* key) {
  std::vector<double> values;
  if (const Json* array = find_at(object, key))
    for (const Json& value : *array) values.push_back(value.is_number() ? value.get<double>() : std::nan(""));
  return values;
}

Chart language_chart(const SummaryView& view, const std::string& name, const Json& stage,
                     const std::vector<Snapshot>& snapshots) {
  Chart chart{name + ": held-out text by language", "step", "bits per byte, lower is better", {}, {}};
  for (const std::string& language : view.languages()) {
    ChartSeries series{language_name(language), view.color(language), {}, {}};
    for (const Json& evaluation : stage.at("evaluations")) {
      const Json* languages = find_at(evaluation, "languages");
      const Json* figures = languages != nullptr ? find_at(*languages, language.c_str()) : nullptr;
      if (figures == nullptr) continue;
      series.x.push_back(number_at(evaluation, "step", 0));
      series.y.push_back(number_at(*figures, "bits_per_byte"));
    }
    if (series.x.empty()) continue;
    chart.series.push_back(std::move(series));
    const Snapshot* base = view.baseline(snapshots, language);
    if (base != nullptr && base->stage != name)
      chart.references.push_back({language_name(language) + ", " + base->label, view.color(language),
                                  base->languages.at(language).bits_per_byte});
  }
  return chart;
}

/// Of held-out rows of a stage's own files, by set.
Chart set_chart(const std::string& name, const Json& evaluations) {
  Chart chart{name + ": held-out conversations", "step", "loss a token, lower is better", {}, {}};
  for (const auto& [set, unused] : evaluations.front().at("sets").items()) {
    ChartSeries series{set, static_cast<int>(chart.series.size()) % 4, {}, {}};
    for (const Json& evaluation : evaluations)
      if (const Json* sets = find_at(evaluation, "sets"))
        if (const Json* figures = find_at(*sets, set.c_str())) {
          series.x.push_back(number_at(evaluation, "step", 0));
          series.y.push_back(number_at(*figures, "loss_per_token"));
        }
    chart.series.push_back(std::move(series));
  }
  return chart;
}

std::string charts(const SummaryView& view, const std::vector<Snapshot>& snapshots) {
  std::string html;
  for (const auto& [name, stage] : view.stages()) {
    if (const Json* evaluations = find_at(*stage, "evaluations");
        evaluations != nullptr && !evaluations->empty()) {
      const bool retrieval = find_at(evaluations->front(), "retrieval") != nullptr;
      const bool masked = find_at(evaluations->front(), "masked") != nullptr;
      html += render_chart(retrieval ? retrieval_chart(view, name)
                           : masked  ? masked_chart(view, name, *evaluations)
                           : find_at(evaluations->front(), "sets") != nullptr
                               ? set_chart(name, *evaluations)
                               : language_chart(view, name, *stage, snapshots));
    }
    const Json* curve = find_at(*stage, "curve");
    if (curve == nullptr) continue;
    const std::vector<double> steps = numbers(*curve, "step");
    const std::vector<double> losses = numbers(*curve, "loss");
    if (steps.empty() || steps.size() != losses.size()) continue;
    const bool pairs = !std::isnan(number_at(*stage, "pairs_per_step"));
    html += render_chart({name + ": training loss",
                          "step",
                          pairs ? "nats per pair" : "nats per token of the mixture",
                          {{"training loss", 2, steps, losses}},
                          {}});
    const std::vector<double> speed = numbers(*curve, "tokens_per_second");
    if (speed.size() == steps.size())
      html += render_chart(
          {name + ": speed", "step", "tokens per second", {{"tokens per second", 3, steps, speed}}, {}});
  }
  return html.empty() ? "" : "<h2>Training</h2><div class=\"charts\">" + html + "</div>";
}

/// "The base is: evaluate."
std::string what_is_compared(const SummaryView& view, const std::vector<Snapshot>& snapshots) {
  std::vector<std::string> labels;
  for (const std::string& language : view.languages()) {
    const Snapshot* base = view.baseline(snapshots, language);
    if (base != nullptr && std::find(labels.begin(), labels.end(), base->label) == labels.end())
      labels.push_back(base->label);
  }
  const auto is_pretraining = [](const auto& stage) { return text_at(*stage.second, "type") == "pretrain"; };
  const bool from_scratch = std::any_of(view.stages().begin(), view.stages().end(), is_pretraining);
  return "The base is: " + join(labels, "; ") +
         (from_scratch ? ", which this run trained from random weights." : ".");
}

std::string before_and_after(const SummaryView& view, const std::vector<Snapshot>& snapshots) {
  if (snapshots.empty()) return "";
  std::vector<std::vector<std::string>> rows(1, {"Model"});
  for (const std::string& language : view.languages()) {
    rows[0].push_back(escape_html(language_name(language)) + ", bits per byte");
    rows[0].push_back("against the base");
    rows[0].push_back("nats per token");
  }
  for (const Snapshot& snapshot : snapshots) {
    std::vector<std::string> row{escape_html(snapshot.label)};
    for (const std::string& language : view.languages()) {
      const auto figures = snapshot.languages.find(language);
      if (figures == snapshot.languages.end()) {
        row.insert(row.end(), 3, "–");
        continue;
      }
      const double before = view.baseline(snapshots, language)->languages.at(language).bits_per_byte;
      row.push_back(fixed(figures->second.bits_per_byte, 3));
      row.push_back(relative_change(before, figures->second.bits_per_byte));
      row.push_back(fixed(figures->second.loss_per_token, 3));
    }
    rows.push_back(std::move(row));
  }
  return "<h2>Before and after</h2><p>Held-out text. Bits per byte compare across tokenizers; loss per token "
         "only under one. Guessing bytes costs 8 bits. " +
         escape_html(what_is_compared(view, snapshots)) + "</p>" + table(rows);
}

std::string initialisers(const SummaryView& view) {
  std::string html;
  for (const auto& [name, stage] : view.stages()) {
    const Json* all = find_at(*stage, "initialisers");
    if (all == nullptr || all->empty()) continue;
    std::vector<std::vector<std::string>> rows(1, {"Initialiser"});
    for (const std::string& language : view.languages())
      rows[0].push_back(escape_html(language_name(language)) + ", bits per byte");
    std::vector<std::pair<double, std::vector<std::string>>> sorted;
    for (const auto& [rule, languages] : all->items()) {
      std::vector<std::string> row{escape_html(rule)};
      for (const std::string& language : view.languages()) {
        const Json* figures = find_at(languages, language.c_str());
        row.push_back(fixed(figures != nullptr ? number_at(*figures, "bits_per_byte") : std::nan(""), 3));
      }
      const Json* target = find_at(languages, view.target().c_str());
      sorted.emplace_back(target != nullptr ? number_at(*target, "bits_per_byte", 1e9) : 1e9, std::move(row));
    }
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (auto& [score, row] : sorted) rows.push_back(std::move(row));
    html += "<h2>Initialisers at step 0</h2><p>" + escape_html(name) + ": " +
            with_thousands(static_cast<std::int64_t>(number_at(*stage, "old_vocab_size", 0))) + " → " +
            with_thousands(static_cast<std::int64_t>(number_at(*stage, "vocab_size", 0))) +
            " pieces, before any training on them. Bold: the one the run went on with.</p>" +
            table(rows, escape_html(text_at(*stage, "chosen")));
  }
  return html;
}

/// "Held-out lines that are cut otherwise than before: English 1.2 %."
std::string changed_segmentation(const Json& stage) {
  const Json* changed = find_at(stage, "changed_segmentation");
  if (changed == nullptr || changed->empty()) return "";
  std::vector<std::string> shares;
  for (const auto& [language, share] : changed->items())
    if (share.is_number())
      shares.push_back(escape_html(language_name(language)) + " " + percent(share.get<double>()));
  return "<p>Held-out lines that are cut otherwise than before: " + join(shares, ", ") + ".</p>";
}

std::string fertility(const SummaryView& view) {
  std::string html;
  for (const auto& [name, stage] : view.stages()) {
    const Json* all = find_at(*stage, "fertility");
    if (all == nullptr || all->empty()) continue;
    std::vector<std::vector<std::string>> rows(
        1, {"Language", "tokens per word, before", "after", "bytes per token, before", "after",
            "byte pieces, before", "after"});
    for (const auto& [language, sides] : all->items()) {
      const Json empty = Json::object();
      const Json& before = find_at(sides, "before") != nullptr ? sides.at("before") : empty;
      const Json& after = find_at(sides, "after") != nullptr ? sides.at("after") : empty;
      rows.push_back({escape_html(language_name(language)), fixed(number_at(before, "tokens_per_word"), 3),
                      fixed(number_at(after, "tokens_per_word"), 3),
                      fixed(number_at(before, "bytes_per_token"), 3),
                      fixed(number_at(after, "bytes_per_token"), 3),
                      percent(number_at(before, "byte_pieces")), percent(number_at(after, "byte_pieces"))});
    }
    html += "<h2>Fertility</h2><p>" + escape_html(name) +
            ", on held-out text. Byte pieces are tokens that spell a character byte by byte.</p>" +
            changed_segmentation(*stage) + table(rows);
  }
  return html;
}

std::string mixtures(const SummaryView& view) {
  std::vector<std::vector<std::string>> rows(1, {"Stage", "Language", "asked", "realised"});
  for (const auto& [name, stage] : view.stages()) {
    const Json* shares = find_at(*stage, "shares");
    if (shares == nullptr) continue;
    for (const auto& [language, share] : shares->items()) {
      const double realised = number_at(share, "realised");
      rows.push_back({escape_html(name), escape_html(language_name(language)),
                      percent(number_at(share, "asked")),
                      percent(realised) + "<span class=\"bar\"><i class=\"s" +
                          std::to_string(view.color(language)) + "\" style=\"width:" +
                          fixed(100 * std::clamp(std::isnan(realised) ? 0 : realised, 0.0, 1.0), 1) +
                          "%\"></i></span>"});
    }
  }
  if (rows.size() == 1) return "";
  return "<h2>Mixture</h2><p>Shares of the training tokens.</p>" + table(rows);
}

std::string speed_and_memory(const SummaryView& view) {
  std::vector<std::vector<std::string>> rows(1, {"Stage", "what", "time", "steps", "tokens",
                                                 "tokens per second", "trained parameters", "peak memory"});
  const auto count = [](const Json& stage, const char* key) {
    const double value = number_at(stage, key);
    return std::isnan(value) ? std::string("–")
                             : with_thousands(static_cast<std::int64_t>(std::llround(value)));
  };
  for (const auto& [name, stage] : view.stages()) {
    const double memory = number_at(*stage, "peak_memory_bytes");
    rows.push_back({escape_html(name), escape_html(text_at(*stage, "type")),
                    escape_html(human_seconds(number_at(*stage, "seconds", 0))), count(*stage, "steps"),
                    count(*stage, "tokens"), count(*stage, "tokens_per_second"),
                    count(*stage, "trainable_parameters"),
                    std::isnan(memory) ? "–" : escape_html(human_bytes(static_cast<std::uint64_t>(memory)))});
  }
  return "<h2>Speed and memory</h2>" + table(rows);
}

std::string generations(const SummaryView& view) {
  std::string html;
  for (const auto& [name, stage] : view.stages()) {
    const Json* all = find_at(*stage, "generations");
    if (all == nullptr || all->empty()) continue;
    html += "<h2>Continuations</h2><p>Written by " + escape_html(name) +
            " after each prompt.</p><div class=\"scroll\"><table>"
            "<thead><tr><th>Prompt</th><th style=\"text-align:left\">Continuation</th></tr></thead><tbody>";
    for (const Json& pair : *all)
      html += "<tr><td class=\"text\">" + escape_html(text_at(pair, "prompt")) + "</td><td class=\"text\">" +
              escape_html(text_at(pair, "text")) + "</td></tr>";
    html += "</tbody></table></div>";
  }
  return html;
}

/// Response loss and next-word accuracy of an sft stage, before and after.
std::string responses(const SummaryView& view) {
  std::string html;
  for (const auto& [name, stage] : view.stages()) {
    const Json* before = find_at(*stage, "before");
    const Json* after = find_at(*stage, "after");
    if (before == nullptr || after == nullptr) continue;
    std::vector<std::vector<std::string>> rows(1, {"Conversations", "Language", "response loss, before",
                                                   "after", "next word exact, before", "after"});
    for (const auto& [set, languages] : after->items()) {
      const Json* earlier = find_at(*before, set.c_str());
      for (const auto& [language, figures] : languages.items()) {
        const Json empty = Json::object();
        const Json* first = earlier != nullptr ? find_at(*earlier, language.c_str()) : nullptr;
        const Json& old = first != nullptr ? *first : empty;
        rows.push_back({escape_html(set), escape_html(language_name(language)),
                        fixed(number_at(old, "response_loss"), 3),
                        fixed(number_at(figures, "response_loss"), 3),
                        percent(number_at(old, "next_word_accuracy")),
                        percent(number_at(figures, "next_word_accuracy"))});
      }
    }
    html += "<h2>Responses</h2><p>" + escape_html(name) +
            ", on held-out conversations: nats per token of the response, and how often greedy generation "
            "begins with exactly the expected word.</p>" +
            table(rows);
  }
  return html;
}

std::string verification(const SummaryView& view) {
  std::string html;
  for (const auto& [name, stage] : view.stages()) {
    const double difference = number_at(*stage, "max_logit_difference");
    if (std::isnan(difference)) continue;
    html += "<p>" + escape_html(name) + ": the merged weights give the adapted model's logits within " +
            escape_html(fixed(difference, 4)) + " at most.</p>";
  }
  return html;
}

}  // namespace

std::string render_report(const Json& summary) {
  const SummaryView view(summary);
  const std::vector<Snapshot> snapshots = view.snapshots();
  const std::string name = escape_html(view.text("name"));
  std::string html =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\"><title>" +
      name + " · bitrain</title><style>";
  html += kStyle;
  html += "</style></head><body><main><h1>" + name + "</h1>";
  if (!view.source().empty() && !view.target().empty())
    html += "<p class=\"lead\">From " + escape_html(language_name(view.source())) + " to " +
            escape_html(language_name(view.target())) + ", on " + escape_html(view.machine("device")) +
            " with " + escape_html(view.machine("threads")) + " threads, " +
            escape_html(view.machine("dtype")) + ".</p>";
  html += tiles(view, snapshots) + claims_section(view) + charts(view, snapshots) +
          before_and_after(view, snapshots) + verification(view) + retrieval_section(view) +
          search_section(view) + masked_section(view) + tables_section(view) + responses(view) +
          initialisers(view) + fertility(view) + mixtures(view) + speed_and_memory(view) + generations(view);
  html += "<footer>bitrain " + escape_html(view.text("version")) + " · " + escape_html(view.machine("cpu")) +
          " · every figure is in summary.json beside this page</footer></main></body></html>\n";
  return html;
}

}  // namespace bitrain::train
