#include <bitrain/recipe/cluster_report.h>

#include <cmath>
#include <utility>

#include <bitrain/base/format.h>

#include <bitrain/base/strings.h>

namespace bitrain::recipe {
namespace {

double gib(std::uint64_t bytes) {
  return static_cast<double>(bytes) / (1 << 30);
}
double gigabytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) * 1e-9;
}

/// "900", "1.5 M", "15.3 B".
std::string count(double number) {
  if (number >= 1e9) return format("%.1f B", number * 1e-9);
  if (number >= 1e6) return format("%.1f M", number * 1e-6);
  return with_thousands(std::llround(number));
}

/// "4:05", "1:02:03"; days where hours are many.
std::string duration(double seconds) {
  return seconds < 4 * 86400 ? human_seconds(seconds) : format("%.1f days", seconds / 86400);
}

using MemoryRow = std::pair<const char*, std::uint64_t>;
std::vector<MemoryRow> rows_of(const RankMemory& memory) {
  return {{"weights", memory.weights},           {"adapters", memory.adapters},
          {"gradients", memory.gradients},       {"optimizer", memory.optimizer},
          {"activations", memory.activations},   {"gathered layers", memory.gathered},
          {"buffers", memory.buffers},           {"decoded weight", memory.scratch},
          {"CUDA and libraries", memory.runtime}};
}

using TimeRow = std::pair<const char*, double>;
std::vector<TimeRow> rows_of(const StepTime& time) {
  return {{"forward", time.forward},
          {"backward", time.backward},
          {"forward again", time.recompute},
          {"decoding 4 bits", time.decode},
          {"optimizer", time.optimizer},
          {"launching kernels", time.launch},
          {"waiting for transfers", time.exposed}};
}

std::string head_of(const StagePlan& plan, const ClusterOptions& options) {
  const std::int64_t context = options.parallel.context;
  std::string text = plan.stage + " (" + plan.type + "): " + count(static_cast<double>(plan.parameters)) +
                     " parameters, " + count(static_cast<double>(plan.trained)) + " trained" +
                     (plan.recompute ? ", with recompute" : "") + "\n  a step is " +
                     with_thousands(plan.rows_per_step) + " rows of " + with_thousands(plan.tokens_per_row) +
                     " tokens; ";
  if (options.ranks() > 1)
    text += "each of " + with_thousands(plan.groups) +
            (context > 1 ? " groups of " + with_thousands(context) + " ranks" : " ranks") + " has " +
            with_thousands(plan.rows_per_rank) + ", ";
  return text + with_thousands(plan.micro_batch_rows) + " at a time\n";
}

std::string memory_of(const StagePlan& plan) {
  std::string text = "\n  memory of a rank                GiB\n";
  for (const auto& [name, bytes] : rows_of(plan.memory))
    if (bytes > 0) text += format("    %-24s %9.3f\n", name, gib(bytes));
  text += format("    %-24s %9.3f of %.1f: %s\n", "in all", gib(plan.memory.total()), gib(plan.gpu_bytes),
                 plan.fits() ? "fits" : "DOES NOT FIT");
  if (!plan.remedy.empty()) text += "    " + plan.remedy + "\n";
  return text;
}

std::string traffic_of(const StagePlan& plan, const ClusterOptions& options) {
  if (plan.transfers.empty()) return "\n  traffic: none, there is one rank\n";
  std::string text = format("\n  %-38s %9s %10s %12s %12s %10s\n", "traffic of a rank in a step", "calls",
                            "sent, GB", options.gpu.nvlink ? "NVLink, GB" : "PCIe, GB", "network, GB", "ms");
  for (const Transfer& t : plan.transfers)
    text += format("    %-36s %9s %10.3f %12.3f %12.3f %10.2f\n", (t.collective + ", " + t.what).c_str(),
                   with_thousands(t.calls).c_str(), gigabytes(t.sent), gigabytes(t.inside),
                   gigabytes(t.network), t.seconds * 1e3);
  return text;
}

std::string time_of(const StagePlan& plan) {
  if (!plan.no_time.empty()) return "\n  no estimate of time: " + plan.no_time + "\n";
  std::string text = "\n  time of a step                   ms\n";
  for (const auto& [name, seconds] : rows_of(plan.time))
    if (seconds > 0) text += format("    %-24s %9.2f\n", name, seconds * 1e3);
  text += format("    %-24s %9.2f", "in all", plan.time.total() * 1e3);
  if (plan.time.transfer > 0)
    text += format("; of %.2f ms of transfers %.0f %% hide", plan.time.transfer * 1e3,
                   100 * (1 - plan.time.exposed / plan.time.transfer));
  text += format("\n\n  %s tokens/s a GPU, %s in all; MFU %.1f %%\n",
                 with_thousands(std::llround(plan.tokens_per_second_gpu)).c_str(),
                 with_thousands(std::llround(plan.tokens_per_second)).c_str(), 100 * plan.mfu);
  text += format("  the run: %s steps, %s tokens, %s\n", with_thousands(plan.steps).c_str(),
                 count(static_cast<double>(plan.tokens)).c_str(), duration(plan.seconds).c_str());
  return text;
}

io::Json json_of(const StagePlan& plan) {
  io::Json json = {{"stage", plan.stage},
                   {"type", plan.type},
                   {"parameters", plan.parameters},
                   {"trained", plan.trained},
                   {"rows_per_step", plan.rows_per_step},
                   {"groups", plan.groups},
                   {"rows_per_rank", plan.rows_per_rank},
                   {"micro_batch_rows", plan.micro_batch_rows},
                   {"micro_batches", plan.micro_batches},
                   {"tokens_per_row", plan.tokens_per_row},
                   {"recompute", plan.recompute}};
  const RankMemory& m = plan.memory;
  json["memory_bytes"] = {
      {"weights", m.weights},     {"adapters", m.adapters},       {"gradients", m.gradients},
      {"optimizer", m.optimizer}, {"activations", m.activations}, {"gathered", m.gathered},
      {"buffers", m.buffers},     {"scratch", m.scratch},         {"runtime", m.runtime},
      {"total", m.total()},       {"gpu", plan.gpu_bytes}};
  json["fits"] = plan.fits();
  json["remedy"] = plan.remedy;
  json["transfers"] = io::Json::array();
  for (const Transfer& t : plan.transfers)
    json["transfers"].push_back({{"collective", t.collective},
                                 {"what", t.what},
                                 {"calls", t.calls},
                                 {"payload_bytes", t.payload},
                                 {"sent_bytes", t.sent},
                                 {"inside_bytes", t.inside},
                                 {"network_bytes", t.network},
                                 {"seconds", t.seconds}});
  json["notes"] = plan.notes;
  if (!plan.no_time.empty()) {
    json["no_time"] = plan.no_time;
    return json;
  }
  const StepTime& time = plan.time;
  json["step_seconds"] = {
      {"forward", time.forward},   {"backward", time.backward},   {"recompute", time.recompute},
      {"decode", time.decode},     {"optimizer", time.optimizer}, {"launch", time.launch},
      {"transfer", time.transfer}, {"exposed", time.exposed},     {"total", time.total()}};
  json["tokens_per_second"] = plan.tokens_per_second;
  json["tokens_per_second_gpu"] = plan.tokens_per_second_gpu;
  json["mfu"] = plan.mfu;
  json["steps"] = plan.steps;
  json["tokens"] = plan.tokens;
  json["run_seconds"] = plan.seconds;
  return json;
}

}  // namespace

std::string describe(const std::vector<StagePlan>& plans, const ClusterOptions& options) {
  const GpuSpec& gpu = options.gpu;
  const dist::ParallelOptions& parallel = options.parallel;
  std::string text = to_text(options.nodes, " x ", options.gpus_per_node, " ", gpu.title);
  text += format(
      ": %.0f TFLOP/s of bfloat16, %.0f GB/s of memory,\n  %.4g GB/s by %s, %.4g Gb/s of network each\n",
      gpu.bf16_tflops, gpu.memory_gbs, gpu.link_gbs, gpu.link.c_str(), gpu.network_gbps);
  text += format("  reached: %.0f %% of the peak, %.0f %% of memory's speed, %.0f %% of the links'\n",
                 100 * options.rates.compute, 100 * options.rates.memory, 100 * options.rates.link);
  text += to_text("shard ", parallel.shard, ", context ", parallel.context,
                  ", gradients of 16-bit weights travel in ", parallel.reduce_dtype, "\n");
  text +=
      "An estimate: no run of bitrain on several GPUs has been compared with it. docs/scaling.md has the\n"
      "formulas, and how far they are from runs that others published.\n";
  for (const StagePlan& plan : plans) {
    text += "\n" + head_of(plan, options) + memory_of(plan) + traffic_of(plan, options) + time_of(plan);
    for (const std::string& note : plan.notes) text += "  note: " + note + "\n";
  }
  return text;
}

std::string what_does_not_fit(const std::vector<StagePlan>& plans) {
  std::string text;
  for (const StagePlan& plan : plans) {
    if (plan.fits()) continue;
    text += format("%sstages.%s needs %.1f GiB on each GPU, which has %.1f: %.1f GiB too much; ",
                   text.empty() ? "" : "\n  ", plan.stage.c_str(), gib(plan.memory.total()),
                   gib(plan.gpu_bytes), gib(plan.missing()));
    text += plan.remedy;
  }
  return text;
}

io::Json to_json(const std::vector<StagePlan>& plans, const ClusterOptions& options) {
  const GpuSpec& gpu = options.gpu;
  io::Json json = {
      {"gpu",
       {{"name", gpu.name},
        {"title", gpu.title},
        {"memory_gb", gpu.memory_gb},
        {"bf16_tflops", gpu.bf16_tflops},
        {"memory_gbs", gpu.memory_gbs},
        {"link", gpu.link},
        {"link_gbs", gpu.link_gbs},
        {"network_gbps", gpu.network_gbps}}},
      {"nodes", options.nodes},
      {"gpus_per_node", options.gpus_per_node},
      {"shard", options.parallel.shard},
      {"context", options.parallel.context},
      {"bucket_mib", options.parallel.bucket_mib},
      {"reduce_dtype", options.parallel.reduce_dtype},
      {"rates",
       {{"compute", options.rates.compute}, {"memory", options.rates.memory}, {"link", options.rates.link}}},
      {"measured", false}};
  json["stages"] = io::Json::array();
  for (const StagePlan& plan : plans) json["stages"].push_back(json_of(plan));
  return json;
}

std::string describe(const std::vector<GpuSpec>& specs) {
  std::string text = format("%-10s %7s %13s %12s %-11s %6s %14s  %s\n", "gpu", "GB", "bf16 TFLOP/s",
                            "memory GB/s", "link", "GB/s", "network Gb/s", "from");
  for (const GpuSpec& gpu : specs)
    text += format("%-10s %7.0f %13.1f %12.0f %-11s %6.1f %14.0f  %s\n", gpu.name.c_str(), gpu.memory_gb,
                   gpu.bf16_tflops, gpu.memory_gbs, gpu.link.c_str(), gpu.link_gbs, gpu.network_gbps,
                   gpu.source.c_str());
  return text;
}

}  // namespace bitrain::recipe
