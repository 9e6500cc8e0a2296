#include <bitrain/dist/environment.h>

#include <unistd.h>

#include <charconv>

#include <bitrain/base/error.h>

namespace bitrain::dist {
namespace {

constexpr std::int64_t kDefaultPort = 29500;  // torchrun's.
constexpr std::int64_t kLastPort = 65535;
// Slurm gives no port: jobs on one machine take one of these each, by their number.
constexpr std::int64_t kFirstSlurmPort = 15000;
constexpr std::int64_t kSlurmPorts = 10000;

class Reader {
 public:
  explicit Reader(const Variables& variables) : variables_(variables) {}

  [[nodiscard]] bool has(const std::string& name) const {
    const auto found = variables_.find(name);
    return found != variables_.end() && !found->second.empty();
  }
  [[nodiscard]] std::string text(const std::string& name) const {
    return has(name) ? variables_.at(name) : std::string();
  }
  [[nodiscard]] std::int64_t number(const std::string& name) const {
    const std::string value = text(name);
    if (value.empty()) throw ConfigError(name, " is not set: the launcher should set it");
    std::int64_t number = 0;
    const auto [end, failure] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (failure != std::errc() || end != value.data() + value.size())
      throw ConfigError(name, " is '", value, "', which is no whole number");
    return number;
  }
  [[nodiscard]] std::int64_t number(const std::string& name, std::int64_t otherwise) const {
    return has(name) ? number(name) : otherwise;
  }

 private:
  const Variables& variables_;
};

/// Both variables, or neither; one alone is an error.
bool has_both(const Reader& variables, const std::string& rank, const std::string& size) {
  if (variables.has(rank) != variables.has(size))
    throw ConfigError(variables.has(rank) ? rank : size, " is set and ", variables.has(rank) ? size : rank,
                      " is not: set both, or neither for a single process");
  return variables.has(rank);
}

Environment from_flags(const EnvironmentFlags& flags) {
  if (!flags.rank || !flags.world_size)
    throw ConfigError(flags.rank ? "--world-size" : "--rank",
                      " is missing: give both --rank and --world-size");
  Environment environment;
  environment.source = "flags";
  environment.rank = *flags.rank;
  environment.world_size = *flags.world_size;
  environment.local_rank = flags.local_rank.value_or(0);
  environment.local_world_size = flags.local_world_size.value_or(environment.local_rank + 1);
  return environment;
}

Environment from_torchrun(const Reader& variables) {
  Environment environment;
  environment.source = variables.has("TORCHELASTIC_RUN_ID") ? "torchrun" : "RANK";
  environment.variables = {"WORLD_SIZE", "RANK"};
  environment.rank = variables.number("RANK");
  environment.world_size = variables.number("WORLD_SIZE");
  environment.local_rank = variables.number("LOCAL_RANK", 0);
  environment.local_world_size = variables.number("LOCAL_WORLD_SIZE", environment.local_rank + 1);
  environment.store_is_served = variables.text("TORCHELASTIC_USE_AGENT_STORE") == "True";
  environment.run_id = variables.text("TORCHELASTIC_RUN_ID");
  environment.restart_count = variables.number("TORCHELASTIC_RESTART_COUNT", 0);
  environment.error_file = variables.text("TORCHELASTIC_ERROR_FILE");
  return environment;
}

/// The variables are meant for torchrun; without it they say enough where a container runs one process.
Environment from_pet(const Reader& variables) {
  Environment environment;
  environment.source = "PET";
  environment.variables = {"PET_NNODES", "PET_NODE_RANK"};
  environment.rank = variables.number("PET_NODE_RANK");
  environment.world_size = variables.number("PET_NNODES");
  const std::string processes = variables.text("PET_NPROC_PER_NODE");
  if (!processes.empty() && processes != "1")
    throw ConfigError("PET_NPROC_PER_NODE is '", processes,
                      "', but this is one process: start it with torchrun --no-python bitrain ..");
  environment.master_address = variables.text("PET_MASTER_ADDR");
  environment.master_port = variables.number("PET_MASTER_PORT", 0);
  return environment;
}

/// What Slurm says of node number `node` in a list like "4(x2),1": three nodes with 4, 4 and 1.
std::int64_t tasks_on_node(const std::string& list, std::int64_t node) {
  const char* at = list.data();
  const char* const end = at + list.size();
  const auto require = [&](bool holds) {
    if (!holds) throw ConfigError("SLURM_STEP_TASKS_PER_NODE is '", list, "', which is not like '4(x2),1'");
  };
  const auto number = [&] {
    std::int64_t value = 0;
    const auto [next, failure] = std::from_chars(at, end, value);
    require(failure == std::errc());
    at = next;
    return value;
  };
  while (at != end) {
    const std::int64_t tasks = number();
    std::int64_t nodes = 1;
    if (at != end && *at == '(') {
      require(end - at > 2 && at[1] == 'x');
      at += 2;
      nodes = number();
      require(at != end && *at++ == ')');
    }
    if (node < nodes) return tasks;
    node -= nodes;
    if (at != end) require(*at++ == ',');
  }
  throw ConfigError("SLURM_STEP_TASKS_PER_NODE is '", list, "', which has no node that SLURM_NODEID names");
}

Environment from_slurm(const Reader& variables) {
  Environment environment;
  environment.source = "Slurm";
  environment.variables = {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"};
  environment.rank = variables.number("SLURM_PROCID");
  environment.world_size = variables.number("SLURM_STEP_NUM_TASKS");
  environment.local_rank = variables.number("SLURM_LOCALID", 0);
  environment.local_world_size =
      variables.has("SLURM_STEP_TASKS_PER_NODE")
          ? tasks_on_node(variables.text("SLURM_STEP_TASKS_PER_NODE"), variables.number("SLURM_NODEID", 0))
          : environment.local_rank + 1;
  const std::string hosts = variables.text("SLURM_STEP_NODELIST");
  environment.master_address = first_host(hosts.empty() ? variables.text("SLURM_NODELIST") : hosts);
  environment.run_id = variables.text("SLURM_JOB_ID");
  environment.master_port = kFirstSlurmPort + variables.number("SLURM_JOB_ID", 0) % kSlurmPorts;
  environment.restart_count = variables.number("SLURM_RESTART_COUNT", 0);
  return environment;
}

/// The variables in which an MPI says where a process stands.
struct MpiVariables {
  const char* source;
  const char* rank;
  const char* world_size;
  const char* local_rank;
  const char* local_world_size;
};
constexpr MpiVariables kMpis[] = {{"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                                   "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
                                  {"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"}};

Environment from_mpi(const Reader& variables, const MpiVariables& names) {
  Environment environment;
  environment.source = names.source;
  environment.variables = {names.world_size, names.rank};
  environment.rank = variables.number(names.rank);
  environment.world_size = variables.number(names.world_size);
  environment.local_rank = variables.number(names.local_rank, 0);
  environment.local_world_size = variables.number(names.local_world_size, environment.local_rank + 1);
  return environment;
}

Environment from_launcher(const Reader& variables, const EnvironmentFlags& flags) {
  if (flags.rank || flags.world_size) return from_flags(flags);
  if (has_both(variables, "RANK", "WORLD_SIZE")) return from_torchrun(variables);
  if (has_both(variables, "PET_NODE_RANK", "PET_NNODES")) return from_pet(variables);
  // Set by srun alone: a script of sbatch sees SLURM_PROCID too, but it is one process.
  if (variables.has("SLURM_STEP_NUM_TASKS")) return from_slurm(variables);
  for (const MpiVariables& names : kMpis)
    if (has_both(variables, names.rank, names.world_size)) return from_mpi(variables, names);
  return {};
}

void set_meeting_place(Environment& environment, const Reader& variables, const EnvironmentFlags& flags) {
  if (variables.has("MASTER_ADDR")) environment.master_address = variables.text("MASTER_ADDR");
  if (!flags.master_address.empty()) environment.master_address = flags.master_address;
  environment.master_port = variables.number("MASTER_PORT", environment.master_port);
  environment.master_port = flags.master_port.value_or(environment.master_port);
  environment.libuv = variables.text("USE_LIBUV") != "0";
  if (environment.master_port == 0) environment.master_port = kDefaultPort;
  if (environment.master_port < 1 || environment.master_port > kLastPort)
    throw ConfigError("MASTER_PORT is ", environment.master_port, "; ports go from 1 to ", kLastPort);
  if (!environment.master_address.empty()) return;
  // All on this machine need no address.
  if (environment.local_world_size < environment.world_size)
    throw ConfigError("MASTER_ADDR is not set, and ", environment.world_size, " processes by ",
                      environment.source, " are on several machines: set it to the host of rank 0");
  environment.master_address = "127.0.0.1";
}

}  // namespace

Variables environment_variables() {
  Variables variables;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string line = *entry;
    const std::size_t equals = line.find('=');
    if (equals != std::string::npos) variables[line.substr(0, equals)] = line.substr(equals + 1);
  }
  return variables;
}

Environment resolve_environment(const Variables& variables, const EnvironmentFlags& flags) {
  const Reader reader(variables);
  Environment environment = from_launcher(reader, flags);
  if (environment.world_size < 1)
    throw ConfigError("there are ", environment.world_size, " processes by ", environment.source,
                      "; at least 1 is needed");
  if (environment.rank < 0 || environment.rank >= environment.world_size)
    throw ConfigError("rank ", environment.rank, " by ", environment.source, " is not one of ",
                      environment.world_size, " processes, 0 to ", environment.world_size - 1);
  if (environment.local_rank < 0 || environment.local_rank >= environment.local_world_size)
    throw ConfigError("local rank ", environment.local_rank, " by ", environment.source, " is not one of ",
                      environment.local_world_size, " processes on this machine");
  if (environment.world_size > 1) {
    set_meeting_place(environment, reader, flags);
  } else {
    environment.master_address.clear();
    environment.master_port = 0;
  }
  return environment;
}

std::string describe(const Environment& environment) {
  if (environment.world_size == 1) return "one process (" + environment.source + ")";
  return to_text("rank ", environment.rank, " of ", environment.world_size, " (", environment.local_rank,
                 " of ", environment.local_world_size, " on this machine) by ", environment.source,
                 ", store at ", environment.master_address, ":", environment.master_port,
                 environment.store_is_served ? ", served by the launcher" : "",
                 environment.restart_count > 0 ? to_text(", restart ", environment.restart_count) : "");
}

std::string how_to_run_alone(const Environment& environment) {
  if (environment.variables.size() != 2 || environment.source == "torchrun") return "";
  const std::string& size = environment.variables[0];
  const std::string& rank = environment.variables[1];
  return to_text(
      "; ", size, "=", environment.world_size, " and ", rank, "=", environment.rank, " asked for ",
      environment.world_size, " ranks",
      environment.source == "Slurm" ? " (an interactive shell of Slurm has them too, for one process)" : "",
      ": start all of them, or run alone by: env -u ", size, " -u ", rank, " ..");
}

std::string first_host(const std::string& list) {
  std::string host;
  for (std::size_t i = 0; i < list.size() && list[i] != ','; ++i) {
    if (list[i] != '[') {
      host += list[i];
      continue;
    }
    const std::size_t close = list.find(']', i);
    if (close == std::string::npos)
      throw ConfigError("the list of hosts '", list, "' has no ']' for its '['");
    host += list.substr(i + 1, list.find_first_of(",-]", i) - i - 1);
    i = close;
  }
  return host;
}

}  // namespace bitrain::dist
