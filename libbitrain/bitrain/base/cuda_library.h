#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace bitrain {

/// Where the parts of CUDA support are looked for. The defaults are the real ones; tests pass others.
struct CudaLocations {
  std::string driver = "libcuda.so.1";           ///< Opened through the system's search path.
  std::vector<std::filesystem::path> libraries;  ///< Candidates for libbitrain_cuda.so, first found wins.
  std::filesystem::path torch_library;           ///< libtorch_cuda.so, beside libtorch_cpu.so.
};
[[nodiscard]] CudaLocations cuda_locations();

/// What keeps `device: cuda` from working here, one sentence each with what to do; empty when nothing does.
/// Looks at the driver, the GPUs it shows, and the files; loads neither LibTorch's nor our CUDA library.
[[nodiscard]] std::vector<std::string> missing_for_cuda(const CudaLocations& locations = cuda_locations());

/// Makes CUDA tensors usable: opens libtorch_cuda.so, so that its operators register, and libbitrain_cuda.so,
/// our own kernels. Call it before the first CUDA tensor is made; later calls cost nothing. Runs on the CPU
/// never load either. Throws UnsupportedError that lists everything that is missing; the process can go on.
void require_cuda();

/// Address of a C function of libbitrain_cuda.so. Calls require_cuda.
[[nodiscard]] void* cuda_symbol(const char* name);

/// The same with its type: `auto* f = cuda_function<decltype(bitrain_cuda_x)>("bitrain_cuda_x")`.
template <class Function>
[[nodiscard]] Function* cuda_function(const char* name) {
  return reinterpret_cast<Function*>(cuda_symbol(name));
}

/// LibTorch's current stream of the current device, a cudaStream_t: what kernels are launched on.
[[nodiscard]] void* current_cuda_stream();

/// Throws StateError naming `what` could not be done and why unless `status`, a cudaError_t, is 0.
void check_cuda(int status, const char* what);

}  // namespace bitrain
