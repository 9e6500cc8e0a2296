#include <bitrain/data/mixture.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/fields/check.h>

namespace bitrain::data {
namespace {

std::vector<std::string> names_of(const std::vector<MixtureSource>& sources) {
  std::vector<std::string> names;
  names.reserve(sources.size());
  for (const MixtureSource& source : sources) names.push_back(source.name);
  return names;
}

/// Weights in the order of the sources, checked. `what` names them in errors.
std::vector<double> weights_for(const std::map<std::string, double>& weights,
                                const std::vector<MixtureSource>& sources, const std::string& what) {
  const std::vector<std::string> names = names_of(sources);
  if (weights.empty()) return std::vector<double>(sources.size(), 1.0);
  for (const auto& [name, weight] : weights) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      throw ConfigError(what, " name the source '", name, "', which there is not", did_you_mean(name, names),
                        "; there are: ", join(names, ", "));
    }
    if (!(weight >= 0) || !std::isfinite(weight)) {
      throw ConfigError(what, " of '", name, "' must be 0 or more, got ", weight);
    }
  }
  std::vector<double> result;
  double sum = 0;
  for (const std::string& name : names) {
    auto found = weights.find(name);
    if (found == weights.end()) {
      throw ConfigError(what, " do not name the source '", name, "'; give it 0 to leave it out");
    }
    result.push_back(found->second);
    sum += found->second;
  }
  if (sum <= 0) throw ConfigError(what, " are all 0: there is nothing to read");
  return result;
}

std::vector<double> normalised(std::vector<double> weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (sum > 0) {
    for (double& weight : weights) weight /= sum;
  }
  return weights;
}

/// Shares per source from a rule over languages: the sources of one language divide its share by size.
template <class Rule>
std::vector<double> by_language(const std::vector<MixtureSource>& sources, const std::vector<double>& sizes,
                                const Rule& rule) {
  std::vector<std::string> keys;
  std::vector<double> totals;
  std::vector<std::size_t> group(sources.size());
  for (std::size_t i = 0; i < sources.size(); ++i) {
    // Sources without a language stand for themselves.
    const std::string key = sources[i].language.empty() ? "source " + sources[i].name : sources[i].language;
    group[i] = static_cast<std::size_t>(std::find(keys.begin(), keys.end(), key) - keys.begin());
    if (group[i] == keys.size()) {
      keys.push_back(key);
      totals.push_back(0);
    }
    totals[group[i]] += sizes[i];
  }
  const std::vector<double> shares = rule(totals);
  std::vector<double> result(sources.size());
  for (std::size_t i = 0; i < sources.size(); ++i) {
    result[i] = totals[group[i]] > 0 ? shares[group[i]] * sizes[i] / totals[group[i]] : 0;
  }
  return result;
}

std::vector<double> sizes_of(const std::vector<MixtureSource>& sources, bool tokens) {
  std::vector<double> sizes;
  sizes.reserve(sources.size());
  for (const MixtureSource& source : sources) {
    sizes.push_back(tokens ? source.tokens : static_cast<double>(source.samples));
  }
  return sizes;
}

/// The run's length in samples: its tokens over the mean length of all samples.
double budget_in_samples(const std::vector<MixtureSource>& sources, double total_tokens) {
  double tokens = 0;
  double samples = 0;
  for (const MixtureSource& source : sources) {
    tokens += source.tokens;
    samples += static_cast<double>(source.samples);
  }
  return tokens > 0 ? total_tokens * samples / tokens : 0;
}

std::int64_t whole_samples(double passes, std::int64_t samples) {
  return static_cast<std::int64_t>(std::floor(passes * static_cast<double>(samples) + 1e-9));
}

}  // namespace

std::vector<double> shares_by_exponent(const std::vector<double>& sizes, double exponent) {
  std::vector<double> result;
  result.reserve(sizes.size());
  const double largest = sizes.empty() ? 1 : *std::max_element(sizes.begin(), sizes.end());
  for (double size : sizes) result.push_back(size > 0 ? std::pow(size / largest, exponent) : 0);
  return normalised(std::move(result));
}

std::vector<double> upsampling_multipliers(const std::vector<double>& sizes, double exponent) {
  if (!(exponent >= 0 && exponent <= 1))
    throw ConfigError("up-sampling: the exponent must lie in [0, 1], not ", exponent);
  const double largest = sizes.empty() ? 0 : *std::max_element(sizes.begin(), sizes.end());
  std::vector<double> result;
  result.reserve(sizes.size());
  for (const double size : sizes) {
    if (!(size >= 0 && std::isfinite(size))) throw ConfigError("up-sampling: ", size, " is no size");
    result.push_back(size > 0 ? std::pow(largest / size, 1 - exponent) : 0);
  }
  return result;
}

std::vector<double> unimax_shares(const std::vector<double>& sizes, double budget, double max_epochs) {
  if (!(budget > 0)) throw ConfigError("unimax needs the length of the run: set the number of steps");
  std::vector<std::size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return sizes[a] < sizes[b]; });
  std::vector<double> result(sizes.size(), 0.0);
  double left = budget;
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    const double even = left / static_cast<double>(order.size() - rank);
    const double given = std::min(even, max_epochs * sizes[order[rank]]);
    result[order[rank]] = given;
    left -= given;
  }
  return normalised(std::move(result));
}

Mixture::Mixture(const MixtureOptions& options, std::vector<MixtureSource> sources, MixtureRun run)
    : options_(options), sources_(std::move(sources)), limits_(sources_.size(), -1) {
  check_fields(options_, "mixture.");
  if (sources_.empty()) throw ConfigError("a mixture needs at least one source");
  for (const MixtureSource& source : sources_) {
    if (source.samples < 1) throw DataError("source '", source.name, "' is empty");
  }
  const bool tokens = options_.unit == "tokens";
  if (!options_.stages.empty()) {
    if (options_.kind != "weights") {
      throw ConfigError("mixture stages go with kind weights, not ", options_.kind);
    }
    if (!options_.weights.empty()) throw ConfigError("a mixture has weights or stages, not both");
    std::vector<std::vector<double>> stage_shares;
    for (std::size_t i = 0; i < options_.stages.size(); ++i) {
      stage_shares.push_back(normalised(
          weights_for(options_.stages[i].weights, sources_, to_text("weights of mixture stage ", i + 1))));
    }
    schedule_.emplace_back(options_.stages, std::move(stage_shares), run.total_steps, options_.interpolate);
    return;
  }
  const std::vector<double> sizes = sizes_of(sources_, tokens);
  if (options_.kind == "weights") {
    shares_ = normalised(weights_for(options_.weights, sources_, "mixture weights"));
  } else if (options_.kind == "ratio") {
    shares_ = normalised(weights_for(options_.weights, sources_, "mixture ratios"));
    for (std::size_t i = 0; i < sources_.size(); ++i) limits_[i] = sources_[i].samples;
  } else if (options_.kind == "passes") {
    shares_ = weights_for(options_.weights, sources_, "mixture passes");
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      limits_[i] = whole_samples(shares_[i], sources_[i].samples);
      shares_[i] *= sizes[i];
    }
    shares_ = normalised(shares_);
  } else if (options_.kind == "exponent" || options_.kind == "temperature") {
    const double exponent = options_.kind == "exponent" ? options_.exponent : 1 / options_.temperature;
    shares_ = by_language(sources_, sizes, [&](const auto& n) { return shares_by_exponent(n, exponent); });
  } else if (options_.kind == "unimax") {
    const double budget = tokens ? run.total_tokens : budget_in_samples(sources_, run.total_tokens);
    shares_ = by_language(sources_, sizes,
                          [&](const auto& n) { return unimax_shares(n, budget, options_.max_epochs); });
    // Sizes in tokens are estimates; the cap is not.
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      limits_[i] = whole_samples(options_.max_epochs, sources_[i].samples);
    }
  }
}

std::vector<double> Mixture::shares(std::int64_t step) const {
  return schedule_.empty() ? shares_ : schedule_.front().at(step);
}

MixtureState Mixture::start() const {
  MixtureState state;
  state.sources.resize(sources_.size());
  return state;
}

std::vector<double> Mixture::open_shares(const MixtureState& state, std::int64_t step) const {
  std::vector<double> result = shares(step);
  bool closed = false;
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (limits_[i] >= 0 && state.sources[i].samples >= limits_[i] && result[i] > 0) {
      result[i] = 0;
      closed = true;
    }
  }
  if (closed && options_.kind == "ratio") return std::vector<double>(result.size(), 0.0);
  return closed ? normalised(std::move(result)) : result;
}

std::int64_t Mixture::next(const MixtureState& state, std::int64_t step) const {
  const std::vector<double> open = open_shares(state, step);
  const auto active =
      static_cast<double>(std::count_if(open.begin(), open.end(), [](double p) { return p > 0; }));
  if (active == 0) return -1;
  // Tijdeman: among the sources that are due, the one whose deadline comes first.
  const double slack = active > 1 ? 1 / (2 * active - 2) : 0;
  std::int64_t due = -1;
  std::int64_t behind = -1;
  double earliest = 0;
  double largest = 0;
  for (std::size_t i = 0; i < open.size(); ++i) {
    if (open[i] <= 0) continue;
    const double credit = state.sources[i].credit + (options_.unit == "samples" ? open[i] : 0);
    const double deadline = (1 - slack - credit) / open[i];
    if (credit >= slack && (due < 0 || deadline < earliest)) {
      due = static_cast<std::int64_t>(i);
      earliest = deadline;
    }
    const bool tie = behind >= 0 && credit == largest && open[i] > open[static_cast<std::size_t>(behind)];
    if (behind < 0 || credit > largest || tie) {
      behind = static_cast<std::int64_t>(i);
      largest = credit;
    }
  }
  return options_.unit == "samples" && due >= 0 ? due : behind;
}

void Mixture::record(MixtureState& state, std::size_t source, std::int64_t tokens, std::int64_t step) const {
  const std::vector<double> open = open_shares(state, step);
  MixtureState::PerSource& drawn = state.sources[source];
  ++drawn.samples;
  if (tokens == 0) {
    ++drawn.dropped;
    return;
  }
  drawn.tokens += tokens;
  const double amount = options_.unit == "samples" ? 1.0 : static_cast<double>(tokens);
  for (std::size_t i = 0; i < open.size(); ++i) state.sources[i].credit += open[i] * amount;
  drawn.credit -= amount;
}

}  // namespace bitrain::data
