# Flags of our own code. Third-party headers are SYSTEM includes and stay outside the warnings.

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Paths relative to the clone, so that one clone's objects serve another's build.
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE_PROGRAM})
  foreach(language CXX CUDA)
    set(CMAKE_${language}_COMPILER_LAUNCHER ${launcher})
  endforeach()
endif()

find_program(LLD_PROGRAM ld.lld)
if(LLD_PROGRAM)
  add_link_options(-fuse-ld=lld)
endif()

add_library(bitrain_options INTERFACE)
# One header for each operator: without it ATen/TensorOperators.h brings in all of them, a third of a file's compile time.
target_compile_definitions(bitrain_options INTERFACE AT_PER_OPERATOR_HEADERS)
if(PROJECT_IS_TOP_LEVEL)  # Another project's compiler may warn of what ours does not.
  target_compile_options(bitrain_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wno-restrict -Werror>)
endif()
target_compile_options(bitrain_options INTERFACE
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<NOT:$<CONFIG:Debug>>>:-g1>)

if(BITRAIN_SANITIZE)
  target_compile_options(bitrain_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${BITRAIN_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=undefined
      -fno-sanitize=vptr -Wno-error=maybe-uninitialized>)
  add_link_options(-fsanitize=${BITRAIN_SANITIZE})
endif()
