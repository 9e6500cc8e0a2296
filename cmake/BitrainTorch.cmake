# Imports LibTorch from the pip wheel of a Python interpreter.
#
# The wheel's own TorchConfig.cmake wants a CUDA toolkit at configure time, enables the CUDA language and rewrites global
# flags; these targets need nothing but the wheel:
#
#   torch::cpu     c10 and torch_cpu: all that the core library uses
#   torch::cuda    c10_cuda and torch_cuda, for the CUDA library only
#   torch::python  torch_python, for the Python module only

set(BITRAIN_TORCH_VERSION 2.11.0)
set(_cache_home $ENV{XDG_CACHE_HOME})
if(NOT _cache_home)
  set(_cache_home $ENV{HOME}/.cache)
endif()
set(_venv_python ${_cache_home}/bitrain/venv/bin/python)
if(NOT EXISTS ${_venv_python})
  set(_venv_python python3)
endif()
set(BITRAIN_PYTHON ${_venv_python} CACHE STRING "Interpreter whose torch ${BITRAIN_TORCH_VERSION} is linked")

# Ask without importing torch, which takes seconds.
execute_process(
  COMMAND ${BITRAIN_PYTHON} -c "import importlib.util, os, re, sysconfig
root = os.path.dirname(importlib.util.find_spec('torch').origin)
version = re.search(r\"__version__ = '([^']+)'\", open(os.path.join(root, 'version.py')).read()).group(1)
print(root, version, sysconfig.get_path('include'), sysconfig.get_config_var('EXT_SUFFIX'), sep=';')"
  OUTPUT_VARIABLE _torch_answer OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE _torch_failed ERROR_VARIABLE _torch_error)
if(_torch_failed)
  message(FATAL_ERROR "No torch in ${BITRAIN_PYTHON}: run tools/setup.sh, or set BITRAIN_PYTHON.\n${_torch_error}")
endif()
list(GET _torch_answer 0 TORCH_ROOT)
list(GET _torch_answer 1 TORCH_VERSION_FOUND)
list(GET _torch_answer 2 PYTHON_INCLUDE_DIR)
list(GET _torch_answer 3 PYTHON_EXT_SUFFIX)
if(NOT TORCH_VERSION_FOUND MATCHES "^${BITRAIN_TORCH_VERSION}")
  message(FATAL_ERROR "torch ${TORCH_VERSION_FOUND} found in ${BITRAIN_PYTHON}; bitrain is built against ${BITRAIN_TORCH_VERSION}")
endif()
message(STATUS "LibTorch ${TORCH_VERSION_FOUND} in ${TORCH_ROOT}")

get_filename_component(TORCH_SITE_PACKAGES ${TORCH_ROOT} DIRECTORY)
file(GLOB TORCH_NVIDIA_LIBS ${TORCH_SITE_PACKAGES}/nvidia/*/lib)

function(_import_torch_library name file)
  add_library(${name} SHARED IMPORTED GLOBAL)
  set_target_properties(${name} PROPERTIES IMPORTED_LOCATION ${TORCH_ROOT}/lib/${file} IMPORTED_NO_SONAME FALSE)
  target_include_directories(${name} SYSTEM INTERFACE ${TORCH_ROOT}/include ${TORCH_ROOT}/include/torch/csrc/api/include)
endfunction()

_import_torch_library(torch::c10 libc10.so)
_import_torch_library(torch::cpu libtorch_cpu.so)
_import_torch_library(torch::c10_cuda libc10_cuda.so)
_import_torch_library(torch::cuda libtorch_cuda.so)
_import_torch_library(torch::python libtorch_python.so)
target_link_libraries(torch::cpu INTERFACE torch::c10)
target_link_libraries(torch::cuda INTERFACE torch::c10_cuda torch::cpu)
target_compile_definitions(torch::cpu INTERFACE USE_DISTRIBUTED USE_C10D_GLOO)
target_compile_definitions(torch::cuda INTERFACE USE_C10D_NCCL)

# torch's libgomp comes first, so that its kernels and ours share one OpenMP runtime: by the compiler's flag, because
# find_package(OpenMP) links the compiler's own libgomp by its path.
add_library(bitrain_openmp INTERFACE)
target_compile_options(bitrain_openmp INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
target_link_options(bitrain_openmp INTERFACE -fopenmp)
list(APPEND CMAKE_BUILD_RPATH ${TORCH_ROOT}/lib)
list(APPEND CMAKE_INSTALL_RPATH ${TORCH_ROOT}/lib)
foreach(folder ${TORCH_ROOT}/lib ${TORCH_NVIDIA_LIBS})
  target_link_options(torch::c10 INTERFACE -Wl,-rpath-link,${folder})  # Programs of other projects need it too.
endforeach()
