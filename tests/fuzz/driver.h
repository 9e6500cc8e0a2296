#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// What a fuzz target defines; driver.cpp has main(). The inputs are a function of the seed alone, so a
/// finding can be repeated.
namespace bitrain::fuzz {

/// Feeds one input to the code under test. Errors of bitrain are expected and to be caught inside; anything
/// else, and whatever the sanitizers see, is a finding.
void fuzz_one(const std::uint8_t* data, std::size_t size);

/// Valid inputs to start from.
std::vector<std::string> seeds();

}  // namespace bitrain::fuzz
