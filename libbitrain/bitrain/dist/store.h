#pragma once

#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

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

/// The answer to a question to the store, or nothing where it throws or none comes within `patience`. Asked
/// on a thread of its own, which may stay behind with what the question holds: a store whose process is
/// stopped, or whose machine is cut off, never answers.
template <class Question>
[[nodiscard]] std::optional<std::invoke_result_t<Question&>> ask(std::chrono::milliseconds patience,
                                                                 Question question) {
  using Answer = std::invoke_result_t<Question&>;
  auto promise = std::make_shared<std::promise<std::optional<Answer>>>();
  auto answer = promise->get_future();
  std::thread([promise, question = std::move(question)]() mutable {
    try {
      promise->set_value(question());
    } catch (const std::exception&) {
      promise->set_value(std::nullopt);
    }
  }).detach();
  if (answer.wait_for(patience) != std::future_status::ready) return std::nullopt;
  return answer.get();
}

}  // namespace bitrain::dist
