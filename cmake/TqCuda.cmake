# What CUDA files are compiled with. Any GPU since sm_80 runs the code; nvcc 13 knows no older ones.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
endif()
enable_language(CUDA)
find_package(CUDAToolkit 13.0 REQUIRED)
# CMake 3.25 does not know that nvcc has C++20.
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  list(APPEND CMAKE_CUDA_COMPILE_FEATURES cuda_std_20)
endif()

# tq_cuda_library(NAME kernels_cuda SOURCES a.cu DEPS tq_kernels [TESTS a_device_test.cc])
function(tq_cuda_library)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;DEPS;TESTS" ${ARGN})
  set(target tq_${ARG_NAME})
  add_library(${target} STATIC ${ARG_SOURCES})
  tq_cuda_options(${target})
  target_link_libraries(${target} PRIVATE ${ARG_DEPS} PUBLIC CUDA::cudart_static)
  if(TQ_BUILD_TESTS AND ARG_TESTS)
    add_executable(${target}_test ${ARG_TESTS})
    target_link_libraries(${target}_test PRIVATE ${target} ${ARG_DEPS} GTest::gmock_main)
    tq_test_options(${target}_test)
    gtest_discover_tests(${target}_test DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 600)
  endif()
endfunction()

# Registers that spill to memory fail the build.
function(tq_cuda_options target)
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:--expt-relaxed-constexpr \
-lineinfo -Xptxas=--warn-on-spills,--warning-as-error>")
endfunction()
