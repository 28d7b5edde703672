# One helper per kind of target, with named arguments. Build targets carry the
# folder names: src/codec is the target tq_codec.

add_library(tq_options INTERFACE)
target_include_directories(tq_options INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src> $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(tq_options INTERFACE cxx_std_20)
# Options of g++ and clang; CUDA files have their own (TqCuda.cmake).
function(tq_cxx_options)
  target_compile_options(tq_options INTERFACE
    "$<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:CXX>:${ARGN}>>")
endfunction()
tq_cxx_options(-Wall -Wextra -Wno-psabi)
if(TQ_WERROR)
  tq_cxx_options(-Werror)
endif()
# A plain build runs on any x86-64-v2 machine; wider instruction sets live in
# files of their own, chosen at run time (src/kernels/isa.h).
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(TQ_X86 ON)
  set(TQ_ISAS AVX2 AVX2_VNNI AVX512_VNNI AVX512)
  tq_cxx_options(-march=x86-64-v2)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set(TQ_ARM64 ON)
  set(TQ_ISAS NEON_DOT)
endif()
# Contraction to FMA would make results depend on the compiler's choices; the
# kernels that want FMA call it by name.
tq_cxx_options(-ffp-contract=off)
# Two arrays that live at the same time may share a stack slot when their addresses
# leave a loop (GCC bug 90348); the batched Viterbi search was miscompiled so at -O1.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  tq_cxx_options(-fstack-reuse=none)
endif()
if(TQ_SANITIZE)
  tq_cxx_options(-fsanitize=${TQ_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(tq_options INTERFACE $<BUILD_INTERFACE:-fsanitize=${TQ_SANITIZE}>)
endif()

set(TQ_AVX2_FLAGS -march=x86-64-v3)
set(TQ_AVX2_VNNI_FLAGS -march=x86-64-v3 -mavxvnni)
set(TQ_AVX512_VNNI_FLAGS -march=x86-64-v4 -mavx512vnni)
set(TQ_AVX512_FLAGS -march=x86-64-v4 -mavx512vnni -mavx512vbmi -mavx512vbmi2)
set(TQ_NEON_DOT_FLAGS -march=armv8.2-a+dotprod)
# Checks of every pointer make these files up to three times as slow to compile. Wrong addresses are
# AddressSanitizer's to find, and vectors may lie anywhere; shifts, overflows and bounds stay
# checked.
if(TQ_SANITIZE MATCHES "undefined" AND CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  foreach(isa ${TQ_ISAS})
    list(APPEND TQ_${isa}_FLAGS -fno-sanitize=null,alignment,object-size,pointer-overflow)
  endforeach()
endif()

# What calls the code under test takes longer to compile than to run: little optimisation, and
# the headers that all tests share are compiled once.
function(tq_test_options target)
  if(TQ_SANITIZE)
    target_compile_definitions(${target} PRIVATE TQ_SANITIZED=1)
    target_compile_options(${target} PRIVATE -O0)
  else()
    target_compile_options(${target} PRIVATE -O1)
  endif()
  if(TARGET tq_base_test AND NOT target STREQUAL tq_base_test)
    target_precompile_headers(${target} REUSE_FROM tq_base_test)
  else()
    target_precompile_headers(${target} PRIVATE <gmock/gmock.h> <gtest/gtest.h> <fmt/format.h>)
  endif()
endfunction()

# tq_library(NAME codec SOURCES a.cc DEPS tq_kernels [AVX2 a_avx2.cc]
#            [AVX2_VNNI a.cc] [AVX512_VNNI a.cc] [AVX512 a_avx512.cc] [NEON_DOT a.cc]
#            [TESTS a_test.cc])
# makes tq_<name> and, with tests on, tq_<name>_test. Files under AVX2, ... are
# compiled with those flags on their processors and left out elsewhere.
function(tq_library)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;DEPS;AVX2;AVX2_VNNI;AVX512_VNNI;AVX512;NEON_DOT;TESTS" ${ARGN})
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "tq_library(${ARG_NAME}): unknown arguments ${ARG_UNPARSED_ARGUMENTS}")
  endif()
  set(target tq_${ARG_NAME})
  add_library(${target} STATIC ${ARG_SOURCES})
  add_library(turboquant::${ARG_NAME} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${ARG_NAME})
  target_link_libraries(${target} PUBLIC tq_options ${ARG_DEPS})
  foreach(isa ${TQ_ISAS})
    if(ARG_${isa})
      target_sources(${target} PRIVATE ${ARG_${isa}})
      set_source_files_properties(${ARG_${isa}} PROPERTIES COMPILE_OPTIONS "${TQ_${isa}_FLAGS}")
    endif()
  endforeach()
  install(TARGETS ${target} EXPORT turboquantTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  if(TQ_BUILD_TESTS AND ARG_TESTS)
    add_executable(${target}_test ${ARG_TESTS})
    target_link_libraries(${target}_test PRIVATE ${target} GTest::gmock_main)
    tq_test_options(${target}_test)
    gtest_discover_tests(${target}_test DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 600)
  endif()
endfunction()

# tq_benchmark(NAME codec SOURCES x_bench.cc DEPS tq_codec): a Google Benchmark program.
function(tq_benchmark)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;DEPS" ${ARGN})
  if(TQ_BUILD_BENCHMARKS)
    add_executable(bench_${ARG_NAME} ${ARG_SOURCES})
    target_link_libraries(bench_${ARG_NAME} PRIVATE ${ARG_DEPS} benchmark::benchmark)
  endif()
endfunction()
