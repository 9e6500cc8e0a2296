#include <bitrain/base/cpu_count.h>

#include <sched.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "support/temporary_directory.h"

namespace bitrain {
namespace {

namespace fs = std::filesystem;

const std::string kSecond =
    "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const std::string kFirst = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";

/// A made-up /proc and /sys.
class CpuQuota : public ::testing::Test {
 protected:
  void write(const std::string& file, const std::string& text) const {
    const fs::path path = folder_.path() / file;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  void place(const std::string& mounts, const std::string& groups) const {
    write("proc/self/mountinfo", mounts);
    write("proc/self/cgroup", groups);
  }
  [[nodiscard]] std::optional<double> quota() const { return cpu_quota(folder_.path()); }

  test::TemporaryDirectory folder_;
};

TEST_F(CpuQuota, WithoutFilesThereIsNone) {
  EXPECT_EQ(quota(), std::nullopt);
  place(kSecond, "0::/job\n");
  EXPECT_EQ(quota(), std::nullopt);
}

TEST_F(CpuQuota, TheLeastOfTheGroupAndThoseAboveCounts) {
  place(kSecond, "0::/kubepods/pod7/main\n");
  write("sys/fs/cgroup/kubepods/pod7/main/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), std::nullopt);
  write("sys/fs/cgroup/kubepods/pod7/cpu.max", "150000 100000\n");
  EXPECT_EQ(quota(), 1.5);
  write("sys/fs/cgroup/kubepods/pod7/main/cpu.max", "400000 100000\n");
  EXPECT_EQ(quota(), 1.5);
  write("sys/fs/cgroup/kubepods/cpu.max", "25000 50000\n");
  EXPECT_EQ(quota(), 0.5);
  write("sys/fs/cgroup/kubepods/other/cpu.max", "1000 100000\n");  // Not of this process.
  EXPECT_EQ(quota(), 0.5);
}

TEST_F(CpuQuota, InANamespaceTheMountIsTheGroup) {
  place(kSecond, "0::/\n");
  write("sys/fs/cgroup/cpu.max", "200000 100000\n");
  EXPECT_EQ(quota(), 2);
  place(kSecond, "0::/../sibling\n");  // As a process outside of its namespace's root is shown.
  write("sys/fs/sibling/cpu.max", "100000 100000\n");
  EXPECT_EQ(quota(), 2);
}

TEST_F(CpuQuota, AContainerMayMountItsOwnGroupAlone) {
  place("40 31 0:29 /docker/1 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n",
        "12:pids:/docker/1\n4:cpu:/docker/1/task\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 3);
  write("sys/fs/cgroup/cpu/task/cpu.cfs_quota_us", "50000\n");
  write("sys/fs/cgroup/cpu/task/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 0.5);
  place("40 31 0:29 /docker/1 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n", "4:cpu:/docker/12\n");
  write("sys/fs/cgroup/cpu/2/cpu.cfs_quota_us", "1000\n");
  EXPECT_EQ(quota(), 3);  // Another group whose name begins alike: what is mounted counts.
}

TEST_F(CpuQuota, VersionOneHasMinusOneForNone) {
  place(kFirst, "4:cpu,cpuacct:/slurm/job\n0::/elsewhere\n");
  write("sys/fs/cgroup/cpu,cpuacct/slurm/job/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu,cpuacct/slurm/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), std::nullopt);
  write("sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_quota_us", "250000\n");
  write("sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 2.5);
}

TEST_F(CpuQuota, HybridMountsAreBothRead) {
  place(kFirst + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" +
            "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n",
        "3:cpuset:/a\n4:cpu,cpuacct:/a\n0::/b\n");
  write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "400000\n");
  write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 4);
  write("sys/fs/cgroup/unified/b/cpu.max", "300000 100000\n");
  EXPECT_EQ(quota(), 3);
}

TEST_F(CpuQuota, PathsMayHaveBlanks) {
  place("31 23 0:28 / /sys/fs/c\\040group rw - cgroup2 cgroup2 rw\n", "0::/a b\n");
  write("sys/fs/c group/a b/cpu.max", "100000 100000\n");
  EXPECT_EQ(quota(), 1);
}

TEST_F(CpuQuota, DamagedFilesLimitNothing) {
  for (const char* text : {"", "\n", "garbage", "100000", "100000 0", "-1 100000", "0 100000", "1e5x 100000",
                           "nan 100000", "100000 100000 7", "max", "100000 max"}) {
    SCOPED_TRACE(text);
    place(kSecond, "0::/job\n");
    write("sys/fs/cgroup/job/cpu.max", text);
    EXPECT_EQ(quota(), std::nullopt);
  }
  write("sys/fs/cgroup/job/cpu.max", "100000 100000\n");
  EXPECT_EQ(quota(), 1);
  for (const char* groups : {"", "garbage\n", "0:/job\n", "::\n", "\n\n"}) {
    SCOPED_TRACE(groups);
    place(kSecond, groups);
    EXPECT_EQ(quota(), std::nullopt);
  }
  for (const char* mounts : {"", "garbage\n", "31 23 0:28 / /sys/fs/cgroup rw\n", "- cgroup2 cgroup2 rw\n",
                             "31 23 0:28 / /sys/fs/cgroup rw - cgroup2\n"}) {
    SCOPED_TRACE(mounts);
    place(mounts, "0::/job\n");
    EXPECT_EQ(quota(), std::nullopt);
  }
}

TEST_F(CpuQuota, ThreadsAreTheWholeCpusOfTheQuotaWithinTheAffinity) {
  const std::int64_t cpus = affine_cpus();
  ASSERT_GE(cpus, 1);
  EXPECT_EQ(usable_cpus(folder_.path()), cpus);
  place(kSecond, "0::/\n");
  write("sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_EQ(usable_cpus(folder_.path()), 1);
  write("sys/fs/cgroup/cpu.max", "10000 100000\n");
  EXPECT_EQ(usable_cpus(folder_.path()), 1);
  write("sys/fs/cgroup/cpu.max", "999999999 100000\n");
  EXPECT_EQ(usable_cpus(folder_.path()), cpus);
}

TEST_F(CpuQuota, AffinityIsObeyed) {
  std::int64_t seen = 0;
  std::thread([&] {  // The affinity of a thread of its own, so that the others keep theirs.
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(sched_getcpu()), &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    seen = usable_cpus(folder_.path());
  })
      .join();
  EXPECT_EQ(seen, 1);
}

TEST_F(CpuQuota, LibTorchsThreadsAreLoweredUnlessSomebodyChoseThem) {
  const auto all = static_cast<int>(affine_cpus());
  if (all < 2) GTEST_SKIP() << "one CPU leaves nothing to lower";
  const std::optional<std::string> given = std::getenv("OMP_NUM_THREADS")
                                               ? std::optional<std::string>(std::getenv("OMP_NUM_THREADS"))
                                               : std::nullopt;
  const int before = at::get_num_threads();
  place(kSecond, "0::/\n");
  write("sys/fs/cgroup/cpu.max", "100000 100000\n");
  const auto threads_from = [&](int threads, const char* variable) {
    unsetenv("OMP_NUM_THREADS");
    if (variable != nullptr) setenv("OMP_NUM_THREADS", variable, 1);
    at::set_num_threads(threads);
    keep_threads_within_quota(folder_.path());
    return at::get_num_threads();
  };
  EXPECT_EQ(threads_from(all, nullptr), 1);
  EXPECT_EQ(threads_from(all, ""), 1);
  EXPECT_EQ(threads_from(all, "2"), all);
  EXPECT_EQ(threads_from(all + 1, nullptr), all + 1);
  fs::remove(folder_.path() / "sys/fs/cgroup/cpu.max");
  EXPECT_EQ(threads_from(all, nullptr), all);
  unsetenv("OMP_NUM_THREADS");
  if (given) setenv("OMP_NUM_THREADS", given->c_str(), 1);
  at::set_num_threads(before);
}

}  // namespace
}  // namespace bitrain
