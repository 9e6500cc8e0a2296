#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <bitrain/data/schedule.h>
#include <bitrain/fields/rule.h>

namespace bitrain::data {

struct MixtureOptions {
  std::string kind = "weights";
  std::map<std::string, double> weights;
  double exponent = 0.3;
  double temperature = 1.0;
  double max_epochs = 4.0;
  std::string over = "languages";
  std::string unit = "tokens";
  std::vector<MixtureStage> stages;
  bool interpolate = false;
};

template <class Visitor>
void visit_fields(Visitor& v, MixtureOptions& o) {
  v.field(
      "kind", o.kind, one_of({"weights", "exponent", "temperature", "unimax", "passes", "ratio"}),
      "How shares come about: weights as given; languages by size^exponent or size^(1/temperature); unimax: "
      "uniform over languages, none read more than max_epochs times; passes: each source read that often, "
      "then the run ends; ratio: as weights, but the run ends when a source has been read once.");
  v.field("weights", o.weights, any(),
          "By source name: weights, passes or ratio. Empty: all sources 1. For the kinds by size it is not "
          "used.");
  v.field("exponent", o.exponent, at_least(0), "exponent: 1 is by size, 0 is uniform.");
  v.field("temperature", o.temperature, above(0), "temperature: 1 is by size, large is uniform.");
  v.field("max_epochs", o.max_epochs, above(0), "unimax: how often a language may be read.");
  v.field(
      "over", o.over, one_of({"languages", "pairs", "sources"}),
      "What the kinds by size give shares to: languages; pairs of languages, either way round (BabelBERT, "
      "exponent 0.5); or each source by itself.");
  v.field("unit", o.unit, one_of({"samples", "tokens"}), "What sizes and shares are counted in.");
  v.field("stages", o.stages, any(), "Weights that change over the steps; in place of `weights`.");
  v.field("interpolate", o.interpolate, any(),
          "Move in a straight line from the shares of one stage to the next.");
}

/// What a mixture must know of a source.
struct MixtureSource {
  std::string name;
  std::string language;
  std::int64_t samples = 0;
  double tokens = 0;  ///< About, of one pass. Only needed for kinds by size with unit tokens.
};

/// How long the run will be; only unimax and stages need it.
struct MixtureRun {
  std::int64_t total_steps = 0;
  double total_tokens = 0;
};

/// Where a mixture stands: what it has given so far. Plain, so that a checkpoint can hold it.
struct MixtureState {
  struct PerSource {
    std::int64_t samples = 0;  ///< Drawn, dropped ones included: the source's position.
    std::int64_t dropped = 0;  ///< Of these, without tokens.
    std::int64_t tokens = 0;
    double credit = 0;  ///< Asked minus realised, in the mixture's unit.
  };
  std::vector<PerSource> sources;
};

/// Says which source the next sample comes from. No randomness: shares are met as closely as can be at every
/// moment. With unit samples by Tijdeman's rule ("The chairman assignment problem", 1980): while the shares
/// are constant no source is ever a full sample away from its share. With unit tokens by largest credit, so
/// sources stay within about one sample's tokens.
class Mixture {
 public:
  /// Throws ConfigError for weights of unknown or missing sources, negative or all zero, and for options that
  /// contradict each other.
  Mixture(const MixtureOptions& options, std::vector<MixtureSource> sources, MixtureRun run);

  /// Normalised shares asked for at `step`, from 0.
  [[nodiscard]] std::vector<double> shares(std::int64_t step) const;
  /// Most samples of a source, or -1 for no limit.
  [[nodiscard]] std::int64_t limit(std::size_t source) const { return limits_[source]; }

  [[nodiscard]] MixtureState start() const;
  /// The next source, or -1 when the mixture has come to its end (passes, ratio, unimax).
  [[nodiscard]] std::int64_t next(const MixtureState& state, std::int64_t step) const;
  /// Records that a sample with `tokens` tokens was drawn from `source` at `step`; 0 tokens: it was dropped.
  void record(MixtureState& state, std::size_t source, std::int64_t tokens, std::int64_t step) const;

 private:
  [[nodiscard]] std::vector<double> open_shares(const MixtureState& state, std::int64_t step) const;

  MixtureOptions options_;
  std::vector<MixtureSource> sources_;
  std::vector<ShareSchedule> schedule_;  ///< One, or none when the shares are constant.
  std::vector<double> shares_;
  std::vector<std::int64_t> limits_;
};

/// p_i proportional to size_i^exponent.
[[nodiscard]] std::vector<double> shares_by_exponent(const std::vector<double>& sizes, double exponent);

/// How often each corpus is to be read so that the shares are those of shares_by_exponent and the largest is
/// read once: (largest / size_i)^(1 - exponent) (MuRIL, Khanuja et al. 2021, with exponent 0.3). 0 for an
/// empty one. Throws ConfigError for a negative size, and an exponent outside [0, 1].
[[nodiscard]] std::vector<double> upsampling_multipliers(const std::vector<double>& sizes, double exponent);

/// UniMax (Chung et al. 2023): shares of a budget, uniform but for languages that would be read more than
/// `max_epochs` times, which get just that. The smallest languages are settled first.
[[nodiscard]] std::vector<double> unimax_shares(const std::vector<double>& sizes, double budget,
                                                double max_epochs);

}  // namespace bitrain::data
