#pragma once

#include <functional>

namespace bitrain::cli {

/// Runs `work` and returns what it does. Where stacks are limited to less than 8 MiB (ulimit -s), in which
/// LibTorch and parsers would overflow, that is on a thread with so much, and threads started from then on
/// get as much. `work` must not throw.
int on_deep_stack(const std::function<int()>& work);

}  // namespace bitrain::cli
