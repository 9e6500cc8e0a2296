#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

namespace bitrain::dist {

/// What went through one kind of collective on this rank. Bytes are counted as NCCL's benchmarks count them:
/// the larger of what a rank gives and what it gets, so a gather over g ranks counts g times a rank's rows.
struct Traffic {
  std::int64_t calls = 0;
  std::int64_t bytes = 0;
};

/// A rank among others that run the same program. All ranks of a group call the same collectives in the same
/// order, with tensors of the same shape and type. This class itself is the group of one rank: nothing to
/// move, nothing counted. Results are the same bits on every rank, and sums are in the order of ranks
/// wherever the backend can.
///
/// Everything throws StateError where ranks do not fit each other or one of them is gone.
class Communicator {
 public:
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;

  [[nodiscard]] std::int64_t rank() const { return rank_; }
  [[nodiscard]] std::int64_t size() const { return size_; }

  /// Rows [n, ...] of every rank, in the order of ranks: [size * n, ...]. Never a view of `rows`.
  [[nodiscard]] at::Tensor all_gather(const at::Tensor& rows);
  /// The sum over ranks of rows [size * n, ...], of which this rank gets its n.
  [[nodiscard]] at::Tensor reduce_scatter(const at::Tensor& rows);
  /// The sum over ranks, in the place of `tensor`.
  void all_reduce(at::Tensor& tensor);
  /// What rank `root` has, in the place of `tensor`.
  void broadcast(at::Tensor& tensor, std::int64_t root);
  /// Returns when every rank has called it.
  void barrier();

  /// The group of this rank when ranks are taken `group_size` at a time: 0 .. g-1, g .. 2g-1, and so on. A
  /// collective: every rank calls it. Throws ConfigError for a size that does not divide the ranks.
  [[nodiscard]] std::unique_ptr<Communicator> split(std::int64_t group_size);

  /// By name of the collective: "all_gather", "reduce_scatter", "all_reduce", "broadcast".
  [[nodiscard]] const std::map<std::string, Traffic>& traffic() const { return traffic_; }

 protected:
  Communicator(std::int64_t rank, std::int64_t size);

  /// The collectives of a backend; tensors are contiguous and there is more than one rank.
  virtual at::Tensor gather(const at::Tensor& rows);
  virtual at::Tensor scatter_sum(const at::Tensor& rows);
  virtual void sum_in_place(at::Tensor& tensor);
  virtual void copy_from(at::Tensor& tensor, std::int64_t root);
  virtual void wait_for_all();
  virtual std::unique_ptr<Communicator> subgroup(std::int64_t group_size);

 private:
  void count(const std::string& collective, const at::Tensor& larger);

  std::int64_t rank_ = 0;
  std::int64_t size_ = 1;
  std::map<std::string, Traffic> traffic_;
};

}  // namespace bitrain::dist
