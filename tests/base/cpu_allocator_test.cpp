#include <bitrain/base/cpu_allocator.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>

namespace bitrain {
namespace {

constexpr std::int64_t kMebibyte = 1 << 20;

at::Tensor bytes(std::int64_t size) {
  return at::empty({size}, at::kByte);
}

class CpuAllocator : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__)
    GTEST_SKIP() << "tensors are malloc's under AddressSanitizer";
#endif
    install_cpu_allocator();
    empty_cpu_cache();
    reset_peak_cpu_memory();
  }
};

TEST_F(CpuAllocator, ReusesFreedMemory) {
  const void* address = nullptr;
  {
    const at::Tensor first = bytes(10 * kMebibyte);
    address = first.const_data_ptr();
  }
  const std::uint64_t reserved = cpu_memory().reserved;
  const at::Tensor second = bytes(10 * kMebibyte);
  EXPECT_EQ(second.const_data_ptr(), address);
  EXPECT_EQ(cpu_memory().reserved, reserved);
}

TEST_F(CpuAllocator, CountsBytesAndPeaks) {
  const CpuMemory before = cpu_memory();
  {
    const at::Tensor a = bytes(8 * kMebibyte);
    const at::Tensor b = bytes(4 * kMebibyte);
    const at::Tensor small = bytes(100);  // Not a large block.
    EXPECT_EQ(cpu_memory().in_use, before.in_use + 12 * kMebibyte);
  }
  EXPECT_EQ(cpu_memory().in_use, before.in_use);
  EXPECT_EQ(cpu_memory().peak_in_use, before.in_use + 12 * kMebibyte);
  EXPECT_GE(cpu_memory().peak_reserved, cpu_memory().peak_in_use);
  reset_peak_cpu_memory();
  EXPECT_EQ(cpu_memory().peak_in_use, before.in_use);
}

TEST_F(CpuAllocator, GivesFreeMemoryBack) {
  { const at::Tensor a = bytes(64 * kMebibyte).fill_(1); }
  const std::uint64_t reserved = cpu_memory().reserved;
  EXPECT_GE(empty_cpu_cache(), static_cast<std::uint64_t>(60 * kMebibyte));
  EXPECT_LE(cpu_memory().reserved + 60 * kMebibyte, reserved);
  EXPECT_EQ(empty_cpu_cache(), 0U);
  const at::Tensor again = at::full({64 * kMebibyte}, 7, at::kByte);  // The addresses are still good.
  EXPECT_EQ(again[64 * kMebibyte - 1].item<int>(), 7);
}

TEST_F(CpuAllocator, NeighboursMerge) {
  const void* address = nullptr;
  {
    const at::Tensor a = bytes(3 * kMebibyte);
    const at::Tensor b = bytes(3 * kMebibyte);
    const at::Tensor c = bytes(3 * kMebibyte);
    address = a.const_data_ptr();
  }
  EXPECT_EQ(bytes(9 * kMebibyte).const_data_ptr(), address);
}

TEST_F(CpuAllocator, AlignsEverySize) {
  std::vector<at::Tensor> kept;
  for (const std::int64_t size : {1, 63, 4097, 262143, 262144, 262145, 3000001}) {
    kept.push_back(bytes(size));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(kept.back().const_data_ptr()) % 64, 0U) << size;
  }
  EXPECT_EQ(bytes(0).numel(), 0);
}

TEST_F(CpuAllocator, ServesTheRawInterface) {
  c10::Allocator* allocator = c10::GetCPUAllocator();
  for (const std::size_t size : {std::size_t{100}, std::size_t{5} << 20}) {
    const std::uint64_t in_use = cpu_memory().in_use;
    void* block = allocator->raw_allocate(size);
    std::memset(block, 1, size);
    allocator->raw_deallocate(block);
    EXPECT_EQ(cpu_memory().in_use, in_use);
  }
}

TEST_F(CpuAllocator, TooMuchIsAnErrorNotACrash) {
  EXPECT_THROW((void)bytes(std::int64_t{1} << 60), IoError);
}

TEST_F(CpuAllocator, BlocksNeverOverlapOnAnyThread) {
  const std::uint64_t in_use = cpu_memory().in_use;
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([seed, &failures] {
      std::mt19937 generator(seed);
      std::vector<at::Tensor> blocks;
      std::vector<int> marks;
      const auto check = [&](std::size_t i) {
        const auto* data = blocks[i].const_data_ptr<std::uint8_t>();
        const auto last = static_cast<std::size_t>(blocks[i].numel()) - 1;
        if (data[0] != marks[i] || data[last] != marks[i] || data[last / 2] != marks[i]) ++failures;
      };
      for (int step = 0; step < 400; ++step) {
        if (blocks.size() > 12 || (!blocks.empty() && generator() % 3 == 0)) {
          const std::size_t i = generator() % blocks.size();
          check(i);
          blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(i));
          marks.erase(marks.begin() + static_cast<std::ptrdiff_t>(i));
        } else {
          marks.push_back(static_cast<int>(generator() % 256));
          blocks.push_back(bytes(200'000 + static_cast<std::int64_t>(generator() % 1'500'000)));
          std::memset(blocks.back().mutable_data_ptr(), marks.back(), blocks.back().nbytes());
        }
        if (step % 97 == 0) empty_cpu_cache();  // Must not touch what is in use.
      }
      for (std::size_t i = 0; i < blocks.size(); ++i) check(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures.load(), 0);
  EXPECT_EQ(cpu_memory().in_use, in_use);
}

}  // namespace
}  // namespace bitrain
