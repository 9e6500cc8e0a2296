#include <bitrain/recipe/cluster_plan.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include <bitrain/base/checked.h>
#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain::recipe {
namespace {

constexpr double kMicro = 1e-6;

/// How NCCL moves data, with its own constants (NVIDIA/nccl, src/graph/tuning.cc: baseLat, hwLat):
/// microseconds for a call, for a step inside a node and between nodes, and the part of the bandwidth that is
/// left.
struct Protocol {
  double bandwidth;
  double base;
  double nvlink;
  double pcie;
  double between;
  bool needs_nvlink;
};
constexpr std::array<Protocol, 3> kRingProtocols = {{{1, 8.4, 3.4, 5.7, 9.6, false},             // Simple
                                                     {0.92, 10.0, 1.9, 2.5, 4.0, true},          // LL128
                                                     {0.25, 3.6, 0.47, 1.0, 2.7, false}}};       // LL
constexpr std::array<Protocol, 2> kTreeProtocols = {{{0.9 * 0.915, 4.4, 1.2, 1.9, 8.5, true},    // LL128
                                                     {0.9 / 3.8, 4.4, 0.52, 1.0, 5.0, false}}};  // LL

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

std::uint64_t unsigned_of(std::int64_t count) {
  return static_cast<std::uint64_t>(count);
}

/// FLOPs of one token.
struct Flops {
  double forward = 0;
  double backward = 0;
  double recompute = 0;
  double embed = 0;  ///< GradCache's forward.
  double model = 0;  ///< What MFU counts.
};

Flops flops_of(const StageShape& stage, bool recompute, bool embeds_first) {
  const ModelShape& m = stage.model;
  const auto width = static_cast<double>(m.heads * m.head_width);
  const double attention = (m.causal ? 2.0 : 4.0) * static_cast<double>(stage.loader.sequence_length) *
                           width * static_cast<double>(m.layers);
  const auto linear = static_cast<double>(m.linear);
  const double head = static_cast<double>(m.head) * stage.head_share;
  const auto adapter = static_cast<double>(m.adapter);
  Flops flops;
  flops.forward = 2 * (linear + head) + 2 * adapter + attention;
  flops.backward = 2 * (linear + head) + 2 * static_cast<double>(m.linear_trained) +
                   (m.head_trained ? 2 * head : 0) + 4 * adapter + 2.5 * attention;
  flops.model = flops.forward + flops.backward - 0.5 * attention;
  if (recompute) flops.recompute = 2 * linear + 2 * adapter + attention;
  if (embeds_first) flops.embed = flops.forward - 2 * head;
  return flops;
}

/// One stage on one cluster.
class StagePlanner {
 public:
  StagePlanner(const StageShape& stage, const ClusterOptions& options)
      : stage_(stage),
        model_(stage.model),
        options_(options),
        shard_(options.parallel.shard),
        ranks_(options.ranks()),
        context_(options.parallel.context) {
    plan_.stage = stage.stage;
    plan_.type = stage.type;
    plan_.parameters = model_.parameters;
    plan_.trained = model_.trained();
    plan_.recompute = options.recompute.value_or(stage.train.recompute);
    plan_.gpu_bytes = static_cast<std::uint64_t>(options.gpu.memory_gb * 1e9);
    split_rows();
  }

  StagePlan plan() {
    hold();
    transfer();
    advise_buckets();
    if (!stage_.tokens_are_unknown.empty()) {
      plan_.no_time = stage_.tokens_are_unknown;
    } else if (model_.element != 2) {
      plan_.no_time = "dtype is not bfloat16, and no other speed is known";
    } else {
      time();
    }
    return std::move(plan_);
  }

 private:
  void split_rows() {
    const data::LoaderOptions& loader = stage_.loader;
    const std::int64_t groups = ranks_ / context_;
    plan_.groups = groups;
    plan_.rows_per_step = loader.rows_per_step;
    plan_.tokens_per_row =
        checked_product({loader.sequence_length, stage_.texts}, "sequence_length * texts of a row");
    plan_.rows_per_rank = ceil_div(loader.rows_per_step, groups);
    plan_.micro_batch_rows = loader.micro_batch_rows > 0
                                 ? std::min(loader.micro_batch_rows, plan_.rows_per_rank)
                                 : plan_.rows_per_rank;
    plan_.micro_batches = ceil_div(plan_.rows_per_rank, plan_.micro_batch_rows);
    if (loader.rows_per_step % groups != 0)
      plan_.notes.push_back(to_text(
          "loader.rows_per_step is ", loader.rows_per_step, " for ", groups,
          context_ > 1 ? " groups of ranks: " : " ranks: ",
          loader.rows_per_step < groups ? "some have nothing to do" : "some have a row less than others",
          "; a multiple of ", groups, " keeps all busy, but other batches want other learning rates"));
    embeds_first_ = stage_.embeds_first && plan_.micro_batches > 1;
  }

  /// Tokens of a micro-batch, and of a step, on one rank.
  [[nodiscard]] std::int64_t micro_tokens() const {
    return ceil_div(plan_.micro_batch_rows * plan_.tokens_per_row, context_);
  }
  [[nodiscard]] std::int64_t step_tokens() const {
    return ceil_div(plan_.rows_per_rank * plan_.tokens_per_row, context_);
  }

  /// This rank's part, where `mode` or a later one is on.
  [[nodiscard]] std::uint64_t share(std::uint64_t bytes, bool sharded) const {
    const std::uint64_t ranks = unsigned_of(ranks_);
    return sharded ? (bytes + ranks - 1) / ranks : bytes;
  }
  [[nodiscard]] bool shards_gradients() const { return shard_ == "gradients" || shard_ == "parameters"; }

  /// Bytes of the trained weights' gradients on their way.
  [[nodiscard]] std::uint64_t travelling() const {
    const std::uint64_t narrow = options_.parallel.reduce_dtype == "bfloat16" ? 2 : 4;
    return unsigned_of(model_.trained_16) * narrow + unsigned_of(model_.trained_32) * 4;
  }
  /// With shard parameters a layer's, as they come.
  [[nodiscard]] std::uint64_t bucket() const {
    if (shard_ != "parameters")
      return std::min(unsigned_of(options_.parallel.bucket_mib) << 20U, travelling());
    const double layer = static_cast<double>(model_.layer_bytes) /
                         static_cast<double>(model_.weight_bytes + model_.adapter_bytes);
    return static_cast<std::uint64_t>(static_cast<double>(travelling()) * layer);
  }
  /// Rows of heads that an all-to-all moves for one token, in bytes: q and output, k and v.
  [[nodiscard]] std::uint64_t exchanged() const {
    const std::int64_t kv = std::max(model_.kv_heads, context_);
    return unsigned_of((2 * model_.heads + 2 * kv) * model_.head_width * model_.element);
  }

  void hold() {
    RankMemory& memory = plan_.memory;
    const bool parameters = shard_ == "parameters";
    memory.weights = share(model_.weight_bytes, parameters);
    memory.adapters = share(model_.adapter_bytes, parameters);
    memory.gradients = gradient_bytes();
    memory.optimizer =
        share(unsigned_of(model_.trained_16) * 12 + unsigned_of(model_.trained_32) * 8, shard_ != "none");
    memory.activations = activation_bytes(model_, micro_tokens(), plan_.recompute);
    memory.scratch = model_.decoded_bytes;
    memory.runtime = std::uint64_t{1} << 30U;
    if (ranks_ == 1) return;
    if (parameters) memory.gathered = model_.largest_piece + model_.layer_bytes;
    memory.buffers = 2 * bucket();
    if (context_ > 1) memory.buffers += 2 * unsigned_of(micro_tokens()) * exchanged();
  }

  /// Of several micro-batches, 16-bit gradients are summed in float32 beside those of the last one.
  [[nodiscard]] std::uint64_t gradient_bytes() const {
    const bool sums = plan_.micro_batches > 1 && stage_.train.accumulate_in_float32;
    std::uint64_t narrow = sums ? 6 : 2;
    if (shards_gradients() && ranks_ > 1)
      narrow = sums || options_.parallel.reduce_dtype == "float32" ? 4 : 2;
    return share(unsigned_of(model_.trained_16) * narrow + unsigned_of(model_.trained_32) * 4,
                 shards_gradients());
  }

  void transfer() {
    if (ranks_ == 1) return;
    const std::uint64_t gradients = travelling();
    const std::uint64_t micro = unsigned_of(plan_.micro_batches);
    const std::uint64_t size = std::max<std::uint64_t>(1, bucket());
    const std::int64_t buckets =
        shard_ == "parameters" ? model_.pieces : static_cast<std::int64_t>((gradients + size - 1) / size);
    if (shard_ == "none") {
      ring("all_reduce", "gradients", buckets, gradients);
    } else {
      const std::uint64_t times = shards_gradients() ? micro : 1;
      ring("reduce_scatter", "gradients", buckets * static_cast<std::int64_t>(times), gradients * times);
    }
    if (shard_ == "optimizer" || shard_ == "gradients")
      ring("all_gather", "updated weights", buckets,
           unsigned_of(model_.trained_16) * 2 + unsigned_of(model_.trained_32) * 4);
    if (shard_ == "parameters") {
      const std::uint64_t weights = (model_.weight_bytes + model_.adapter_bytes) * micro;
      const std::int64_t calls = model_.pieces * plan_.micro_batches;
      const std::int64_t forwards = embeds_first_ ? 2 : 1;
      ring("all_gather", "weights, forward", calls * forwards, weights * unsigned_of(forwards));
      ring("all_gather", "weights, backward", calls, weights);
    }
    if (context_ > 1) all_to_all();
  }

  /// A collective around all ranks; `payload` is what one rank has of the whole.
  void ring(const char* collective, const char* what, std::int64_t calls, std::uint64_t payload) {
    const bool reduce = std::string(collective) == "all_reduce";
    Transfer t;
    t.collective = collective;
    t.what = what;
    t.calls = calls;
    t.payload = payload;
    const std::uint64_t ranks = unsigned_of(ranks_);
    t.sent = payload * (ranks - 1) / ranks * (reduce ? 2 : 1);
    if (options_.nodes > 1) t.network = t.sent / unsigned_of(options_.gpus_per_node);
    t.inside = t.sent - t.network;
    t.seconds = ring_seconds(t);
    plan_.transfers.push_back(t);
  }

  void all_to_all() {
    const std::int64_t passes = (embeds_first_ ? 3 : 2) + (plan_.recompute ? 1 : 0);
    Transfer t;
    t.collective = "all_to_all";
    t.what = "q, k, v, attention";
    t.calls = 4 * model_.layers * passes * plan_.micro_batches;
    t.payload = unsigned_of(step_tokens() * model_.layers * passes) * exchanged();
    const std::uint64_t context = unsigned_of(context_);
    // Groups are neighbouring ranks; those that straddle nodes share at least this many of one.
    const std::uint64_t local = unsigned_of(std::gcd(context_, options_.gpus_per_node));
    t.inside = t.payload * (local - 1) / context;
    t.network = t.payload * (context - local) / context;
    t.sent = t.inside + t.network;
    const Protocol& simple = kRingProtocols[0];
    const double hop = t.network > 0 ? simple.between : options_.gpu.nvlink ? simple.nvlink : simple.pcie;
    t.seconds = link_seconds(t) + static_cast<double>(t.calls) * (kRingProtocols[0].base + hop) * kMicro;
    plan_.transfers.push_back(t);
  }

  [[nodiscard]] double link_seconds(const Transfer& t) const {
    const GpuSpec& gpu = options_.gpu;
    const double rate = options_.rates.link * 1e9;
    const double inside = static_cast<double>(t.inside) / (gpu.link_gbs * rate);
    const double network = static_cast<double>(t.network) / (gpu.network_gbps / 8 * rate);
    return std::max(inside, network);
  }

  /// By the quickest way that NCCL has: a ring, and for an all-reduce a tree, in one of its protocols.
  [[nodiscard]] double ring_seconds(const Transfer& t) const {
    const bool nvlink = options_.gpu.nvlink;
    const bool reduce = t.collective == "all_reduce";
    const auto nodes = static_cast<double>(options_.nodes);
    const auto local = static_cast<double>(options_.gpus_per_node);
    const double turns = reduce ? 2 : 1;
    const double link = link_seconds(t);
    double best = std::numeric_limits<double>::infinity();
    const auto consider = [&](const Protocol& p, double inside, double between) {
      if (p.needs_nvlink && !nvlink) return;
      const double latency = p.base + inside * (nvlink ? p.nvlink : p.pcie) + between * p.between;
      best = std::min(best, link / p.bandwidth + static_cast<double>(t.calls) * latency * kMicro);
    };
    for (const Protocol& p : kRingProtocols) consider(p, turns * nodes * (local - 1), turns * (nodes - 1));
    if (reduce)
      for (const Protocol& p : kTreeProtocols) consider(p, 2 * (local - 1), 2 * std::ceil(std::log2(nodes)));
    return best;
  }

  /// Megatron-Core's rule: a million gradients a rank.
  void advise_buckets() {
    const bool in_buckets = shard_ == "optimizer" || shard_ == "gradients";
    if (!in_buckets || ranks_ == 1 || 2 * link_seconds(plan_.transfers[0]) > plan_.transfers[0].seconds)
      return;
    const std::int64_t wanted = ceil_div(ranks_ * 4000000, 1 << 20);
    if (wanted > options_.parallel.bucket_mib && travelling() > bucket())
      plan_.notes.push_back(to_text("a ring around ", ranks_, " ranks takes longer to go round than to move ",
                                    options_.parallel.bucket_mib, " MiB: try --bucket-mib ", wanted));
  }

  void time() {
    const GpuSpec& gpu = options_.gpu;
    const Flops flops = flops_of(stage_, plan_.recompute, embeds_first_);
    const double per_token =
        static_cast<double>(step_tokens()) / (gpu.bf16_tflops * 1e12 * options_.rates.compute);
    StepTime& time = plan_.time;
    time.forward = flops.forward * per_token;
    time.backward = flops.backward * per_token;
    time.recompute = (flops.recompute + flops.embed) * per_token;
    const double memory = gpu.memory_gbs * 1e9 * options_.rates.memory;
    const std::int64_t passes =
        (2 + (plan_.recompute ? 1 : 0) + (embeds_first_ ? 1 : 0)) * plan_.micro_batches;
    time.decode =
        static_cast<double>(passes) *
        (static_cast<double>(model_.quantized_bytes) + 2.0 * static_cast<double>(model_.quantized)) / memory;
    time.optimizer =
        static_cast<double>(share(unsigned_of(model_.trained()) * 28, shard_ != "none")) / memory;
    const std::int64_t kernels = 60 + (plan_.recompute ? 20 : 0) + (embeds_first_ ? 20 : 0);
    time.launch = std::max(0.0, static_cast<double>(kernels * model_.layers * plan_.micro_batches) *
                                        options_.rates.launch_us * kMicro -
                                    time.forward - time.backward - time.recompute - time.decode);
    for (const Transfer& t : plan_.transfers) time.transfer += t.seconds;
    time.exposed = exposed(flops.embed * per_token);
    speed(flops);
  }

  /// What hides under nothing.
  [[nodiscard]] double exposed(double embed) const {
    const auto micro = static_cast<double>(plan_.micro_batches);
    const double backward = (plan_.time.backward + plan_.time.recompute - embed) / micro;
    const double forward = (plan_.time.forward + embed) / micro;
    double seconds = 0;
    double under_backward = 0;  // Of one micro-batch,
    double last = 0;            // and of it the pieces that begin or end it.
    for (const Transfer& t : plan_.transfers) {
      const double piece = t.seconds / static_cast<double>(std::max<std::int64_t>(1, t.calls));
      if (t.what == "gradients") {
        under_backward += shards_gradients() ? t.seconds / micro : t.seconds;
        last += piece;
      } else if (t.what == "weights, backward") {
        under_backward += t.seconds / micro;
        last += piece;
      } else if (t.what == "weights, forward") {
        seconds += micro * std::max(t.seconds / micro - forward, piece);
      } else {
        seconds += t.seconds;
      }
    }
    const double times = shards_gradients() ? micro : 1;
    return seconds + times * std::max(under_backward - backward, last);
  }

  void speed(const Flops& flops) {
    const auto tokens = static_cast<double>(plan_.rows_per_step * plan_.tokens_per_row);
    const auto ranks = static_cast<double>(ranks_);
    plan_.tokens_per_second = tokens / plan_.time.total();
    plan_.tokens_per_second_gpu = plan_.tokens_per_second / ranks;
    plan_.mfu = plan_.tokens_per_second_gpu * flops.model / (options_.gpu.bf16_tflops * 1e12);
    plan_.steps = train::total_steps(stage_.train, plan_.rows_per_step * stage_.loader.sequence_length);
    plan_.tokens = checked_product({plan_.steps, plan_.rows_per_step, plan_.tokens_per_row},
                                   "steps * rows_per_step * tokens of a row");
    plan_.seconds = static_cast<double>(plan_.steps) * plan_.time.total();
  }

  const StageShape& stage_;
  const ModelShape& model_;
  const ClusterOptions& options_;
  std::string shard_;
  std::int64_t ranks_;
  std::int64_t context_;
  bool embeds_first_ = false;
  StagePlan plan_;
};

/// A change that saves memory.
struct Change {
  std::string name;
  std::function<void(StageShape&, ClusterOptions&)> apply;
};

/// "stages.adapt.data.loader"
std::string loader_of(const StageShape& stage) {
  return to_text("stages.", stage.stage, ".", stage.loader_key);
}

/// All that could help, what costs least speed first, as keys of the recipe.
std::vector<Change> changes_for(const StageShape& stage, const ClusterOptions& options,
                                const StagePlan& plan) {
  std::vector<Change> changes;
  const auto shard = [&](const char* mode) {
    changes.push_back({to_text("parallel.shard=", mode),
                       [mode](StageShape&, ClusterOptions& o) { o.parallel.shard = mode; }});
  };
  const std::vector<std::string> modes = {"none", "optimizer", "gradients", "parameters"};
  const auto now = std::find(modes.begin(), modes.end(), options.parallel.shard) - modes.begin();
  if (options.ranks() > 1 && now < 1) shard("optimizer");
  for (std::int64_t rows = plan.micro_batch_rows / 2; rows >= 1; rows /= 2)
    changes.push_back({to_text(loader_of(stage), ".micro_batch_rows=", rows),
                       [rows](StageShape& s, ClusterOptions&) { s.loader.micro_batch_rows = rows; }});
  if (options.ranks() > 1 && now < 2) shard("gradients");
  if (!plan.recompute)
    changes.push_back({to_text("stages.", stage.stage, ".train.recompute=true"),
                       [](StageShape&, ClusterOptions& o) { o.recompute = true; }});
  if (options.ranks() > 1 && now < 3) shard("parameters");
  if (!stage.model.causal) return changes;
  for (std::int64_t c = options.parallel.context * 2; c <= std::min(stage.model.heads, options.ranks());
       c *= 2)
    if (options.ranks() % c == 0)
      changes.push_back(
          {to_text("parallel.context=", c), [c](StageShape&, ClusterOptions& o) { o.parallel.context = c; }});
  return changes;
}

/// What makes a stage fit: changes are added until it does, then those that were not needed are taken away.
std::string remedy_for(const StageShape& stage, const ClusterOptions& options, const StagePlan& plan) {
  const auto planned = [&](const std::vector<Change>& changes) {
    StageShape changed = stage;
    ClusterOptions cluster = options;
    for (const Change& change : changes) change.apply(changed, cluster);
    return StagePlanner(changed, cluster).plan();
  };
  std::vector<Change> chosen;
  bool fits = false;
  for (const Change& change : changes_for(stage, options, plan)) {
    chosen.push_back(change);
    fits = planned(chosen).fits();
    if (fits) break;
  }
  if (!fits)
    return to_text(
        "no key by itself makes it fit: take GPUs with more memory, or more of them with ",
        "parallel.shard=parameters, or lower ", loader_of(stage), ".sequence_length",
        stage.model.causal ? ", or train adapters on a base in 4 bits (stages of type cpt and sft)" : "");
  for (std::size_t i = 0; i + 1 < chosen.size();) {
    std::vector<Change> without = chosen;
    without.erase(without.begin() + static_cast<std::ptrdiff_t>(i));
    if (planned(without).fits())
      chosen = std::move(without);
    else
      ++i;
  }
  std::vector<std::string> names;
  names.reserve(chosen.size());
  for (const Change& change : chosen) names.push_back(change.name);
  return "it fits with " + join(names, " ") + ": " + human_bytes(planned(chosen).memory.total());
}

void check_stage(const StageShape& stage, const ClusterOptions& options) {
  const std::int64_t context = options.parallel.context;
  if (context == 1) return;
  if (!stage.model.causal)
    throw ConfigError("stages.", stage.stage,
                      ": --context is for language models; encoders read texts that are short enough for one "
                      "rank: leave it at 1");
  if (context > stage.model.heads)
    throw ConfigError("stages.", stage.stage, ": --context must not exceed the model's ", stage.model.heads,
                      " attention heads, got ", context);
}

}  // namespace

void check(const ClusterOptions& options) {
  if (options.nodes < 1) throw ConfigError("--nodes must be >= 1, got ", options.nodes);
  if (options.gpus_per_node < 1)
    throw ConfigError("--gpus-per-node must be >= 1, got ", options.gpus_per_node);
  const dist::ParallelOptions& parallel = options.parallel;
  const std::vector<std::string> modes = {"none", "optimizer", "gradients", "parameters"};
  if (std::find(modes.begin(), modes.end(), parallel.shard) == modes.end())
    throw ConfigError("--shard must be one of ", join(modes, ", "), ", got '", parallel.shard, "'",
                      did_you_mean(parallel.shard, modes));
  const std::vector<std::string> dtypes = {"float32", "bfloat16"};
  if (std::find(dtypes.begin(), dtypes.end(), parallel.reduce_dtype) == dtypes.end())
    throw ConfigError("--reduce-dtype must be float32 or bfloat16, got '", parallel.reduce_dtype, "'",
                      did_you_mean(parallel.reduce_dtype, dtypes));
  if (parallel.bucket_mib < 1) throw ConfigError("--bucket-mib must be >= 1, got ", parallel.bucket_mib);
  if (parallel.context < 1 || options.ranks() % parallel.context != 0)
    throw ConfigError("parallel.context or --context must divide the ", options.ranks(), " ranks (",
                      options.nodes, " nodes x ", options.gpus_per_node, " GPUs), got ", parallel.context);
  const auto rate = [](const char* name, double value) {
    if (!(value > 0 && value <= 1)) throw ConfigError(name, " must be above 0 and at most 1, got ", value);
  };
  rate("--compute-fraction", options.rates.compute);
  rate("the share of memory bandwidth", options.rates.memory);
  rate("--link-fraction", options.rates.link);
  if (!(options.gpu.network_gbps > 0))
    throw ConfigError("--network-gbps must be above 0, got ", options.gpu.network_gbps);
}

StagePlan plan_stage(const StageShape& stage, const ClusterOptions& options) {
  check(options);
  check_stage(stage, options);
  StagePlan plan = StagePlanner(stage, options).plan();
  if (!plan.fits()) plan.remedy = remedy_for(stage, options, plan);
  if (!stage.model.causal && plan.no_time.empty())
    plan.notes.emplace_back(
        "texts are counted at loader.sequence_length tokens each, a guess for packing whole; embeddings that "
        "ranks gather from each other are not counted; with small encoders the host decides: MiniLM on one "
        "H200 "
        "reached a tenth to a fifth of this estimate");
  return plan;
}

std::vector<StagePlan> plan_cluster(const Recipe& recipe, const ClusterOptions& options) {
  check(options);
  std::vector<StagePlan> plans;
  for (const StageShape& stage : stage_shapes(recipe))
    if (stage.trains) plans.push_back(plan_stage(stage, options));
  if (plans.empty())
    throw ConfigError(
        recipe.file.string(),
        ": no stage trains a model whose shape is known; a base must be a folder with config.json, "
        "here: '",
        recipe.base, "'");
  return plans;
}

}  // namespace bitrain::recipe
