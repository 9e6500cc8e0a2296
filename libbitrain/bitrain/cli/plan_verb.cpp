#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/cli/cli.h>
#include <bitrain/recipe/cluster_plan.h>
#include <bitrain/recipe/cluster_report.h>
#include <bitrain/recipe/recipe.h>

namespace bitrain::cli {
namespace {

struct PlanArguments {
  std::string file;
  std::vector<std::string> overrides;
  std::string gpu = "h100";
  double network_gbps = 0;
  recipe::ClusterOptions cluster;
  std::string shard;
  std::string context;
  std::string bucket_mib;
  std::string reduce_dtype;
  bool recompute = false;
  bool json = false;
  bool gpus = false;
};

/// Options that stand for keys of the recipe, before the keys that are given themselves: these win.
std::vector<std::string> overrides_of(const PlanArguments& arguments) {
  std::vector<std::string> overrides;
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) overrides.push_back(std::string("parallel.") + key + "=" + value);
  };
  add("shard", arguments.shard);
  add("context", arguments.context);
  add("bucket_mib", arguments.bucket_mib);
  add("reduce_dtype", arguments.reduce_dtype);
  overrides.insert(overrides.end(), arguments.overrides.begin(), arguments.overrides.end());
  return overrides;
}

void run_plan(PlanArguments& arguments) {
  if (arguments.gpus) {
    print(recipe::describe(recipe::gpu_specs()));
    return;
  }
  if (arguments.file.empty()) throw ConfigError("name a recipe, or ask for --list-gpus");
  recipe::ClusterOptions& cluster = arguments.cluster;
  cluster.gpu = recipe::find_gpu(arguments.gpu);
  if (arguments.network_gbps != 0) cluster.gpu.network_gbps = arguments.network_gbps;
  if (arguments.recompute) cluster.recompute = true;
  recipe::check(cluster);
  const recipe::Recipe loaded = recipe::load_recipe(arguments.file, overrides_of(arguments));
  cluster.parallel = loaded.parallel;
  const std::vector<recipe::StagePlan> plans = recipe::plan_cluster(loaded, cluster);
  if (arguments.json)
    print_data(recipe::to_json(plans, cluster).dump(2) + "\n");
  else
    print(recipe::describe(plans, cluster));
  const std::string too_much = recipe::what_does_not_fit(plans);
  if (!too_much.empty()) throw StateError(too_much);
}

}  // namespace

void add_plan_verb(CLI::App& app) {
  auto arguments = std::make_shared<PlanArguments>();
  CLI::App* verb = app.add_subcommand(
      "plan",
      "What a recipe would need on a cluster: memory, traffic and time of each training stage, estimated");
  recipe::ClusterOptions& cluster = arguments->cluster;
  is_path(verb->add_option("recipe", arguments->file, "Recipe (YAML)"));
  verb->add_option("overrides", arguments->overrides, "key=value");
  verb->add_option("--nodes", cluster.nodes, "Machines")->capture_default_str();
  verb->add_option("--gpus-per-node", cluster.gpus_per_node, "GPUs of each")->capture_default_str();
  verb->add_option("--gpu", arguments->gpu, "Which; --list-gpus shows them")->capture_default_str();
  verb->add_option("--shard", arguments->shard,
                   "none, optimizer, gradients or parameters, in place of the recipe's parallel.shard");
  verb->add_option("--context", arguments->context,
                   "Ranks that share the tokens of the same rows, in place of parallel.context");
  verb->add_option("--bucket-mib", arguments->bucket_mib,
                   "Size of the pieces gradients travel in, in place of parallel.bucket_mib");
  verb->add_option("--reduce-dtype", arguments->reduce_dtype,
                   "float32 or bfloat16: what 16-bit gradients travel in, in place of parallel.reduce_dtype");
  verb->add_option("--network-gbps", arguments->network_gbps,
                   "Network of each GPU in Gb/s, in place of the table's");
  verb->add_option("--compute-fraction", cluster.rates.compute, "Share of the peak that is reached")
      ->capture_default_str();
  verb->add_option("--link-fraction", cluster.rates.link, "Share of the links' bandwidth that is reached")
      ->capture_default_str();
  verb->add_flag("--recompute", arguments->recompute, "As train.recompute=true in every stage");
  verb->add_flag("--json", arguments->json, "For machines: bytes and seconds");
  verb->add_flag("--list-gpus", arguments->gpus, "The GPUs it knows, and where their figures are from");
  verb->callback([arguments] { run_plan(*arguments); });
}

}  // namespace bitrain::cli
