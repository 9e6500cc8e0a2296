#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/models/bert/config.h>
#include <bitrain/models/encoder.h>

namespace bitrain::models {

/// The shape of an X-MOD that computes what `config` does until its adapters learn: the norm before an
/// adapter is that of its block, and the sum around it takes what was not normed. X-MOD counts positions from
/// the padding id on, so BERT's table gets rows before its first. Texts of unknown language take the adapter
/// of the first of `languages`. Throws ConfigError for a model that has adapters already, or as
/// check(BertConfig).
[[nodiscard]] BertConfig with_language_adapters(BertConfig config, const std::vector<std::string>& languages,
                                                std::int64_t reduction_factor);

/// An X-MOD (Pfeiffer et al. 2022) with the weights of `model`, copied, and an adapter for each language in
/// every layer, whose second map begins at zero: its hidden states are those of `model` for every language.
/// The pooler is left out. Throws as with_language_adapters.
[[nodiscard]] std::unique_ptr<EncoderModel> add_language_adapters(EncoderModel& model,
                                                                  const std::vector<std::string>& languages,
                                                                  std::int64_t reduction_factor,
                                                                  std::uint64_t seed);

}  // namespace bitrain::models
