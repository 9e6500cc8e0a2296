#include <bitrain/train/peak_memory.h>

#include <sys/resource.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include <c10/core/CachingDeviceAllocator.h>

#include <bitrain/base/cpu_allocator.h>
#include <bitrain/quant/matmul_4bit.h>

namespace bitrain::train {
namespace {

c10::DeviceAllocator* allocator_of(c10::Device device) {
  if (!device.is_cuda()) return nullptr;
  c10::DeviceAllocator* allocator = c10::getDeviceAllocator(device.type());
  return allocator != nullptr && allocator->initialized() ? allocator : nullptr;
}

c10::DeviceIndex index_of(c10::Device device) {
  return device.has_index() ? device.index() : c10::DeviceIndex{0};
}

/// A figure of /proc/self/status in bytes.
std::optional<std::uint64_t> status_bytes(std::string_view name) {
  std::ifstream status("/proc/self/status");
  for (std::string key; status >> key;) {
    std::uint64_t kibibytes = 0;
    if (key == name && status >> kibibytes) return kibibytes * 1024;
    status.clear();
  }
  return std::nullopt;
}

void give_back_free_memory() {
  (void)quant::release_scratch();
  (void)empty_cpu_cache();
#if defined(__GLIBC__)
  (void)malloc_trim(0);
#endif
}

}  // namespace

std::uint64_t peak_memory_bytes(c10::Device device) {
  if (device.is_cuda()) {
    c10::DeviceAllocator* allocator = allocator_of(device);
    if (allocator == nullptr) return 0;
    const auto stats = allocator->getDeviceStats(index_of(device));
    constexpr auto kAggregate = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    return static_cast<std::uint64_t>(stats.reserved_bytes[kAggregate].peak);
  }
  if (const auto peak = status_bytes("VmHWM:")) return *peak;
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<std::uint64_t>(usage.ru_maxrss) * 1024 : 0;
}

void reset_peak_memory(c10::Device device) {
  if (c10::DeviceAllocator* allocator = allocator_of(device)) {
    allocator->emptyCache();
    allocator->resetPeakStats(index_of(device));
  } else if (!device.is_cuda()) {
    give_back_free_memory();
    std::ofstream("/proc/self/clear_refs") << "5";  // Linux: VmHWM starts again at what is resident now.
  }
}

std::uint64_t resident_memory_bytes() {
  return status_bytes("VmRSS:").value_or(0);
}

}  // namespace bitrain::train
