#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/train/checkpoint.h>
#include <bitrain/train/signals.h>
#include "train/tiny_run.h"

// Runs that are killed, interrupted, or run out of disk. They need child processes, and a process that has
// computed a gradient cannot fork one that does (autograd and OpenMP have threads): so each test here starts
// this very program again with only its "Child" part, which forks before it computes.
namespace bitrain::train {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryFolder;
using testing::tiny_options;
using testing::TinyRun;

constexpr const char* kFolderVariable = "BITRAIN_TEST_FOLDER";

/// Runs one test of this program in a fresh process, with `folder` in its environment; its exit status.
int run_in_fresh_process(const std::string& test, const fs::path& folder) {
  const std::string filter = "--gtest_filter=" + test;
  const std::string program = fs::read_symlink("/proc/self/exe").string();
  setenv(kFolderVariable, folder.c_str(), 1);
  setenv("OMP_NUM_THREADS", "1", 1);
  const char* arguments[] = {program.c_str(), filter.c_str(), nullptr};
  pid_t child = 0;
  const int error =
      posix_spawn(&child, program.c_str(), nullptr, nullptr, const_cast<char**>(arguments), environ);
  unsetenv(kFolderVariable);
  unsetenv("OMP_NUM_THREADS");
  if (error != 0) return -1;
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// The folder of a "Child" test, or skips it: it is not meant to run by itself.
#define CHILD_FOLDER(name)                                            \
  const char* folder_text = std::getenv(kFolderVariable);             \
  if (folder_text == nullptr) GTEST_SKIP() << "part of another test"; \
  const fs::path name = folder_text

enum class When { kBegin, kStep, kSave };

/// Tells the parent through a pipe that a run has begun, has done a step, or has written a checkpoint.
class Announce : public Callback {
 public:
  Announce(int descriptor, When when) : descriptor_(descriptor), when_(when) {}
  void on_begin(const RunInfo&) override { announce(When::kBegin); }
  void on_step(const StepRecord&) override { announce(When::kStep); }
  void on_save(std::int64_t, const std::string&) override { announce(When::kSave); }

 private:
  void announce(When when) {
    if (when != when_ || std::exchange(announced_, true)) return;
    EXPECT_EQ(write(descriptor_, "b", 1), 1);
  }

  int descriptor_;
  When when_;
  bool announced_ = false;
};

/// Forks; the child runs `work` and exits with what it returns, or 1 on an exception. Returns once it has
/// announced itself or ended.
pid_t start_child(const std::function<int(int announce)>& work) {
  int ends[2] = {};
  if (pipe(ends) != 0) return -1;
  const pid_t pid = fork();
  if (pid == 0) {
    close(ends[0]);
    try {
      _exit(work(ends[1]));
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
      _exit(1);
    }
  }
  close(ends[1]);
  char byte = 0;
  (void)!read(ends[0], &byte, 1);
  close(ends[0]);
  return pid;
}

int wait_for(pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// At a constant rate, so that runs of different lengths are the same as far as both go.
TrainOptions saving_options(std::int64_t steps, std::int64_t save_every) {
  TrainOptions options = tiny_options(steps);
  options.schedule.type = "constant";
  options.save_every = save_every;
  return options;
}

/// Trains in `folder` and leaves the losses of the whole curve in `losses`.
int train_and_note(const fs::path& folder, const TrainOptions& options, const fs::path& losses, int announce,
                   When when = When::kBegin) {
  set_log_level(LogLevel::kError);
  TinyRun tiny;
  tiny.parts.callbacks.push_back(std::make_shared<Announce>(announce, when));
  const TrainResult result = tiny.run(options, folder);
  std::ofstream file(losses);
  file.precision(17);
  for (const double loss : result.curve.loss) file << loss << "\n";
  return result.interrupted() ? 128 + result.signal : 0;
}

constexpr int kKills = 50;

void kill_again_and_again(const fs::path& folder, bool in_background) {
  const auto options = [&](std::int64_t steps, std::int64_t save_every) {
    TrainOptions saving = saving_options(steps, save_every);
    saving.save_in_background = in_background;
    return saving;
  };
  const fs::path run = folder / "run";
  RandomStream stream(5, "kill");
  int half_written = 0;
  for (int kill_number = 0; kill_number < kKills; ++kill_number) {
    // Half of the kills fall around the first checkpoint of a process, half around its second.
    const When when = kill_number % 2 == 0 ? When::kBegin : When::kSave;
    const pid_t pid = start_child(
        [&](int fd) { return train_and_note(run, options(1000000, 1), folder / "unused", fd, when); });
    usleep(static_cast<useconds_t>(1000 + stream.below(30000)));
    kill(pid, SIGKILL);
    ASSERT_EQ(wait_for(pid), 128 + SIGKILL) << "the run could not go on after kill " << kill_number;
    for (const fs::directory_entry& entry : fs::directory_iterator(run)) {
      const std::string name = entry.path().filename().string();
      if (name.find("checkpoint-") != 0) continue;
      if (name.find(".tmp-") != std::string::npos) {
        ++half_written;
      } else {
        ASSERT_TRUE(is_complete_checkpoint(entry.path())) << name << " after kill " << kill_number;
      }
    }
  }
  EXPECT_GT(half_written, 0) << "no kill hit a checkpoint in the making: the test shows nothing";
  const std::int64_t steps = CheckpointStore(run).newest().value_or(0) + 3;
  EXPECT_GT(steps, 3) << "no checkpoint was finished between kills: the test shows nothing";
  const pid_t last =
      start_child([&](int fd) { return train_and_note(run, options(steps, steps), folder / "killed", fd); });
  EXPECT_EQ(wait_for(last), 0);
  const pid_t whole = start_child([&](int fd) {
    return train_and_note(folder / "whole", saving_options(steps, 0), folder / "uninterrupted", fd);
  });
  EXPECT_EQ(wait_for(whole), 0);
}

TEST(KillChild, Loop) {
  CHILD_FOLDER(folder);
  kill_again_and_again(folder, false);
}

TEST(KillChild, BackgroundLoop) {
  CHILD_FOLDER(folder);
  kill_again_and_again(folder, true);
}

class Kill : public ::testing::TestWithParam<const char*> {};

TEST_P(Kill, FiftyTimesDuringCheckpointsLosesNothing) {
  const TemporaryFolder folder;
  ASSERT_EQ(run_in_fresh_process(GetParam(), folder.path()), 0);
  const std::string killed = io::read_file(folder.path() / "killed");
  EXPECT_FALSE(killed.empty());
  EXPECT_EQ(killed, io::read_file(folder.path() / "uninterrupted"));
  // Nothing is left over: two checkpoints and no half-written folder.
  int checkpoints = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder.path() / "run")) {
    const std::string name = entry.path().filename().string();
    EXPECT_EQ(name.find(".tmp-"), std::string::npos) << name;
    if (name.find("checkpoint-") == 0) ++checkpoints;
  }
  EXPECT_EQ(checkpoints, 2);
}

INSTANTIATE_TEST_SUITE_P(Saves, Kill, ::testing::Values("KillChild.Loop", "KillChild.BackgroundLoop"));

/// Ten milliseconds a step, so that a signal falls into the run.
TinyRun& slowed(TinyRun& tiny, int announce) {
  tiny.parts.callbacks.push_back(std::make_shared<Announce>(announce, When::kStep));
  auto loss = tiny.parts.loss;
  tiny.parts.loss = [loss](const Batch& batch, const nn::ForwardContext& context) {
    usleep(5000);
    return loss(batch, context);
  };
  return tiny;
}

TEST(SignalChild, Loop) {
  CHILD_FOLDER(folder);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) {
    const fs::path run = folder / ("run-" + std::to_string(number));
    const pid_t pid = start_child([&](int fd) {
      TinyRun tiny;
      const TrainResult result = slowed(tiny, fd).run(saving_options(1000, 0), run);
      return result.interrupted() ? 128 + result.signal : 0;
    });
    kill(pid, number);
    EXPECT_EQ(wait_for(pid), 128 + number);
    const std::optional<std::int64_t> saved = CheckpointStore(run).newest();
    ASSERT_TRUE(saved.has_value());
    EXPECT_LT(*saved, 1000);
    // It goes on from there, and matches a run that nobody touched.
    const std::int64_t until = *saved + 5;
    EXPECT_EQ(wait_for(start_child([&](int fd) {
                return train_and_note(run, saving_options(until, 0), folder / "resumed", fd);
              })),
              0);
    const fs::path other = folder / ("whole-" + std::to_string(number));
    EXPECT_EQ(wait_for(start_child([&](int fd) {
                return train_and_note(other, saving_options(until, 0), folder / "whole", fd);
              })),
              0);
    EXPECT_EQ(io::read_file(folder / "resumed"), io::read_file(folder / "whole"));
  }
  // A step that hangs: the second signal ends it at once, in the way of signals.
  const pid_t pid = start_child([&](int fd) {
    TinyRun tiny;
    tiny.parts.loss = [fd](const Batch&, const nn::ForwardContext&) -> LossSum {
      EXPECT_EQ(write(fd, "b", 1), 1);  // From within the step: before it, one signal is enough.
      for (;;) usleep(1000);
    };
    (void)tiny.run(saving_options(3, 0), folder / "hanging");
    return 0;
  });
  // Warnings may come before it, and more than once.
  for (const int number : {SIGHUP, SIGUSR1, SIGHUP, SIGUSR1, SIGINT, SIGHUP}) kill(pid, number);
  usleep(50000);
  EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0) << "the first signal must wait for the step";
  kill(pid, SIGINT);
  int status = 0;
  waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
}

TEST(Signal, EndsTheRunWithACheckpointAndTheSecondKills) {
  const TemporaryFolder folder;
  EXPECT_EQ(run_in_fresh_process("SignalChild.Loop", folder.path()), 0);
}

/// The figures of an evaluation.
LanguageFigures any_figures() {
  return {{"en", {{"loss_per_token", 1.0}}}, {"es", {{"loss_per_token", 1.0}}}};
}

// The last evaluation may take long: a signal in it must not be lost, with all that is trained after it.
TEST(Signal, AfterTheLastStepEndsTheRunToo) {
  const TemporaryFolder folder;
  const TrainOptions options = saving_options(3, 0);
  TinyRun first;
  first.parts.evaluate = [](std::int64_t step) {
    if (step == 3) raise(SIGTERM);
    return any_figures();
  };
  EXPECT_EQ(first.run(options, folder.path()).signal, SIGTERM);
  EXPECT_EQ(CheckpointStore(folder.path()).newest(), 3);
  TinyRun second;
  second.parts.evaluate = [](std::int64_t step) {
    ADD_FAILURE() << "step " << step << " is evaluated again";
    return any_figures();
  };
  const TrainResult resumed = second.run(options, folder.path());
  EXPECT_FALSE(resumed.interrupted());
  EXPECT_EQ(resumed.resumed_from, 3);
  EXPECT_EQ(resumed.evaluations.size(), 1U);
  TinyRun whole;
  EXPECT_EQ(resumed.curve.loss, whole.run(options).curve.loss);
}

/// Sends SIGTERM after a step.
class SignalAfter : public Callback {
 public:
  explicit SignalAfter(std::int64_t step) : step_(step) {}
  void on_step(const StepRecord& record) override {
    if (record.step == step_) raise(SIGTERM);
  }

 private:
  std::int64_t step_;
};

// The stage's folder keeps that checkpoint: it must be the one of a run that nobody touched.
TEST(Signal, BeforeAnEvaluationLeavesItOutOfNoCheckpoint) {
  const TemporaryFolder folder;
  TrainOptions options = saving_options(6, 0);
  options.keep_best = true;
  options.eval_every = 3;
  const auto better_and_better = [](std::int64_t step) {
    const double loss = 10.0 - static_cast<double>(step);
    return LanguageFigures{{"en", {{"loss_per_token", loss}}}};
  };
  TinyRun first;
  first.parts.evaluate = better_and_better;
  first.parts.callbacks.push_back(std::make_shared<SignalAfter>(6));
  EXPECT_EQ(first.run(options, folder.path()).signal, SIGTERM);
  TinyRun second;
  second.parts.evaluate = better_and_better;
  EXPECT_EQ(second.run(options, folder.path()).resumed_from, 6);
  const io::Json state = io::read_json(folder.path() / "checkpoint-6" / "trainer_state.json");
  EXPECT_EQ(state["best_global_step"], 6);
  EXPECT_EQ(state["bitrain"]["evaluations"].size(), 2U);
}

int g_heard = 0;

TEST(Signal, ThatNobodyObeyedComesAgain) {
  const auto before = signal(SIGUSR1, [](int) { ++g_heard; });
  {
    const SignalWatch watch;
    raise(SIGUSR1);
    EXPECT_EQ(SignalWatch::received(), SIGUSR1);
    EXPECT_EQ(g_heard, 0);
  }
  EXPECT_EQ(g_heard, 1);
  {
    const SignalWatch watch;
    raise(SIGUSR1);
    SignalWatch::obey();
  }
  EXPECT_EQ(g_heard, 1);
  // An error must be told: a signal that comes again could end the process before.
  EXPECT_THROW(
      {
        const SignalWatch watch;
        raise(SIGUSR1);
        throw StateError("an error");
      },
      StateError);
  EXPECT_EQ(g_heard, 1);
  signal(SIGUSR1, before);
}

/// What a run does whose disk fills up after the checkpoint of step 2: an error that says so; and once there
/// is room again it goes on.
void fill_and_go_on(const fs::path& run, const std::function<void()>& fill,
                    const std::function<void()>& free) {
  class Filler : public Callback {
   public:
    explicit Filler(std::function<void()> fill) : fill_(std::move(fill)) {}
    void on_save(std::int64_t step, const std::string&) override {
      if (step == 2) fill_();
    }

   private:
    std::function<void()> fill_;
  };
  const TrainOptions options = saving_options(6, 2);
  TinyRun first;
  first.parts.callbacks.push_back(std::make_shared<Filler>(fill));
  try {
    (void)first.run(options, run);
    ADD_FAILURE() << "the disk was full";
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), ::testing::ContainsRegex("full|No space left|File too large|too large"));
  }
  EXPECT_EQ(CheckpointStore(run).newest(), 2);
  free();
  TinyRun second;
  const TrainResult resumed = second.run(options, run);
  EXPECT_EQ(resumed.resumed_from, 2);
  TinyRun through;
  EXPECT_EQ(resumed.curve.loss, through.run(saving_options(6, 0)).curve.loss);
}

TEST(FullDisk, FileSizeLimitIsAClearErrorAndTheOldCheckpointStays) {
  const TemporaryFolder folder;
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto previous = signal(SIGXFSZ, SIG_IGN);
  fill_and_go_on(
      folder.path(),
      [&] {
        const rlimit small{2048, before.rlim_max};
        setrlimit(RLIMIT_FSIZE, &small);
      },
      [&] { setrlimit(RLIMIT_FSIZE, &before); });
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, previous);
}

/// A file system of 256 KiB at `path`.
class SmallDisk {
 public:
  explicit SmallDisk(fs::path path)
      : path_(std::move(path)), mounted_(mount("tmpfs", path_.c_str(), "tmpfs", 0, "size=256k") == 0) {}
  ~SmallDisk() {
    if (mounted_) umount(path_.c_str());
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  [[nodiscard]] bool mounted() const { return mounted_; }

 private:
  fs::path path_;
  bool mounted_;
};

TEST(FullDisk, NoSpaceLeftIsAClearErrorAndTheOldCheckpointStays) {
  const TemporaryFolder folder;
  const SmallDisk disk(folder.path());
  if (!disk.mounted()) GTEST_SKIP() << "only root may mount a small file system";
  const fs::path filler = folder.path() / "filler";
  fill_and_go_on(
      folder.path() / "run",
      [&] {
        std::ofstream file(filler, std::ios::binary);
        const std::string block(4096, 'x');
        while (file << block << std::flush) {
        }
      },
      [&] { fs::remove(filler); });
}

}  // namespace
}  // namespace bitrain::train
