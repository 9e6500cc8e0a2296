# The kernels are written once (files *_isa.cpp) and compiled once for each instruction set; kernels/cpu_kernels.cpp picks
# a table at run time. -fno-math-errno lets loops with sqrt vectorise; nothing here relaxes the order of sums.

set(kernel_folder ${PROJECT_SOURCE_DIR}/libbitrain/bitrain/kernels)
file(GLOB isa_sources CONFIGURE_DEPENDS ${kernel_folder}/*_isa.cpp)

function(bitrain_add_isa isa)
  add_library(bitrain_kernels_${isa} OBJECT ${isa_sources})
  target_include_directories(bitrain_kernels_${isa} PRIVATE ${PROJECT_SOURCE_DIR}/libbitrain)
  target_compile_definitions(bitrain_kernels_${isa} PRIVATE BITRAIN_ISA=${isa} BITRAIN_ISA_${isa}=1)
  target_compile_options(bitrain_kernels_${isa} PRIVATE -O3 -fno-math-errno -fno-trapping-math -ffp-contract=off -fopenmp ${ARGN})
  target_link_libraries(bitrain_kernels_${isa} PRIVATE bitrain_options)
  target_sources(bitrain_kernels PRIVATE $<TARGET_OBJECTS:bitrain_kernels_${isa}>)
  target_compile_definitions(bitrain_kernels PUBLIC BITRAIN_HAVE_ISA_${isa}=1)
endfunction()

if(isa_sources AND TARGET bitrain_kernels)
  bitrain_add_isa(generic)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    bitrain_add_isa(avx2 -march=x86-64-v3)
    bitrain_add_isa(avx512 -march=x86-64-v4 -mavx512bf16 -mavx512vbmi -mavx512vnni -mprefer-vector-width=512)
  endif()
endif()

# The CUDA library is opened at run time when a GPU is asked for, so that CPU runs never load CUDA.
set(build_cuda OFF)
if(NOT BITRAIN_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(build_cuda ON)
  elseif(BITRAIN_CUDA STREQUAL "ON")
    message(FATAL_ERROR "BITRAIN_CUDA=ON, but no nvcc was found")
  endif()
endif()
file(GLOB cuda_sources CONFIGURE_DEPENDS ${kernel_folder}/*.cu)
if(build_cuda AND cuda_sources)
  set(CMAKE_CUDA_ARCHITECTURES 80 90)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  add_library(bitrain_cuda SHARED ${cuda_sources})
  target_include_directories(bitrain_cuda PRIVATE ${PROJECT_SOURCE_DIR}/libbitrain)
  set_target_properties(bitrain_cuda PROPERTIES CUDA_ARCHITECTURES "80;90" CUDA_RUNTIME_LIBRARY Shared
    CUDA_STANDARD 17)  # CMake 3.25 does not know that nvcc 13 has C++20.
  target_link_libraries(bitrain_cuda PRIVATE CUDA::cudart)
  add_dependencies(bitrain_kernels bitrain_cuda)  # Opened at run time: whoever builds one must build the other.

  # The same for NCCL, with the header of the wheel that LibTorch was built with.
  find_path(NCCL_INCLUDE_DIR nccl.h PATHS ${TORCH_SITE_PACKAGES}/nvidia/nccl/include NO_DEFAULT_PATH)
  find_library(NCCL_LIBRARY libnccl.so.2 PATHS ${TORCH_SITE_PACKAGES}/nvidia/nccl/lib NO_DEFAULT_PATH)
  if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
    add_library(bitrain_nccl SHARED ${PROJECT_SOURCE_DIR}/libbitrain/bitrain/dist/nccl_backend.cpp)
    target_include_directories(bitrain_nccl PRIVATE ${PROJECT_SOURCE_DIR}/libbitrain)
    target_include_directories(bitrain_nccl SYSTEM PRIVATE ${NCCL_INCLUDE_DIR})
    target_link_libraries(bitrain_nccl PRIVATE torch::cuda CUDA::cudart bitrain_options)
    target_link_options(bitrain_nccl PRIVATE -Wl,--no-as-needed)
    add_dependencies(bitrain_kernels bitrain_nccl)
  endif()
endif()
