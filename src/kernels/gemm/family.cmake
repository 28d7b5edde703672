list(APPEND TQ_KERNEL_SOURCES gemm/gemm_f32.cc gemm/grouped_codes.cc)
list(APPEND TQ_KERNEL_AVX2 gemm/gemm_f32_avx2.cc)
list(APPEND TQ_KERNEL_AVX512 gemm/gemm_f32_avx512.cc)
list(APPEND TQ_KERNEL_TESTS gemm/gemm_f32_test.cc gemm/grouped_codes_test.cc)
