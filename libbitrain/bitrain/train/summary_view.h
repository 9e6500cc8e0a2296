#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace bitrain::train {

/// What a model scored on one language's held-out text.
struct TextScore {
  double loss_per_token = 0;  ///< Nats. Comparable only under one tokenizer.
  double bits_per_byte = 0;   ///< Comparable across tokenizers.
};

/// All languages at one moment of a run.
struct Snapshot {
  std::string stage;  ///< Empty for the base.
  std::string label;  ///< "base", "adapt, step 100", ...
  std::map<std::string, TextScore> languages;
  bool is_base = false;  ///< Of the model that the run starts from, scored before a stage changed it.
};

/// How an encoder found held-out lines by their translations, at one moment of a run.
struct RetrievalSnapshot {
  struct Figures {
    double accuracy_at_1 = 0;
    double mrr_at_10 = 0;
  };
  std::string stage;
  std::string label;                     ///< "before", "align, step 100", ...
  double step = 0;                       ///< Of the training stage; NaN for the stage as a whole.
  std::map<std::string, Figures> pairs;  ///< By languages: "en-es" finds Spanish lines by English ones.
  double agreement = 0;                  ///< With the base, on the source language: Spearman's; NaN: unknown.
};

/// How one system searched one retrieval set.
struct SearchFigures {
  std::string collection;
  std::string system;  ///< The stage whose encoder searched, or "BM25".
  double ndcg_at_10 = 0;
  double mrr_at_10 = 0;
  double accuracy_at_1 = 0;
  double recall_at_100 = 0;
};

/// summary.json seen as what the report shows. Both renderings, HTML and terminal, read only this.
class SummaryView {
 public:
  /// Throws FormatError when `summary` is no summary. Keeps a reference: `summary` must outlive the view.
  explicit SummaryView(const nlohmann::ordered_json& summary);

  [[nodiscard]] std::string text(const char* key) const;  ///< Top-level string, or "".
  [[nodiscard]] double number(const char* key) const;     ///< Top-level number, or 0.
  [[nodiscard]] std::string machine(const char* key) const;

  /// Source language first, then the target, then any others in order of appearance.
  [[nodiscard]] const std::vector<std::string>& languages() const { return languages_; }
  [[nodiscard]] int color(const std::string& language) const;
  [[nodiscard]] const std::string& source() const { return source_; }
  [[nodiscard]] const std::string& target() const { return target_; }

  /// Stages in the order they ran.
  [[nodiscard]] const std::vector<std::pair<std::string, const nlohmann::ordered_json*>>& stages() const {
    return stages_;
  }
  /// The claims of the recipe with their figures; empty when it has none.
  [[nodiscard]] const std::vector<nlohmann::ordered_json>& claims() const { return claims_; }
  /// Every moment at which held-out text was scored, in order.
  [[nodiscard]] std::vector<Snapshot> snapshots() const;
  /// Every moment at which retrieval was scored, in order.
  [[nodiscard]] std::vector<RetrievalSnapshot> retrieval() const;
  /// Searches of retrieval sets, by set in order of appearance; words (BM25) once, before the encoders.
  [[nodiscard]] std::vector<SearchFigures> searches() const;
  /// The moment others are compared with: the score of the base; where no stage has taken it, the last that
  /// scored `language` before the first stage that adapts a model (extend_vocab, cpt, sft), or the first of
  /// all where nothing was scored before. Null where there is none.
  [[nodiscard]] const Snapshot* baseline(const std::vector<Snapshot>& all, const std::string& language) const;
  /// The last moment that scored `language`; null where there is none.
  [[nodiscard]] static const Snapshot* last(const std::vector<Snapshot>& all, const std::string& language);

 private:
  const nlohmann::ordered_json& summary_;
  std::string source_;
  std::string target_;
  std::vector<std::string> languages_;
  std::vector<std::pair<std::string, const nlohmann::ordered_json*>> stages_;
  std::vector<nlohmann::ordered_json> claims_;
};

/// `object[key]` as a number, or `otherwise` (NaN by default) when it is absent or no number.
[[nodiscard]] double number_at(const nlohmann::ordered_json& object, const char* key);
[[nodiscard]] double number_at(const nlohmann::ordered_json& object, const char* key, double otherwise);
[[nodiscard]] std::string text_at(const nlohmann::ordered_json& object, const char* key);
/// The object or array under `key`, or null.
[[nodiscard]] const nlohmann::ordered_json* find_at(const nlohmann::ordered_json& object, const char* key);

/// "1.234", or an en dash for NaN.
[[nodiscard]] std::string fixed(double value, int digits);
/// "+4.7 %", relative to `before`.
[[nodiscard]] std::string relative_change(double before, double after);
/// "Spanish" for "es", for the languages of ISO 639-1 that the report knows; else the code itself.
[[nodiscard]] std::string language_name(const std::string& code);

}  // namespace bitrain::train
