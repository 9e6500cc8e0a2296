#pragma once

#include <cstdint>

#include <bitrain/eval/mexa.h>
#include <bitrain/fields/rule.h>

namespace bitrain::recipe {

/// recipe: evaluate_mexa
struct EvaluateMexaStage {
  eval::MexaOptions mexa;
  std::int64_t sentences = 100;
};
template <class Visitor>
void visit_fields(Visitor& v, EvaluateMexaStage& o) {
  v.field("mexa", o.mexa, any(), "How sentences become embeddings.");
  v.field("sentences", o.sentences, at_least(2),
          "Held-out pairs, from the first; scores of different numbers do not compare.");
}

}  // namespace bitrain::recipe
