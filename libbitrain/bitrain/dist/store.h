#pragma once

#include <chrono>
#include <string>

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <bitrain/dist/environment.h>

/// Inside dist only: this header brings c10d's.
namespace bitrain::dist {

using StorePtr = c10::intrusive_ptr<c10d::Store>;

/// The store where the ranks of `environment` meet: LibTorch's TCPStore, served by the launcher or by rank 0,
/// with keys of this run and attempt only. Throws RankError when nobody answers within `timeout`.
[[nodiscard]] StorePtr open_store(const Environment& environment, std::chrono::milliseconds timeout);

/// The address of this machine that reaches the store: where the other ranks find this one. A hostname may
/// resolve to a loopback address (as on Debian), which other machines cannot reach.
[[nodiscard]] std::string address_towards(const std::string& host, std::int64_t port);

}  // namespace bitrain::dist
