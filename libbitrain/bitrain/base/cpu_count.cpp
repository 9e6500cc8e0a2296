#include <bitrain/base/cpu_count.h>

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <ATen/Parallel.h>

#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>

namespace bitrain {
namespace fs = std::filesystem;
namespace {

/// A hierarchy of control groups as it is mounted: `top` is the group seen at `point`.
struct Mount {
  bool second_version = false;
  std::string top;
  std::string point;
};

std::vector<std::string> lines_in(const fs::path& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

/// mountinfo writes blanks, tabs and backslashes of paths as "\040".
std::string unescaped(const std::string& text) {
  std::string plain;
  const auto digit = [&](std::size_t at) { return text[at] >= '0' && text[at] <= '7'; };
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

bool lists(const std::string& names, std::string_view name) {
  const std::vector<std::string> parts = split(names, ',');
  return std::find(parts.begin(), parts.end(), name) != parts.end();
}

/// Those that can limit the CPU. A line is "36 35 0:30 /top /point rw,nosuid shared:4 - cgroup2 cgroup2 rw".
std::vector<Mount> mounts_of(const fs::path& root) {
  std::vector<Mount> mounts;
  for (const std::string& line : lines_in(root / "proc/self/mountinfo")) {
    const std::vector<std::string> words = split(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 5 || words.end() - dash < 4) continue;
    const std::string& type = dash[1];
    if (type == "cgroup2" || (type == "cgroup" && lists(dash[3], "cpu")))
      mounts.push_back({type == "cgroup2", unescaped(words[3]), unescaped(words[4])});
  }
  return mounts;
}

std::optional<double> number_in(std::string_view text) {
  text = trim(text);
  double value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::optional<double> ratio(const std::optional<double>& quota, const std::optional<double>& period) {
  if (!quota || !period || !(*quota > 0) || !(*period > 0)) return std::nullopt;
  return *quota / *period;
}

/// The quota of one group; "max" and -1 are none.
std::optional<double> quota_in(const fs::path& group, bool second_version) {
  const auto first_line = [&](const char* name) {
    const std::vector<std::string> lines = lines_in(group / name);
    return lines.empty() ? std::string() : lines.front();
  };
  if (!second_version)
    return ratio(number_in(first_line("cpu.cfs_quota_us")), number_in(first_line("cpu.cfs_period_us")));
  const std::vector<std::string> words = split(first_line("cpu.max"), ' ');
  return words.size() == 2 ? ratio(number_in(words[0]), number_in(words[1])) : std::nullopt;
}

/// The group below the mount that `path` of /proc/self/cgroup names. A path that leads out of what is mounted
/// (another namespace's) names the mounted group itself.
fs::path below(const Mount& mount, const std::string& path) {
  const std::string top = mount.top == "/" ? "" : mount.top;
  if (!starts_with(path + "/", top + "/")) return {};
  const fs::path rest = fs::path(path.substr(top.size())).relative_path();
  return std::find(rest.begin(), rest.end(), "..") == rest.end() ? rest : fs::path();
}

void lower(std::optional<double>& least, const std::optional<double>& quota) {
  if (quota) least = std::min(least.value_or(*quota), *quota);
}

}  // namespace

std::optional<double> cpu_quota(const fs::path& root) {
  std::optional<double> least;
  const std::vector<Mount> mounts = mounts_of(root);
  for (const std::string& line : lines_in(root / "proc/self/cgroup")) {  // "4:cpu,cpuacct:/a/b", "0::/a/b"
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool second_version = controllers.empty();
    if (!second_version && !lists(controllers, "cpu")) continue;
    for (const Mount& mount : mounts) {
      if (mount.second_version != second_version) continue;
      const fs::path point = root / fs::path(mount.point).relative_path();
      for (fs::path group = below(mount, line.substr(second + 1)); !group.empty();
           group = group.parent_path())
        lower(least, quota_in(point / group, second_version));
      lower(least, quota_in(point, second_version));
    }
  }
  return least;
}

std::int64_t affine_cpus() {
  for (int most = CPU_SETSIZE; most <= 1 << 20; most *= 2) {  // The kernel may know of more than a cpu_set_t.
    cpu_set_t* set = CPU_ALLOC(static_cast<std::size_t>(most));
    if (set == nullptr) break;
    const std::size_t size = CPU_ALLOC_SIZE(static_cast<std::size_t>(most));
    const int count = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return std::max(1U, std::thread::hardware_concurrency());
}

std::int64_t usable_cpus(const fs::path& root) {
  const std::int64_t cpus = affine_cpus();
  const std::optional<double> quota = cpu_quota(root);
  if (!quota || *quota >= static_cast<double>(cpus)) return cpus;
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(*quota));
}

void keep_threads_within_quota(const fs::path& root) {
  for (const char* name : {"OMP_NUM_THREADS", "MKL_NUM_THREADS"})
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') return;
  const std::int64_t threads = usable_cpus(root);
  if (at::get_num_threads() != affine_cpus() || threads >= at::get_num_threads()) return;
  log_debug("the CPU quota of this control group is that of ", threads, " threads, not ",
            at::get_num_threads());
  at::set_num_threads(static_cast<int>(threads));
}

}  // namespace bitrain
