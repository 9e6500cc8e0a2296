#pragma once

#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>

#include <eval/random_rows.h>

namespace bitrain::eval {

/// 2,000 words of a language and their translations: a hidden rotation, noise, and a tenth as many targets
/// again, the hubs, around the mean direction. All rows are of length 1.
struct HubSpaces {
  at::Tensor sources;   ///< [2000, 30].
  at::Tensor targets;   ///< [2200, 30]: row i < 2000 translates source i.
  at::Tensor rotation;  ///< [30, 30].
};

inline HubSpaces hub_spaces(double noise) {
  constexpr std::int64_t kWords = 2000;
  constexpr std::int64_t kDim = 30;
  HubSpaces spaces;
  const at::Tensor mean = draw(1, kDim, "mean");
  spaces.rotation = random_rotation(kDim);
  spaces.sources = unit(draw(kWords, kDim, "words") + mean);
  const at::Tensor translations =
      unit(at::matmul(spaces.sources, spaces.rotation) + noise * draw(kWords, kDim, "noise"));
  const at::Tensor hubs = unit(at::matmul(mean, spaces.rotation) + 0.3 * draw(kWords / 10, kDim, "hubs"));
  spaces.targets = at::cat({translations, hubs}, 0);
  return spaces;
}

}  // namespace bitrain::eval
