# Flags of our own code. Third-party headers are SYSTEM includes and stay outside the warnings.

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  foreach(language CXX CUDA)
    set(CMAKE_${language}_COMPILER_LAUNCHER ${CCACHE_PROGRAM} CACHE STRING "")
  endforeach()
endif()

find_program(LLD_PROGRAM ld.lld)
if(LLD_PROGRAM)
  add_link_options(-fuse-ld=lld)
endif()

add_library(bitrain_options INTERFACE)
target_compile_options(bitrain_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wno-restrict -Werror>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<NOT:$<CONFIG:Debug>>>:-g1>)

if(BITRAIN_SANITIZE)
  target_compile_options(bitrain_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${BITRAIN_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=undefined
      -fno-sanitize=vptr -Wno-error=maybe-uninitialized>)
  add_link_options(-fsanitize=${BITRAIN_SANITIZE})
endif()
