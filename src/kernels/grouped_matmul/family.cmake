list(APPEND TQ_KERNEL_SOURCES
  grouped_matmul/grouped_activations.cc
  grouped_matmul/grouped_matmul.cc
  grouped_matmul/grouped_matmul_reference.cc
  grouped_matmul/trits.cc)
list(APPEND TQ_KERNEL_AVX2
  grouped_matmul/grouped_activations_avx2.cc
  grouped_matmul/grouped_matmul_avx2.cc)
list(APPEND TQ_KERNEL_AVX2_VNNI grouped_matmul/grouped_matmul_avx2vnni.cc)
list(APPEND TQ_KERNEL_AVX512_VNNI grouped_matmul/grouped_matmul_avx512vnni.cc)
list(APPEND TQ_KERNEL_AVX512 grouped_matmul/grouped_matmul_avx512.cc)
list(APPEND TQ_KERNEL_TESTS
  grouped_matmul/grouped_activations_test.cc
  grouped_matmul/grouped_matmul_test.cc
  grouped_matmul/trits_test.cc)
