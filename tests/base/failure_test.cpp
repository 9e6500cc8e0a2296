#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <bitrain/base/cpu_allocator.h>
#include <bitrain/base/failure.h>

namespace bitrain {
namespace {

bool has(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

TEST(Failure, OwnErrorsSayWhatTheySay) {
  const Failure failure = failure_of(ConfigError("r must be at least 1"));
  EXPECT_EQ(failure.kind, ErrorKind::kConfig);
  EXPECT_EQ(failure.message, "r must be at least 1");
}

TEST(Failure, MissingMemoryIsARefusalOfTheSystem) {
  for (const Failure& failure :
       {failure_of(std::bad_alloc()), failure_of(std::length_error("vector::reserve")),
        failure_of(std::bad_array_new_length())}) {
    EXPECT_EQ(failure.kind, ErrorKind::kIo);
    EXPECT_TRUE(has(failure.message, "out of memory")) << failure.message;
    EXPECT_TRUE(has(failure.message, "micro_batch_rows")) << failure.message;
    EXPECT_FALSE(has(failure.message, "vector")) << failure.message;
  }
}

TEST(Failure, LibTorchsRequestsAndStacksAreCut) {
  try {
    TORCH_INTERNAL_ASSERT(1 + 1 == 3, "the sizes are ", 7);
  } catch (const c10::Error& error) {
    const Failure failure = failure_of(error);
    EXPECT_FALSE(failure.kind.has_value());
    EXPECT_EQ(failure.message, "a check inside LibTorch failed: 1 + 1 == 3: the sizes are 7");
    // The same text at second hand, with its stack.
    EXPECT_EQ(failure_of(std::runtime_error(error.what())).message, failure.message);
  }
  try {
    TORCH_CHECK(false, "sizes differ");
  } catch (const c10::Error& error) {
    EXPECT_EQ(failure_of(error).message, "sizes differ");
    EXPECT_EQ(failure_of(std::runtime_error(error.what())).message, "sizes differ");
  }
}

TEST(Failure, NobodyIsAskedToReportToOthers) {
  const auto message = [](const std::string& text) { return failure_of(std::runtime_error(text)).message; };
  try {
    TORCH_CHECK(1 + 1 == 3);  // Without words of its own.
  } catch (const c10::Error& error) {
    EXPECT_EQ(failure_of(error).message, "Expected 1 + 1 == 3 to be true, but got false.");
  }
  EXPECT_EQ(
      message("cannot do x. Please file an issue to PyTorch at "
              "https://github.com/pytorch/pytorch/issues/new?template=a.yml so that we can do it. Sizes: 3"),
      "cannot do x. Sizes: 3");
  EXPECT_EQ(
      message("x, which is not yet supported. Please file a feature request issue in PyTorch GitHub repo."),
      "x, which is not yet supported.");
  EXPECT_EQ(message("x is broken, please report a bug to PyTorch."), "x is broken");
  EXPECT_EQ(message("please report a bug to PyTorch"), "");
  EXPECT_EQ(message("Please use float32. It is (please see the manual) quicker"),
            "Please use float32. It is (please see the manual) quicker");
  EXPECT_EQ(
      message(
          "Could not run 'aten::x' with arguments from the 'SparseCPU' backend. This could be because the "
          "operator doesn't exist for this backend, or was omitted. If you are a Facebook employee ..."),
      "Could not run 'aten::x' with arguments from the 'SparseCPU' backend.");
}

TEST(Failure, LibTorchsOwnAllocatorIsUnderstood) {
  try {
    TORCH_CHECK(false,
                "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory: you tried to ",
                "allocate 99 bytes.");
  } catch (const c10::Error& error) {
    const Failure failure = failure_of(error);
    EXPECT_EQ(failure.kind, ErrorKind::kIo);
    EXPECT_TRUE(has(failure.message, "tried to allocate 99 bytes")) << failure.message;
    EXPECT_FALSE(has(failure.message, "enforce fail")) << failure.message;
  }
}

TEST(Failure, AGpuOutOfMemorySaysNothingOfTheHosts) {
  try {
    TORCH_CHECK_WITH(OutOfMemoryError, false,
                     "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...");
  } catch (const c10::Error& error) {
    const Failure failure = failure_of(error);
    EXPECT_EQ(failure.kind, ErrorKind::kIo);
    EXPECT_TRUE(has(failure.message, "Tried to allocate 20.00 GiB")) << failure.message;
    EXPECT_TRUE(has(failure.message, "micro_batch_rows")) << failure.message;
    EXPECT_FALSE(has(failure.message, "this process holds")) << failure.message;
  }
}

TEST(Failure, RefusalsOfTheSystemAreSuch) {
  const Failure file = failure_of(std::filesystem::filesystem_error(
      "cannot rename", "/nowhere", std::make_error_code(std::errc::permission_denied)));
  EXPECT_EQ(file.kind, ErrorKind::kIo);
  EXPECT_TRUE(has(file.message, "/nowhere")) << file.message;
  const Failure threads =
      failure_of(std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again)));
  EXPECT_EQ(threads.kind, ErrorKind::kIo);
  EXPECT_TRUE(has(threads.message, "another thread")) << threads.message;
  EXPECT_TRUE(has(threads.message, "ulimit -u")) << threads.message;
}

TEST(Failure, AnythingElseIsUnexpected) {
  EXPECT_FALSE(failure_of(std::logic_error("a < b")).kind.has_value());
  EXPECT_EQ(failure_of(std::logic_error("a < b")).message, "a < b");
}

/// The message of what `work` throws in a child process whose addresses are limited.
template <class Work>
std::string in_little_memory(const Work& work) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    const rlimit limit{rlim_t{64} << 20, rlim_t{64} << 20};  // Less than there is: nothing more is given.
    setrlimit(RLIMIT_AS, &limit);
    try {
      work();
    } catch (const std::exception& error) {
      const std::string message = failure_of(error).message;
      (void)!write(pipe_ends[1], message.data(), message.size());
    }
    _exit(0);
  }
  close(pipe_ends[1]);
  std::string message;
  char buffer[4096];
  for (ssize_t got = 0; (got = read(pipe_ends[0], buffer, sizeof buffer)) > 0;)
    message.append(buffer, static_cast<std::size_t>(got));
  close(pipe_ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  return message;
}

#ifndef __SANITIZE_ADDRESS__
TEST(Failure, ATensorThatFindsNoMemoryNamesItsSizeAndTheLimit) {
  install_cpu_allocator();
  const std::string message = in_little_memory([] { (void)at::empty({std::int64_t{1} << 44}, at::kFloat); });
  for (const char* part : {"out of memory", "refused 64.0 TiB", "of at most 64.0 MiB", "ulimit -v",
                           "a tensor", "micro_batch_rows"})
    EXPECT_TRUE(has(message, part)) << part << " in: " << message;
}

TEST(Failure, AVectorThatFindsNoMemoryIsAMessageToo) {
  const std::string message = in_little_memory([] { std::vector<char> big(std::size_t{1} << 32, 'x'); });
  EXPECT_TRUE(has(message, "out of memory")) << message;
  EXPECT_TRUE(has(message, "of at most 64.0 MiB")) << message;
}
#endif

}  // namespace
}  // namespace bitrain
