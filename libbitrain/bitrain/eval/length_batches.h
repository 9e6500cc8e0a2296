#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <bitrain/base/batch.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::eval {

/// Gives texts to `run` in batches of at most `tokens_per_batch` tokens (one text at least), the longest
/// first: texts of like length share a batch, so that attention's work is even. `chosen`: which texts a batch
/// holds, in the order of its segments. `language`: of all, an index into EncoderModel::set_languages, or -1.
void run_by_length(
    const std::vector<std::vector<text::TokenId>>& ids, std::int64_t tokens_per_batch, std::int32_t language,
    const std::function<void(const std::vector<std::int64_t>& chosen, const Batch& batch)>& run);

}  // namespace bitrain::eval
