#pragma once

#include <string>
#include <vector>

#include <bitrain/fields/rule.h>
#include <bitrain/io/json.h>

namespace bitrain::recipe {

/// What a run is meant to show: a figure of a stage beside a bound or another figure. The report says of each
/// whether it held.
struct ClaimOptions {
  std::string says;
  std::string that;
  std::string above;
  std::string at_least;
  std::string below;
  std::string at_most;
};
template <class Visitor>
void visit_fields(Visitor& v, ClaimOptions& o) {
  v.field("says", o.says, required(not_empty()), "The claim in words.");
  v.field("that", o.that, required(not_empty()),
          "Figure of a stage: its name and the keys below it in summary.json, parted by '/'.");
  v.field("above", o.above, any(), "It is above this number or figure.");
  v.field("at_least", o.at_least, any(), "It is at least this.");
  v.field("below", o.below, any(), "It is below this.");
  v.field("at_most", o.at_most, any(), "It is at most this.");
}

/// What is wrong with a claim, given the names of the recipe's stages; empty when nothing is.
[[nodiscard]] std::string problem_of(const ClaimOptions& claim, const std::vector<std::string>& stages);

/// The claims with their figures, as summary.json has them: says, that, relation, bound, value, bound_value
/// (null where there is no such figure) and held. A figure that is not there or is no number holds nothing.
[[nodiscard]] io::Json check_claims(const std::vector<ClaimOptions>& claims, const io::Json& stages);

}  // namespace bitrain::recipe
