# Fast Walsh-Hadamard transforms over blocks.
list(APPEND TQ_KERNEL_SOURCES hadamard/hadamard.cc)
list(APPEND TQ_KERNEL_AVX2 hadamard/hadamard_avx2.cc)
list(APPEND TQ_KERNEL_AVX512 hadamard/hadamard_avx512.cc)
list(APPEND TQ_KERNEL_TESTS hadamard/hadamard_test.cc)
