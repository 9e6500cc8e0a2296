#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <bitrain/data/example.h>
#include <bitrain/models/masked_language_model.h>
#include <bitrain/objectives/masked_lm.h>

namespace bitrain::eval {

/// How hidden tokens of one language were predicted.
struct MaskedScore {
  std::int64_t tokens = 0;
  std::int64_t correct = 0;
  double loss_per_token = 0;  ///< Nats.
  [[nodiscard]] double accuracy() const { return static_cast<double>(correct) / static_cast<double>(tokens); }
};

/// Hides tokens of texts, or of pairs, and has the model predict them; by the language of the token
/// (`languages` is the objective's list; others are ""). The masks are the same every time and none that
/// training draws. Examples without words are passed over. Throws DataError when there are no others.
[[nodiscard]] std::map<std::string, MaskedScore> score_masked(models::MaskedLanguageModel& model,
                                                              const objectives::MaskedLm& objective,
                                                              const std::vector<std::string>& languages,
                                                              const std::vector<data::Example>& examples);

/// Of the pairs of Example::follows, the share whose second text the model rightly takes for the next one, or
/// for another's; with words hidden as score_masked hides them. Throws DataError when there are none.
[[nodiscard]] double next_sentence_accuracy(models::MaskedLanguageModel& model,
                                            const objectives::MaskedLm& objective,
                                            const std::vector<data::Example>& examples);

}  // namespace bitrain::eval
