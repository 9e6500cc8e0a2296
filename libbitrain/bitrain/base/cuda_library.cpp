#include <bitrain/base/cuda_library.h>

#include <dlfcn.h>

#include <algorithm>
#include <mutex>
#include <system_error>

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <bitrain/base/error.h>

namespace bitrain {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLibraryName = "libbitrain_cuda.so";

// Folder of the program or library that holds `address`; empty when the loader does not know it.
fs::path folder_of(const void* address) {
  Dl_info info{};
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code ignored;
  const fs::path file = fs::canonical(info.dli_fname, ignored);
  return ignored ? fs::path(info.dli_fname).parent_path() : file.parent_path();
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string loader_error() {
  const char* text = dlerror();
  return text != nullptr ? text : "no reason given";
}

// What keeps the driver from showing a GPU, or nothing. Asks the driver's own C interface: cuda.h is not
// needed, and its CUresult and int arguments are stable.
std::string problem_with_driver(const std::string& driver) {
  void* library = dlopen(driver.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    return to_text("there is no NVIDIA driver (", loader_error(), "): install one, or use device: cpu");
  auto* const init = reinterpret_cast<int (*)(unsigned)>(dlsym(library, "cuInit"));
  auto* const count = reinterpret_cast<int (*)(int*)>(dlsym(library, "cuDeviceGetCount"));
  if (init == nullptr || count == nullptr)
    return to_text(driver, " is no NVIDIA driver (it has no cuInit): install one, or use device: cpu");
  int devices = 0;
  int status = init(0);
  if (status == 0) status = count(&devices);
  if (status != 0 || devices == 0)
    return to_text("the NVIDIA driver shows no GPU (CUDA driver error ", status,
                   "): check nvidia-smi and CUDA_VISIBLE_DEVICES, or use device: cpu");
  return {};  // The library stays open: LibTorch will use it.
}

fs::path our_library(const CudaLocations& locations) {
  const auto found = std::find_if(locations.libraries.begin(), locations.libraries.end(), is_there);
  return found != locations.libraries.end() ? *found : fs::path();
}

void* open_library(const fs::path& path, int flags) {
  void* library = dlopen(path.c_str(), flags);
  if (library == nullptr)
    throw UnsupportedError("device cuda: ", path.string(), " cannot be loaded: ", loader_error());
  return library;
}

// Handle of libbitrain_cuda.so, opened at the first call that succeeds.
void* library_handle() {
  static std::mutex mutex;
  static void* handle = nullptr;
  const std::scoped_lock lock(mutex);
  if (handle != nullptr) return handle;
  const CudaLocations locations = cuda_locations();
  std::string problems;
  for (const std::string& problem : missing_for_cuda(locations)) problems += "\n  - " + problem;
  if (!problems.empty()) throw UnsupportedError("device cuda is not available here:", problems);
  open_library(locations.torch_library, RTLD_NOW | RTLD_GLOBAL);
  handle = open_library(our_library(locations), RTLD_NOW | RTLD_LOCAL);
  return handle;
}

}  // namespace

CudaLocations cuda_locations() {
  CudaLocations locations;
  const fs::path ours = folder_of(reinterpret_cast<const void*>(&cuda_locations));
  for (const char* relative : {".", "../lib", "../bin"})
    locations.libraries.push_back((ours / relative / kLibraryName).lexically_normal());
  locations.torch_library =
      folder_of(reinterpret_cast<const void*>(&c10::GetCPUAllocator)) / "libtorch_cuda.so";
  return locations;
}

std::vector<std::string> missing_for_cuda(const CudaLocations& locations) {
  std::vector<std::string> problems;
  if (std::string problem = problem_with_driver(locations.driver); !problem.empty())
    problems.push_back(std::move(problem));
  if (!is_there(locations.torch_library))
    problems.push_back(to_text("this LibTorch has no CUDA part (no ", locations.torch_library.string(),
                               "): install the CUDA build of the same version"));
  if (our_library(locations).empty()) {
    std::string places;
    for (const fs::path& place : locations.libraries) places += (places.empty() ? "" : ", ") + place.string();
    problems.push_back(to_text("bitrain's CUDA kernels were not built (no ", places,
                               "): build on a machine with nvcc, cmake --preset cuda"));
  }
  return problems;
}

void require_cuda() {
  library_handle();
}

void* cuda_symbol(const char* name) {
  void* symbol = dlsym(library_handle(), name);
  if (symbol == nullptr)
    throw UnsupportedError("device cuda: ", kLibraryName, " has no function ", name,
                           ": it comes from another version of bitrain; build both together");
  return symbol;
}

void* current_cuda_stream() {
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  return guard.getStreamNativeHandle(guard.getStream(guard.getDevice()));
}

void check_cuda(int status, const char* what) {
  if (status == 0) return;
  static auto* const error_string = cuda_function<const char*(int)>("bitrain_cuda_error_string");
  throw StateError("CUDA could not ", what, ": ", error_string(status));
}

}  // namespace bitrain
