#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::dist {

/// What went through one kind of collective on this rank.
struct Traffic {
  std::int64_t calls = 0;
  /// Counted as NCCL's benchmarks count them: the larger of what a rank gives and what it gets, so a gather
  /// over g ranks counts g times a rank's rows. Over the wire go (g - 1) / g of it, and twice that for
  /// all_reduce.
  std::int64_t bytes = 0;
  double seconds = 0;  ///< This rank stood still for it.
};

/// A collective that goes on while this rank does something else. Its tensors must not be touched until
/// `wait` has returned. Destroying it does not wait.
class Pending {
 public:
  /// What a backend gives.
  class Operation {
   public:
    Operation() = default;
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;
    virtual ~Operation() = default;
    virtual void wait() = 0;
  };

  Pending() = default;  ///< Has ended.
  Pending(std::unique_ptr<Operation> operation, Traffic& traffic)
      : operation_(std::move(operation)), traffic_(&traffic) {}

  /// Returns when the result is there; on a GPU when work that is launched from now on will see it. Throws
  /// RankError when the collective failed. A second call does nothing.
  void wait();

 private:
  std::unique_ptr<Operation> operation_;  ///< Null: has ended.
  Traffic* traffic_ = nullptr;
};

/// A rank among others that run the same program. All ranks of a group call the same collectives in the same
/// order, with tensors of the same shape and type. This class itself is the group of one rank: nothing to
/// move, nothing counted. Results are the same bits on every rank, and on the CPU sums are in the order of
/// ranks (16-bit ones in float32, rounded once).
///
/// `what` says in errors what a collective was for ("gradients 3").
///
/// Everything throws StateError for tensors that cannot be right, and RankError where another rank is gone,
/// silent, or in another collective.
class Communicator {
 public:
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;

  [[nodiscard]] std::int64_t rank() const { return rank_; }
  [[nodiscard]] std::int64_t size() const { return size_; }

  /// Rows [n, ...] of every rank, in the order of ranks: [size * n, ...]. Never a view of `rows`.
  [[nodiscard]] at::Tensor all_gather(const at::Tensor& rows, const std::string& what = {});
  /// The sum over ranks of rows [size * n, ...], of which this rank gets its n.
  [[nodiscard]] at::Tensor reduce_scatter(const at::Tensor& rows, const std::string& what = {});
  /// The sum over ranks, in the place of `tensor`.
  void all_reduce(at::Tensor& tensor, const std::string& what = {});
  /// What rank `root` has, in the place of `tensor`.
  void broadcast(at::Tensor& tensor, std::int64_t root, const std::string& what = {});
  /// Gives each rank its part of `rows` [sum of given, ...]: the first given[0] rows to rank 0, and so on.
  /// Returns what this rank got, in the order of ranks: [sum of taken, ...]. given[j] of rank i equals
  /// taken[i] of rank j.
  [[nodiscard]] at::Tensor all_to_all(const at::Tensor& rows, const std::vector<std::int64_t>& given,
                                      const std::vector<std::int64_t>& taken, const std::string& what = {});
  /// Returns when every rank has called it.
  void barrier(const std::string& what = {});

  /// Returns when rank `root` has called it, however long that takes while it lives: for what one rank does
  /// alone, like writing files. `root` itself does not wait. Throws RankError when it fails or goes silent.
  void await(std::int64_t root, const std::string& what);

  // The same, under way, into tensors that are there. All are contiguous.
  [[nodiscard]] Pending start_all_gather(at::Tensor all, const at::Tensor& rows,
                                         const std::string& what = {});
  [[nodiscard]] Pending start_reduce_scatter(at::Tensor own, const at::Tensor& rows,
                                             const std::string& what = {});
  [[nodiscard]] Pending start_all_reduce(at::Tensor tensor, const std::string& what = {});

  /// The group of this rank when ranks are taken `group_size` at a time: 0 .. g-1, g .. 2g-1, and so on. A
  /// collective: every rank calls it. Throws ConfigError for a size that does not divide the ranks.
  [[nodiscard]] std::unique_ptr<Communicator> split(std::int64_t group_size);
  /// The group of the ranks that have this rank's place in theirs after split(group_size): r, r + g, r + 2g,
  /// and so on. A collective.
  [[nodiscard]] std::unique_ptr<Communicator> across(std::int64_t group_size);

  /// By name of the collective: "all_gather", "reduce_scatter", "all_reduce", "broadcast", "all_to_all".
  [[nodiscard]] const std::map<std::string, Traffic>& traffic() const { return traffic_; }

 protected:
  using Operation = std::unique_ptr<Pending::Operation>;

  Communicator(std::int64_t rank, std::int64_t size);

  /// The collectives of a backend; tensors are contiguous and there is more than one rank. A null result: it
  /// has ended. `name` is for people: "all_reduce of gradients 3".
  virtual Operation gather(at::Tensor all, const at::Tensor& rows, const std::string& name);
  virtual Operation scatter_sum(at::Tensor own, const at::Tensor& rows, const std::string& name);
  virtual Operation sum_in_place(at::Tensor tensor, const std::string& name);
  virtual Operation copy_from(at::Tensor tensor, std::int64_t root, const std::string& name);
  virtual Operation exchange(at::Tensor taken, const at::Tensor& given,
                             const std::vector<std::int64_t>& taken_rows,
                             const std::vector<std::int64_t>& given_rows, const std::string& name);
  virtual Operation wait_for_all(const std::string& name);
  virtual void wait_for_one(std::int64_t root, const std::string& name);
  /// The group of the ranks first, first + stride, ..., `size` of them, to which this rank belongs.
  virtual std::unique_ptr<Communicator> subgroup(std::int64_t first, std::int64_t stride, std::int64_t size);

 private:
  Pending count(const std::string& collective, const at::Tensor& larger, Operation operation);

  std::int64_t rank_ = 0;
  std::int64_t size_ = 1;
  std::map<std::string, Traffic> traffic_;
};

}  // namespace bitrain::dist
