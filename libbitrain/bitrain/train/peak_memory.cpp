#include <bitrain/train/peak_memory.h>

#include <sys/resource.h>

#include <fstream>
#include <string>

#include <c10/core/CachingDeviceAllocator.h>

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

}  // namespace

std::uint64_t peak_memory_bytes(c10::Device device) {
  if (device.is_cuda()) {
    c10::DeviceAllocator* allocator = allocator_of(device);
    if (allocator == nullptr) return 0;
    const auto stats = allocator->getDeviceStats(index_of(device));
    constexpr auto kAggregate = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    return static_cast<std::uint64_t>(stats.reserved_bytes[kAggregate].peak);
  }
  std::ifstream status("/proc/self/status");
  for (std::string key; status >> key;) {
    std::uint64_t kibibytes = 0;
    if (key == "VmHWM:" && status >> kibibytes) return kibibytes * 1024;
    status.clear();
  }
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<std::uint64_t>(usage.ru_maxrss) * 1024 : 0;
}

void reset_peak_memory(c10::Device device) {
  if (c10::DeviceAllocator* allocator = allocator_of(device)) {
    allocator->resetPeakStats(index_of(device));
  } else if (!device.is_cuda()) {
    std::ofstream("/proc/self/clear_refs") << "5";  // Linux: VmHWM starts again at what is resident now.
  }
}

}  // namespace bitrain::train
