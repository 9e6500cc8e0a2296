#include <algorithm>
#include <cmath>
#include <cstdio>

#include <bitrain/base/strings.h>
#include <bitrain/train/report.h>
#include <bitrain/train/report_html.h>
#include <bitrain/train/summary_view.h>

namespace bitrain::train {
namespace {

using Json = nlohmann::ordered_json;

/// Columns on a terminal, not bytes: continuation bytes of UTF-8 take none.
std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

/// Rows with columns of equal width; the first column to the left, the rest to the right.
std::string align(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (i >= widths.size()) widths.push_back(0);
      widths[i] = std::max(widths[i], width(row[i]));
    }
  std::string text;
  for (const auto& row : rows) {
    text += "  ";
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string space(widths[i] - width(row[i]), ' ');
      text += i == 0 ? row[i] + space : "  " + space + row[i];
    }
    text += "\n";
  }
  return text;
}

/// The moments a reader wants: all but the evaluations in the middle of a training stage.
std::vector<Snapshot> landmarks(const std::vector<Snapshot>& all) {
  std::vector<Snapshot> kept;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool opens = i == 0 || all[i - 1].stage != all[i].stage;
    const bool closes = i + 1 == all.size() || all[i + 1].stage != all[i].stage;
    if (opens || closes) kept.push_back(all[i]);
  }
  return kept;
}

std::string held_out(const SummaryView& view) {
  const std::vector<Snapshot> all = view.snapshots();
  if (all.empty()) return "";
  std::vector<std::vector<std::string>> rows(1, {"bits per byte, held out"});
  for (const std::string& language : view.languages()) {
    rows[0].push_back(language_name(language));
    rows[0].push_back("");
  }
  for (const Snapshot& snapshot : landmarks(all)) {
    std::vector<std::string> row{snapshot.label};
    for (const std::string& language : view.languages()) {
      const auto found = snapshot.languages.find(language);
      const bool known = found != snapshot.languages.end();
      const Snapshot* base = view.baseline(all, language);
      row.push_back(known ? fixed(found->second.bits_per_byte, 3) : "–");
      row.push_back(known && base != nullptr ? relative_change(base->languages.at(language).bits_per_byte,
                                                               found->second.bits_per_byte)
                                             : "");
    }
    rows.push_back(std::move(row));
  }
  return align(rows);
}

std::string vocabulary(const SummaryView& view) {
  std::string text;
  for (const auto& [name, stage] : view.stages()) {
    const Json* fertility = find_at(*stage, "fertility");
    if (fertility == nullptr) continue;
    std::vector<std::vector<std::string>> rows(
        1, {"tokens per word (" + name + ")", "before", "after", "byte pieces, before", "after"});
    for (const auto& [language, sides] : fertility->items()) {
      const Json* before = find_at(sides, "before");
      const Json* after = find_at(sides, "after");
      if (before == nullptr || after == nullptr) continue;
      rows.push_back({language_name(language), fixed(number_at(*before, "tokens_per_word"), 3),
                      fixed(number_at(*after, "tokens_per_word"), 3),
                      percent(number_at(*before, "byte_pieces")), percent(number_at(*after, "byte_pieces"))});
    }
    text += align(rows);
    if (const Json* all = find_at(*stage, "initialisers")) {
      std::vector<std::vector<std::string>> table(1, {"bits per byte at step 0"});
      for (const std::string& language : view.languages()) table[0].push_back(language_name(language));
      for (const auto& [rule, languages] : all->items()) {
        std::vector<std::string> row{rule + (rule == text_at(*stage, "chosen") ? " *" : "")};
        for (const std::string& language : view.languages()) {
          const Json* figures = find_at(languages, language.c_str());
          row.push_back(figures != nullptr ? fixed(number_at(*figures, "bits_per_byte"), 3) : "–");
        }
        table.push_back(std::move(row));
      }
      text += "\n" + align(table);
    }
  }
  return text;
}

std::string responses(const SummaryView& view) {
  std::string text;
  for (const auto& [name, stage] : view.stages()) {
    const Json* before = find_at(*stage, "before");
    const Json* after = find_at(*stage, "after");
    if (before == nullptr || after == nullptr) continue;
    std::vector<std::vector<std::string>> rows(
        1, {"responses (" + name + ")", "", "loss before", "after", "next word before", "after"});
    for (const auto& [set, languages] : after->items())
      for (const auto& [language, figures] : languages.items()) {
        const Json* earlier = find_at(*before, set.c_str());
        const Json* first = earlier != nullptr ? find_at(*earlier, language.c_str()) : nullptr;
        const Json old = first != nullptr ? *first : Json::object();
        rows.push_back({set, language_name(language), fixed(number_at(old, "response_loss"), 3),
                        fixed(number_at(figures, "response_loss"), 3),
                        fixed(100 * number_at(old, "next_word_accuracy"), 1) + " %",
                        fixed(100 * number_at(figures, "next_word_accuracy"), 1) + " %"});
      }
    text += align(rows);
  }
  return text;
}

std::string retrieval(const SummaryView& view) {
  const std::vector<RetrievalSnapshot> all = view.retrieval();
  if (all.empty()) return "";
  std::vector<std::vector<std::string>> rows(1, {"translations found at rank 1"});
  for (const auto& [pair, figures] : all.front().pairs) rows[0].push_back(direction_name(pair));
  rows[0].push_back(language_name(view.source()) + " kept");
  for (const RetrievalSnapshot& snapshot : all) {
    std::vector<std::string> row{snapshot.label};
    for (const auto& [pair, figures] : all.front().pairs) {
      const auto found = snapshot.pairs.find(pair);
      row.push_back(found != snapshot.pairs.end() ? fixed(found->second.accuracy_at_1, 3) : "–");
    }
    row.push_back(fixed(snapshot.agreement, 3));
    rows.push_back(std::move(row));
  }
  return align(rows);
}

std::string searches(const SummaryView& view) {
  std::vector<std::vector<std::string>> rows(1,
                                             {"retrieval sets", "system", "nDCG@10", "MRR@10", "recall@100"});
  std::string last;
  for (const SearchFigures& figures : view.searches()) {
    rows.push_back({figures.collection == last ? "" : figures.collection, figures.system,
                    fixed(figures.ndcg_at_10, 3), fixed(figures.mrr_at_10, 3),
                    fixed(figures.recall_at_100, 3)});
    last = figures.collection;
  }
  return rows.size() == 1 ? "" : align(rows);
}

std::string tables(const SummaryView& view) {
  std::vector<std::string> parts;
  for (const StageTable& table : stage_tables(view))
    parts.push_back(table.title + " (" + table.stage + ")\n" + align(table.rows));
  return join(parts, "\n");
}

std::string claims(const SummaryView& view) {
  return view.claims().empty() ? "" : align(claim_rows(view));
}

std::string speed(const SummaryView& view) {
  std::vector<std::vector<std::string>> rows(1, {"stage", "time", "tokens", "tokens/s", "peak memory"});
  const auto count = [](const Json& stage, const char* key) {
    const double value = number_at(stage, key);
    return std::isnan(value) ? std::string() : with_thousands(static_cast<std::int64_t>(std::llround(value)));
  };
  for (const auto& [name, stage] : view.stages()) {
    const double memory = number_at(*stage, "peak_memory_bytes");
    rows.push_back({name, human_seconds(number_at(*stage, "seconds", 0)), count(*stage, "tokens"),
                    count(*stage, "tokens_per_second"),
                    std::isnan(memory) ? "" : human_bytes(static_cast<std::uint64_t>(memory))});
  }
  rows.push_back({"all", human_seconds(view.number("seconds")), "", "",
                  human_bytes(static_cast<std::uint64_t>(view.number("peak_memory_bytes")))});
  return align(rows);
}

}  // namespace

std::string summarise(const Json& summary) {
  const SummaryView view(summary);
  std::string text = view.text("name");
  if (!view.source().empty() && !view.target().empty())
    text += ": " + language_name(view.source()) + " to " + language_name(view.target());
  text += ", " + view.machine("device") + ", " + view.machine("threads") + " threads, " +
          view.machine("dtype") + "\n";
  for (const std::string& part : {held_out(view), retrieval(view), searches(view), tables(view),
                                  responses(view), vocabulary(view), speed(view), claims(view)})
    if (!part.empty()) text += "\n" + part;
  return text;
}

}  // namespace bitrain::train
