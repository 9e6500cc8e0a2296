#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/dist/options.h>
#include <bitrain/recipe/gpu_specs.h>
#include <bitrain/recipe/stage_shapes.h>

/// What a stage will need on a cluster that is not there: memory, traffic and time, from shapes and stated
/// rates. Nothing here has been compared with a run of bitrain on several GPUs; docs/scaling.md compares the
/// model with runs that others published.
///
/// W ranks = nodes x GPUs of a node (M x G); context groups of C ranks share the tokens of a row, so W / C
/// groups share the rows of a step. m micro-batches of n tokens a rank. P weights, T of them trained, held in
/// w bytes each, their gradients travelling in g bytes each.
///
/// FLOPs of a token (Kaplan et al. 2020, section 2.1; Hu et al. 2021 for LoRA; S tokens a row, L layers, H
/// heads of width h, R LoRA weights; attention is taken to see the whole row):
///   attention  A = 2 S H h L, causal (twice that in encoders)
///   forward    2 (P_linear + P_head) + 2 R + A
///   backward   2 (P_linear + P_head) for inputs + 2 T_linear for weights + 4 R + 2.5 A (FlashAttention-2,
///              Dao 2023, computes scores again)
///   recompute  2 P_linear + 2 R + A;  GradCache (Gao et al. 2021)  one more forward without the head
/// So 6 P a token in full, 4 P for frozen weights, 2 P more for recompute. MFU counts neither recompute,
/// GradCache nor the 0.5 A (Chowdhery et al. 2022, appendix B).
///
/// Bytes that a rank sends in a step (rings as in NCCL; Rajbhandari et al. 2020, section 7, for ZeRO):
///   none        all-reduce 2 g T (W-1)/W
///   optimizer   reduce-scatter g T (W-1)/W, all-gather w T (W-1)/W
///   gradients   the same, reduce-scatter once a micro-batch
///   parameters  all-gather of all weights w P (W-1)/W twice a micro-batch (forward, and backward where it
///               serves recompute too), reduce-scatter g T (W-1)/W once a micro-batch: 1.5 times the first
///               for m = 1, T = P and g = w
///   context     all-to-all of q, k, v and attention's output (Jacobs et al. 2023): a layer and pass
///               n (2 H + 2 K) h e (C-1)/C, K the key-value heads, at least C; passes: forward, backward,
///               recompute
/// Of a ring over nodes, 1/G of a rank's bytes goes over its own network adapter and the rest over the links
/// inside. Of an all-to-all, each of the C-1 peers gets 1/C.
///
/// Time:
///   compute    FLOPs / (peak x rates.compute)
///   decode     4-bit weights: (packed bytes + 2 bytes a weight) / (memory bandwidth x rates.memory), a pass
///   optimizer  28 bytes a trained weight of this rank / (memory bandwidth x rates.memory)
///   launches   a micro-batch takes no less than 60 kernels a layer (20 more for recompute, 20 more for
///              GradCache) x rates.launch_us: a guess, which decides for small models alone
///   transfer   max over links of bytes / (bandwidth x rates.link), + calls x latency. Latency is NCCL's own
///              model (NVIDIA/nccl, src/graph/tuning.cc): 8.4 us, 3.4 us a step inside a node (PCIe 5.7) and
///              9.6 us a step between nodes, for the W-1 steps of a ring, 2 (W-1) for an all-reduce; or its
///              quicker protocols of less bandwidth, or for an all-reduce a tree, whichever takes least
///   overlap    Gradients hide under the backward pass of their micro-batch, but for the last bucket; with
///              shard=parameters gathers hide under forward and backward but for the first piece. The
///              all-gather of updated weights and all-to-alls hide under nothing.
namespace bitrain::recipe {

/// Shares of the data sheet that are reached.
struct Rates {
  /// Of the peak, over all of forward and backward: norms, losses and launches included. The median of what
  /// the published runs of docs/scaling.md need.
  double compute = 0.49;
  /// Of the memory's bandwidth: what NF4 decoding reached on an H200 (docs/performance.md: 84 % of copying at
  /// 4.22 of 4.8 TB/s).
  double memory = 0.75;
  /// Of links, NVLink and network alike: a guess.
  double link = 0.8;
  /// Microseconds until a kernel is launched: a guess.
  double launch_us = 5;
};

struct ClusterOptions {
  GpuSpec gpu;
  std::int64_t nodes = 1;
  std::int64_t gpus_per_node = 1;
  dist::ParallelOptions parallel;
  std::optional<bool> recompute;  ///< In place of train.recompute.
  Rates rates;

  [[nodiscard]] std::int64_t ranks() const { return nodes * gpus_per_node; }
};

/// Throws ConfigError for less than one node or GPU, a context that does not divide the ranks, rates outside
/// (0, 1], a shard mode that there is not.
void check(const ClusterOptions& options);

/// Bytes a rank holds at its peak.
struct RankMemory {
  std::uint64_t weights = 0;
  std::uint64_t adapters = 0;
  std::uint64_t gradients = 0;
  std::uint64_t optimizer = 0;    ///< Moments and master weights.
  std::uint64_t activations = 0;  ///< Of one micro-batch, with the chunk of logits.
  std::uint64_t gathered = 0;     ///< shard=parameters: the largest piece and the layer that comes next.
  std::uint64_t buffers = 0;      ///< Two buckets, and what goes in and out of an all-to-all.
  std::uint64_t scratch = 0;      ///< The largest 4-bit weight, decoded.
  std::uint64_t runtime = 0;      ///< CUDA's context and libraries, NCCL: 1 GiB, a guess.

  [[nodiscard]] std::uint64_t total() const {
    return weights + adapters + gradients + optimizer + activations + gathered + buffers + scratch + runtime;
  }
};

/// One kind of collective in a step of one rank.
struct Transfer {
  std::string collective;  ///< "all_reduce", "reduce_scatter", "all_gather", "all_to_all".
  std::string what;        ///< "gradients", ...
  std::int64_t calls = 0;
  std::uint64_t payload = 0;  ///< As dist::Traffic counts: the larger of what a rank gives and gets.
  std::uint64_t sent = 0;     ///< Bytes that leave this rank,
  std::uint64_t inside = 0;   ///< of them over links inside the node,
  std::uint64_t network = 0;  ///< and between nodes.
  double seconds = 0;         ///< Overlapped or not.
};

/// Seconds of a step on the busiest rank.
struct StepTime {
  double forward = 0;
  double backward = 0;
  double recompute = 0;  ///< With GradCache's forward.
  double decode = 0;
  double optimizer = 0;
  double launch = 0;    ///< What launching kernels takes longer than computing.
  double transfer = 0;  ///< All of it,
  double exposed = 0;   ///< and what hides under nothing.

  [[nodiscard]] double total() const {
    return forward + backward + recompute + decode + optimizer + launch + exposed;
  }
};

struct StagePlan {
  std::string stage;
  std::string type;
  std::int64_t parameters = 0;
  std::int64_t trained = 0;
  std::int64_t rows_per_step = 0;
  std::int64_t groups = 0;            ///< Of ranks that share rows: as many as ranks where context is 1.
  std::int64_t rows_per_rank = 0;     ///< Of the busiest group.
  std::int64_t micro_batch_rows = 0;  ///< Of such a group at a time.
  std::int64_t micro_batches = 0;
  std::int64_t tokens_per_row = 0;
  bool recompute = false;
  RankMemory memory;
  std::uint64_t gpu_bytes = 0;
  std::string remedy;  ///< Keys of the recipe that make it fit, with values; empty where it does.
  std::vector<Transfer> transfers;
  std::string no_time;  ///< Why there is no time; empty where there is.
  StepTime time;
  double tokens_per_second = 0;  ///< Of all GPUs.
  double tokens_per_second_gpu = 0;
  double mfu = 0;
  std::int64_t steps = 0;
  std::int64_t tokens = 0;  ///< Of the whole run.
  double seconds = 0;       ///< Of the whole run, without evaluations and checkpoints.
  std::vector<std::string> notes;

  [[nodiscard]] bool fits() const { return memory.total() <= gpu_bytes; }
  /// Bytes of a rank that its GPU has not; 0 where it fits.
  [[nodiscard]] std::uint64_t missing() const { return fits() ? 0 : memory.total() - gpu_bytes; }
};

/// Of a stage that trains. Throws ConfigError, with the stage's name, for a context above its heads or one
/// for an encoder.
[[nodiscard]] StagePlan plan_stage(const StageShape& stage, const ClusterOptions& options);

/// Of each stage of the recipe that trains. Throws as check(options), stage_shapes and plan_stage, and
/// ConfigError when the recipe trains nothing whose shape is known.
[[nodiscard]] std::vector<StagePlan> plan_cluster(const Recipe& recipe, const ClusterOptions& options);

}  // namespace bitrain::recipe
