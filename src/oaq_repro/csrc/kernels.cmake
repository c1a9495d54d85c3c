# Sources and options of the kernels, for the Python module and for tests/csrc.
option(OAQ_SANITIZE "find bad addresses and undefined behaviour (slow)" OFF)

# Only the files of an instruction set get its flags: dispatch runs first.
set(OAQ_SOURCES emulate.cpp emulate_checks.cpp dense_plan.cpp dispatch.cpp elementwise.cpp pool.cpp portable.cpp
  program.cpp program_dense.cpp program_layers.cpp program_operators.cpp program_rows.cpp search.cpp)
# OAQ_FEATURES: what sets of kernels ask the processor for; OAQ_KERNEL_SETS: the sets, best first (dispatch.cpp).
set(OAQ_FEATURES)
set(OAQ_KERNEL_SETS "OAQ_SET(kPortable)")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  string(APPEND OAQ_FEATURES "OAQ_FEATURE(avx2)")
  string(PREPEND OAQ_KERNEL_SETS "OAQ_SET(kAvx2) ")
  set(OAQ_AVX2_SOURCES avx2_dense.cpp avx2_depthwise.cpp avx2_elementwise.cpp)
  list(APPEND OAQ_SOURCES ${OAQ_AVX2_SOURCES})
  list(TRANSFORM OAQ_AVX2_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
  set_source_files_properties(${OAQ_AVX2_SOURCES} PROPERTIES COMPILE_OPTIONS -mavx2)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  string(PREPEND OAQ_KERNEL_SETS "OAQ_SET(kNeon) ")
  list(APPEND OAQ_SOURCES neon_dense.cpp neon_depthwise.cpp neon_lookup.cpp)
endif()
list(TRANSFORM OAQ_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/dispatch.cpp PROPERTIES
  COMPILE_DEFINITIONS "OAQ_FEATURES=${OAQ_FEATURES};OAQ_KERNEL_SETS=${OAQ_KERNEL_SETS}")

find_package(Threads REQUIRED)

function(oaq_options target)
  target_compile_features(${target} PRIVATE cxx_std_17)
  target_link_libraries(${target} PRIVATE Threads::Threads)
  if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
    # Requantization is defined without fma, and vectorized rounding needs no floating-point traps.
    target_compile_options(${target} PRIVATE -Wall -Wextra -ffp-contract=off -fno-math-errno -fno-trapping-math
      $<$<CONFIG:Release>:-O3>)
  endif()
  if(OAQ_SANITIZE)
    set(sanitizers -fsanitize=address,undefined -fno-sanitize-recover=undefined)
    target_compile_options(${target} PRIVATE ${sanitizers} -g -O1)
    target_link_options(${target} PRIVATE ${sanitizers})
  endif()
endfunction()
