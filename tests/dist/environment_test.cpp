#include <bitrain/dist/environment.h>

#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>

namespace bitrain::dist {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string error_of(const Variables& variables, const EnvironmentFlags& flags = {}) {
  try {
    (void)resolve_environment(variables, flags);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "none";
}

const Variables kTorchrun = {{"RANK", "5"},
                             {"WORLD_SIZE", "8"},
                             {"LOCAL_RANK", "1"},
                             {"LOCAL_WORLD_SIZE", "4"},
                             {"MASTER_ADDR", "node7"},
                             {"MASTER_PORT", "29411"},
                             {"TORCHELASTIC_RUN_ID", "job"},
                             {"TORCHELASTIC_RESTART_COUNT", "2"},
                             {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                             {"TORCHELASTIC_ERROR_FILE", "/tmp/error.json"}};

Variables with(Variables variables, const Variables& more) {
  for (const auto& [name, value] : more) variables[name] = value;
  return variables;
}

TEST(Environment, WithoutVariablesIsOneProcess) {
  const Environment alone = resolve_environment({{"PATH", "/bin"}});
  EXPECT_EQ(alone.world_size, 1);
  EXPECT_EQ(alone.rank, 0);
  EXPECT_EQ(alone.master_address, "");
  EXPECT_EQ(describe(alone), "one process (single process)");
}

TEST(Environment, SaysWhichVariablesAskedForRanksAndHowToRunAlone) {
  const auto said = [](const Variables& variables) {
    return how_to_run_alone(resolve_environment(variables));
  };
  EXPECT_EQ(said({}), "");
  EXPECT_EQ(said(kTorchrun), "");  // It starts all ranks itself.
  EXPECT_THAT(
      said({{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_TASKS_PER_NODE", "4"}}),
      AllOf(HasSubstr("SLURM_STEP_NUM_TASKS=4 and SLURM_PROCID=0 asked for 4 ranks"),
            HasSubstr("interactive shell of Slurm"),
            HasSubstr("run alone by: env -u SLURM_STEP_NUM_TASKS -u SLURM_PROCID ..")));
  EXPECT_THAT(
      said({{"WORLD_SIZE", "2"}, {"RANK", "1"}, {"LOCAL_RANK", "1"}, {"MASTER_ADDR", "a"}}),
      AllOf(HasSubstr("WORLD_SIZE=2 and RANK=1 asked for 2 ranks"), HasSubstr("env -u WORLD_SIZE -u RANK")));
  EXPECT_THAT(said({{"OMPI_COMM_WORLD_SIZE", "2"},
                    {"OMPI_COMM_WORLD_RANK", "0"},
                    {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}}),
              HasSubstr("env -u OMPI_COMM_WORLD_SIZE -u OMPI_COMM_WORLD_RANK"));
  EnvironmentFlags flags;
  flags.rank = 0;
  flags.world_size = 1;
  flags.local_world_size = 1;
  EXPECT_EQ(how_to_run_alone(resolve_environment({{"SLURM_STEP_NUM_TASKS", "4"}}, flags)), "");
}

TEST(Environment, TorchrunSaysAll) {
  const Environment found = resolve_environment(kTorchrun);
  EXPECT_EQ(found.source, "torchrun");
  EXPECT_EQ(found.rank, 5);
  EXPECT_EQ(found.world_size, 8);
  EXPECT_EQ(found.local_rank, 1);
  EXPECT_EQ(found.local_world_size, 4);
  EXPECT_EQ(found.master_address, "node7");
  EXPECT_EQ(found.master_port, 29411);
  EXPECT_TRUE(found.store_is_served);
  EXPECT_TRUE(found.libuv);
  EXPECT_EQ(found.run_id, "job");
  EXPECT_EQ(found.restart_count, 2);
  EXPECT_EQ(found.error_file, "/tmp/error.json");
  EXPECT_EQ(describe(found),
            "rank 5 of 8 (1 of 4 on this machine) by torchrun, store at node7:29411, served by the launcher, "
            "restart 2");
  EXPECT_FALSE(resolve_environment(with(kTorchrun, {{"USE_LIBUV", "0"}})).libuv);
  EXPECT_FALSE(
      resolve_environment(with(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "False"}})).store_is_served);
}

TEST(Environment, TheFirstLauncherInTheListDecides) {
  const Variables slurm = {{"SLURM_PROCID", "3"},     {"SLURM_STEP_NUM_TASKS", "6"},
                           {"SLURM_LOCALID", "1"},    {"SLURM_STEP_NODELIST", "gpu[003-005],x"},
                           {"SLURM_JOB_ID", "70012"}, {"SLURM_NODEID", "1"},
                           {"SLURM_NTASKS", "6"},     {"SLURM_STEP_TASKS_PER_NODE", "2(x2),1,1"}};
  const Variables mpi = {{"OMPI_COMM_WORLD_RANK", "2"},
                         {"OMPI_COMM_WORLD_SIZE", "4"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "2"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}};
  const Variables pmi = {
      {"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}};
  const Variables pet = {{"PET_NODE_RANK", "1"},
                         {"PET_NNODES", "3"},
                         {"PET_NPROC_PER_NODE", "1"},
                         {"PET_MASTER_ADDR", "pod-0"},
                         {"PET_MASTER_PORT", "3000"}};
  Variables all = with(with(mpi, pmi), slurm);
  EXPECT_EQ(resolve_environment(with(mpi, pmi)).source, "Open MPI");
  EXPECT_EQ(resolve_environment(all).source, "Slurm");
  all = with(all, pet);
  EXPECT_EQ(resolve_environment(all).source, "PET");
  all = with(all, kTorchrun);
  EXPECT_EQ(resolve_environment(all).source, "torchrun");
  EnvironmentFlags flags;
  flags.rank = 0;
  flags.world_size = 2;
  EXPECT_EQ(resolve_environment(all, flags).source, "flags");

  const Environment by_slurm = resolve_environment(slurm);
  EXPECT_EQ(by_slurm.rank, 3);
  EXPECT_EQ(by_slurm.world_size, 6);
  EXPECT_EQ(by_slurm.local_world_size, 2);
  EXPECT_EQ(by_slurm.master_address, "gpu003");
  EXPECT_EQ(by_slurm.master_port, 15012);
  EXPECT_FALSE(by_slurm.store_is_served);
  EXPECT_EQ(
      resolve_environment(with(slurm, {{"SLURM_NODEID", "3"}, {"SLURM_LOCALID", "0"}})).local_world_size, 1);
  EXPECT_EQ(resolve_environment(with(slurm, {{"MASTER_ADDR", "a"}, {"MASTER_PORT", "7"}})).master_port, 7);

  const Environment by_pet = resolve_environment(pet);
  EXPECT_EQ(by_pet.rank, 1);
  EXPECT_EQ(by_pet.master_address, "pod-0");
  EXPECT_EQ(by_pet.master_port, 3000);
  EXPECT_EQ(resolve_environment(pmi).local_world_size, 2);
}

TEST(Environment, AScriptOfSlurmIsOneProcess) {
  EXPECT_EQ(resolve_environment({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}}).world_size, 1);
}

TEST(Environment, AllOnThisMachineNeedNoAddress) {
  const Variables mpi = {
      {"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}};
  EXPECT_EQ(resolve_environment(mpi).master_address, "127.0.0.1");
  EXPECT_EQ(resolve_environment(mpi).master_port, 29500);
  EXPECT_THAT(error_of(with(mpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}})),
              AllOf(HasSubstr("MASTER_ADDR"), HasSubstr("host of rank 0")));
}

TEST(Environment, FlagsOverrideTheMeetingPlace) {
  EnvironmentFlags flags;
  flags.master_address = "elsewhere";
  flags.master_port = 1234;
  const Environment found = resolve_environment(kTorchrun, flags);
  EXPECT_EQ(found.source, "torchrun");
  EXPECT_EQ(found.master_address, "elsewhere");
  EXPECT_EQ(found.master_port, 1234);
}

TEST(Environment, BadVariablesAreNamed) {
  EXPECT_THAT(error_of({{"RANK", "0"}}), AllOf(HasSubstr("RANK is set"), HasSubstr("WORLD_SIZE")));
  EXPECT_THAT(error_of({{"WORLD_SIZE", "2"}}), HasSubstr("RANK"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"RANK", "five"}})), AllOf(HasSubstr("RANK"), HasSubstr("'five'")));
  EXPECT_THAT(error_of(with(kTorchrun, {{"RANK", "5x"}})), HasSubstr("whole number"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"RANK", "8"}})), AllOf(HasSubstr("rank 8"), HasSubstr("0 to 7")));
  EXPECT_THAT(error_of(with(kTorchrun, {{"WORLD_SIZE", "0"}})), HasSubstr("at least 1"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"LOCAL_RANK", "4"}})), HasSubstr("local rank 4"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"MASTER_PORT", "70000"}})), HasSubstr("MASTER_PORT"));
  EXPECT_THAT(error_of({{"PET_NODE_RANK", "0"}, {"PET_NNODES", "2"}, {"PET_NPROC_PER_NODE", "auto"}}),
              HasSubstr("torchrun"));
  EnvironmentFlags flags;
  flags.rank = 1;
  EXPECT_THAT(error_of({}, flags), HasSubstr("--world-size"));
  const Variables slurm = {{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}};
  EXPECT_THAT(error_of(with(slurm, {{"SLURM_STEP_TASKS_PER_NODE", "two"}})), HasSubstr("'two'"));
  EXPECT_THAT(error_of(with(slurm, {{"SLURM_STEP_TASKS_PER_NODE", "2(x"}})), HasSubstr("2(x"));
  EXPECT_THAT(error_of(with(slurm, {{"SLURM_STEP_TASKS_PER_NODE", "2"}, {"SLURM_NODEID", "1"}})),
              HasSubstr("SLURM_NODEID"));
  EXPECT_THAT(error_of(with(slurm, {{"SLURM_STEP_NODELIST", "gpu[1-2"}})), HasSubstr("']'"));
}

TEST(Environment, FirstHostOfSlurmsLists) {
  EXPECT_EQ(first_host("alone"), "alone");
  EXPECT_EQ(first_host("a,b"), "a");
  EXPECT_EQ(first_host("gpu[003-005,9],login"), "gpu003");
  EXPECT_EQ(first_host("r[2,4]n[07-09]-ib"), "r2n07-ib");
  EXPECT_EQ(first_host(""), "");
}

TEST(Environment, ReadsTheVariablesOfThisProcess) {
  ASSERT_EQ(setenv("BITRAIN_TEST_VARIABLE", "a=b", 1), 0);
  EXPECT_EQ(environment_variables().at("BITRAIN_TEST_VARIABLE"), "a=b");
  ASSERT_EQ(unsetenv("BITRAIN_TEST_VARIABLE"), 0);
}

}  // namespace
}  // namespace bitrain::dist
