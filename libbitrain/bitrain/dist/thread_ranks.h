#pragma once

#include <cstdint>
#include <functional>

#include <bitrain/dist/communicator.h>

namespace bitrain::dist {

/// Runs `body` as `ranks` ranks, each a thread of this process with a communicator of its own: what several
/// processes would compute, without starting any. They share out LibTorch's threads. Sums are in the order of
/// ranks. Returns when all have ended; a rank that ends or throws ends the collectives that wait for it, and
/// the first error thrown is thrown again.
void run_ranks(std::int64_t ranks, const std::function<void(Communicator&)>& body);

}  // namespace bitrain::dist
