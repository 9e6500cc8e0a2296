#pragma once

#include <cstdint>

#include <bitrain/nn/module.h>

namespace bitrain::models {

/// Fills all weights as Hugging Face does: normal(0, deviation), biases and running means 0, norms and
/// running variances 1; numbers by themselves (a learnable scale) keep what they start with. Every value is a
/// function of (seed, name, position), so neither threads nor the dtype nor the number of layers change it.
void initialise(nn::Module& model, double deviation, std::uint64_t seed);

}  // namespace bitrain::models
