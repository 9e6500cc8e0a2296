#include <bitrain/recipe/claims.h>

#include <cmath>
#include <cstdlib>
#include <optional>
#include <utility>

#include <bitrain/base/format.h>

#include <bitrain/base/strings.h>

namespace bitrain::recipe {
namespace {

/// The relations that a claim names, with what they compare with.
std::vector<std::pair<std::string, std::string>> relations_of(const ClaimOptions& claim) {
  std::vector<std::pair<std::string, std::string>> given;
  for (const auto& [relation, bound] :
       {std::pair{"above", claim.above}, std::pair{"at_least", claim.at_least},
        std::pair{"below", claim.below}, std::pair{"at_most", claim.at_most}})
    if (!bound.empty()) given.emplace_back(relation, bound);
  return given;
}

std::optional<double> as_number(const std::string& text) {
  const ClassicLocale locale;
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(value)) return std::nullopt;
  return value;
}

/// A number written out, or the figure at a path below the stages.
io::Json figure_at(const std::string& path, const io::Json& stages) {
  if (const std::optional<double> number = as_number(path)) return *number;
  const io::Json* at = &stages;
  for (const std::string& key : split(path, '/')) {
    if (!at->is_object() || !at->contains(key)) return nullptr;
    at = &at->at(key);
  }
  return at->is_number() ? *at : io::Json(nullptr);
}

bool holds(const std::string& relation, double value, double bound) {
  if (relation == "above") return value > bound;
  if (relation == "at_least") return value >= bound;
  if (relation == "below") return value < bound;
  return value <= bound;
}

}  // namespace

std::string problem_of(const ClaimOptions& claim, const std::vector<std::string>& stages) {
  const auto relations = relations_of(claim);
  if (relations.size() != 1) return "needs one of above, at_least, below, at_most";
  for (const std::string& path : {claim.that, relations.front().second}) {
    if (as_number(path)) continue;
    const std::string stage = path.substr(0, path.find('/'));
    bool known = false;
    for (const std::string& name : stages) known = known || name == stage;
    if (!known)
      return to_text("'", path, "' is no number, and there is no stage '", stage, "'",
                     did_you_mean(stage, stages));
  }
  if (as_number(claim.that)) return "'that' is to be a figure of a stage, not the number " + claim.that;
  return "";
}

io::Json check_claims(const std::vector<ClaimOptions>& claims, const io::Json& stages) {
  io::Json checked = io::Json::array();
  for (const ClaimOptions& claim : claims) {
    const auto [relation, bound] = relations_of(claim).front();
    const io::Json value = figure_at(claim.that, stages);
    const io::Json against = figure_at(bound, stages);
    const bool known = value.is_number() && against.is_number();
    checked.push_back({{"says", claim.says},
                       {"that", claim.that},
                       {"relation", relation},
                       {"bound", bound},
                       {"value", value},
                       {"bound_value", against},
                       {"held", known && holds(relation, value.get<double>(), against.get<double>())}});
  }
  return checked;
}

}  // namespace bitrain::recipe
