#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include <bitrain/dist/store.h>

/// Inside dist only.
namespace bitrain::dist {

/// Tells the other ranks through the store that this one lives and which collective it is in, and finds out
/// who is to blame when one fails: who is silent, who failed by itself, who is elsewhere.
class Watch {
 public:
  /// `who`: host and process of this rank, for people. `place`: of the store.
  Watch(const StorePtr& store, std::int64_t rank, std::int64_t size, std::string who, std::string place,
        std::chrono::milliseconds timeout);
  /// Tells that this rank has left in order, unless it failed.
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// This rank has entered a collective; any thread.
  void enter(const std::string& name);
  /// This rank ends because of `message`: the others are told.
  void fail(const std::string& message);

  /// Tells others that this rank has come to `key`.
  void post(const std::string& key);
  /// Returns when rank `root` has posted `key`, however long that takes while it lives. Throws RankError when
  /// it fails or goes silent, or the store does. `what`: for people.
  void await(const std::string& key, std::int64_t root, const std::string& what);

  /// Why the collective `name` of this rank failed, as a sentence or two. Looks at the other ranks for a few
  /// beats. `reason`: what the backend said. Marks this rank as failed.
  [[nodiscard]] std::string explain(const std::string& name, const std::string& reason);

 private:
  /// Of the store, in words.
  [[nodiscard]] std::string no_answer() const;

  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace bitrain::dist
