#include <bitrain/train/summary_view.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>

namespace bitrain::train {
namespace {

using Json = nlohmann::ordered_json;

std::map<std::string, TextScore> figures_of(const Json& languages) {
  std::map<std::string, TextScore> figures;
  for (const auto& [language, values] : languages.items())
    if (values.is_object())
      figures[language] = {number_at(values, "loss_per_token"), number_at(values, "bits_per_byte")};
  return figures;
}

std::string label_of(const std::string& stage, const Json& evaluation) {
  return stage + ", step " + std::to_string(static_cast<long long>(number_at(evaluation, "step", 0)));
}

/// The evaluation of the step whose weights a stage kept, where that is not the last; else null.
const Json* kept_evaluation(const Json& stage) {
  const double step = number_at(stage, "kept_step");
  const Json* evaluations = find_at(stage, "evaluations");
  if (std::isnan(step) || evaluations == nullptr) return nullptr;
  for (const Json& evaluation : *evaluations)
    if (number_at(evaluation, "step") == step) return &evaluation;
  return nullptr;
}

/// "base", or "base in nf4" where it was scored with packed weights.
std::string label_of_base(const Json& base) {
  const std::string model = text_at(base, "model");
  const std::string weights = text_at(base, "weights");
  const bool packed = weights == "nf4" || weights == "fp4";
  return (model.empty() ? "base" : model) + (packed ? " in " + weights : "");
}

void add_snapshots(const std::string& name, const Json& stage, std::vector<Snapshot>& all) {
  if (const Json* base = find_at(stage, "base"))
    if (const Json* languages = find_at(*base, "languages"))
      all.push_back({"", label_of_base(*base), figures_of(*languages), true});
  if (const Json* initialisers = find_at(stage, "initialisers")) {
    const std::string chosen = text_at(stage, "chosen");
    if (const Json* languages = find_at(*initialisers, chosen.c_str()))
      all.push_back({name, name + ", new rows by " + chosen, figures_of(*languages)});
  }
  if (const Json* evaluations = find_at(stage, "evaluations")) {
    for (const Json& evaluation : *evaluations)
      if (const Json* languages = find_at(evaluation, "languages"))
        all.push_back({name, label_of(name, evaluation), figures_of(*languages)});
    // The weights that the stage ended with come last.
    if (const Json* kept = kept_evaluation(stage))
      if (const Json* languages = find_at(*kept, "languages"))
        all.push_back({name, label_of(name, *kept) + ", kept", figures_of(*languages)});
  }
  if (const Json* languages = find_at(stage, "languages"))
    all.push_back({name, name, figures_of(*languages)});
}

void add_retrieval(const std::string& stage, const std::string& label, double step, const Json& figures,
                   const Json* agreement, const std::string& source, std::vector<RetrievalSnapshot>& all) {
  RetrievalSnapshot snapshot{stage, label, step, {}, std::nan("")};
  for (const auto& [name, values] : figures.items()) {
    if (const double value = number_at(values, "agreement"); !std::isnan(value)) snapshot.agreement = value;
    const double accuracy = number_at(values, "accuracy_at_1");
    if (!std::isnan(accuracy)) snapshot.pairs[name] = {accuracy, number_at(values, "mrr_at_10")};
  }
  if (agreement != nullptr) snapshot.agreement = number_at(*agreement, source.c_str());
  if (!snapshot.pairs.empty()) all.push_back(std::move(snapshot));
}

}  // namespace

SummaryView::SummaryView(const Json& summary) : summary_(summary) {
  const Json* stages = summary.is_object() ? find_at(summary, "stages") : nullptr;
  if (stages == nullptr || !stages->is_object())
    throw FormatError("this is no summary.json of bitrain: it has no 'stages' object");
  if (const Json* languages = find_at(summary, "languages")) {
    source_ = text_at(*languages, "source");
    target_ = text_at(*languages, "target");
  }
  for (const std::string& language : {source_, target_})
    if (!language.empty() && std::find(languages_.begin(), languages_.end(), language) == languages_.end())
      languages_.push_back(language);
  for (const auto& [name, stage] : stages->items())
    if (stage.is_object()) stages_.emplace_back(name, &stage);
  if (const Json* claims = find_at(summary, "claims"))
    for (const Json& claim : *claims)
      if (claim.is_object()) claims_.push_back(claim);
  for (const Snapshot& snapshot : snapshots())
    for (const auto& [language, figures] : snapshot.languages)
      if (std::find(languages_.begin(), languages_.end(), language) == languages_.end())
        languages_.push_back(language);
}

std::string SummaryView::text(const char* key) const {
  return text_at(summary_, key);
}

double SummaryView::number(const char* key) const {
  return number_at(summary_, key, 0);
}

std::string SummaryView::machine(const char* key) const {
  const Json* machine = find_at(summary_, "machine");
  if (machine == nullptr || !machine->contains(key)) return "";
  const Json& value = machine->at(key);
  return value.is_string() ? value.get<std::string>() : value.dump();
}

int SummaryView::color(const std::string& language) const {
  const auto found = std::find(languages_.begin(), languages_.end(), language);
  return static_cast<int>(found - languages_.begin()) % 4;
}

std::vector<Snapshot> SummaryView::snapshots() const {
  std::vector<Snapshot> all;
  for (const auto& [name, stage] : stages_) add_snapshots(name, *stage, all);
  return all;
}

std::vector<RetrievalSnapshot> SummaryView::retrieval() const {
  std::vector<RetrievalSnapshot> all;
  for (const auto& [name, stage] : stages_) {
    if (const Json* evaluations = find_at(*stage, "evaluations"))
      for (const Json& evaluation : *evaluations) {
        const double step = number_at(evaluation, "step", 0);
        if (const Json* figures = find_at(evaluation, "retrieval"))
          add_retrieval(name, name + ", step " + std::to_string(static_cast<long long>(step)), step, *figures,
                        nullptr, source_, all);
      }
    if (const Json* figures = find_at(*stage, "retrieval"))
      add_retrieval(name, name, std::nan(""), *figures, find_at(*stage, "agreement"), source_, all);
  }
  return all;
}

std::vector<SearchFigures> SummaryView::searches() const {
  std::vector<std::pair<std::string, std::vector<SearchFigures>>> by_set;
  const auto systems_of = [&](const std::string& set) -> std::vector<SearchFigures>& {
    for (auto& [name, systems] : by_set)
      if (name == set) return systems;
    return by_set.emplace_back(set, std::vector<SearchFigures>{}).second;
  };
  for (const auto& [stage, result] : stages_) {
    const Json* sets = find_at(*result, "search");
    if (sets == nullptr || !sets->is_object()) continue;
    for (const auto& [set, systems] : sets->items()) {
      if (!systems.is_object()) continue;
      std::vector<SearchFigures>& known = systems_of(set);
      for (const char* system : {"bm25", "encoder", "late_interaction", "reranked"}) {
        const Json* figures = find_at(systems, system);
        if (figures == nullptr) continue;
        const bool words = std::string(system) == "bm25";
        const bool reranked = std::string(system) == "reranked";
        const std::string name = words ? "BM25" : reranked ? stage + ", reranked" : stage;
        if (words && std::any_of(known.begin(), known.end(),
                                 [&](const SearchFigures& other) { return other.system == name; }))
          continue;
        const SearchFigures found{set,
                                  name,
                                  number_at(*figures, "ndcg@10"),
                                  number_at(*figures, "mrr@10"),
                                  number_at(*figures, "accuracy@1"),
                                  number_at(*figures, "recall@100")};
        known.insert(words ? known.begin() : known.end(), found);
      }
    }
  }
  std::vector<SearchFigures> all;
  for (const auto& [set, systems] : by_set) all.insert(all.end(), systems.begin(), systems.end());
  return all;
}

const Snapshot* SummaryView::baseline(const std::vector<Snapshot>& all, const std::string& language) const {
  for (const Snapshot& snapshot : all)
    if (snapshot.is_base && snapshot.languages.count(language) != 0) return &snapshot;
  const Snapshot* found = nullptr;
  for (const auto& [name, stage] : stages_) {
    const std::string type = text_at(*stage, "type");
    if (found != nullptr && (type == "extend_vocab" || type == "cpt" || type == "sft")) return found;
    for (const Snapshot& snapshot : all)
      if (snapshot.stage == name && snapshot.languages.count(language) != 0) {
        found = &snapshot;
        if (type == "extend_vocab" || type == "cpt" || type == "sft") return found;
      }
  }
  for (const Snapshot& snapshot : all)
    if (snapshot.languages.count(language) != 0) return &snapshot;
  return nullptr;
}

const Snapshot* SummaryView::last(const std::vector<Snapshot>& all, const std::string& language) {
  for (auto snapshot = all.rbegin(); snapshot != all.rend(); ++snapshot)
    if (snapshot->languages.count(language) != 0) return &*snapshot;
  return nullptr;
}

double number_at(const Json& object, const char* key, double otherwise) {
  if (!object.is_object()) return otherwise;
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : otherwise;
}

double number_at(const Json& object, const char* key) {
  return number_at(object, key, std::numeric_limits<double>::quiet_NaN());
}

std::string text_at(const Json& object, const char* key) {
  if (!object.is_object()) return "";
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

const Json* find_at(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found != object.end() && found->is_structured() ? &*found : nullptr;
}

std::string fixed(double value, int digits) {
  if (!std::isfinite(value)) return "–";
  return format("%.*f", digits, value);
}

std::string relative_change(double before, double after) {
  if (!std::isfinite(before) || !std::isfinite(after) || before == 0) return "–";
  return format("%+.1f %%", 100 * (after / before - 1));
}

std::string language_name(const std::string& code) {
  static const std::map<std::string, std::string> kNames = {
      {"ar", "Arabic"},     {"bg", "Bulgarian"},  {"bn", "Bengali"},    {"ca", "Catalan"},
      {"cs", "Czech"},      {"da", "Danish"},     {"de", "German"},     {"el", "Greek"},
      {"en", "English"},    {"es", "Spanish"},    {"et", "Estonian"},   {"eu", "Basque"},
      {"fa", "Persian"},    {"fi", "Finnish"},    {"fr", "French"},     {"ga", "Irish"},
      {"gl", "Galician"},   {"he", "Hebrew"},     {"hi", "Hindi"},      {"hr", "Croatian"},
      {"hu", "Hungarian"},  {"id", "Indonesian"}, {"is", "Icelandic"},  {"it", "Italian"},
      {"ja", "Japanese"},   {"ko", "Korean"},     {"lt", "Lithuanian"}, {"lv", "Latvian"},
      {"mt", "Maltese"},    {"nl", "Dutch"},      {"no", "Norwegian"},  {"pl", "Polish"},
      {"pt", "Portuguese"}, {"ro", "Romanian"},   {"ru", "Russian"},    {"sk", "Slovak"},
      {"sl", "Slovenian"},  {"sr", "Serbian"},    {"sv", "Swedish"},    {"sw", "Swahili"},
      {"th", "Thai"},       {"tl", "Tagalog"},    {"tr", "Turkish"},    {"uk", "Ukrainian"},
      {"vi", "Vietnamese"}, {"zh", "Chinese"}};
  const auto found = kNames.find(code);
  return found == kNames.end() ? code : found->second;
}

}  // namespace bitrain::train
