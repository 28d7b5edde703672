list(APPEND TQ_KERNEL_SOURCES
  ternary_matmul/packing.cc
  ternary_matmul/ternary_activations.cc
  ternary_matmul/ternary_matmul.cc
  ternary_matmul/ternary_matmul_reference.cc)
list(APPEND TQ_KERNEL_AVX2
  ternary_matmul/ternary_activations_avx2.cc
  ternary_matmul/ternary_matmul_avx2.cc)
list(APPEND TQ_KERNEL_AVX2_VNNI ternary_matmul/ternary_matmul_avx2vnni.cc)
list(APPEND TQ_KERNEL_AVX512_VNNI ternary_matmul/ternary_matmul_avx512vnni.cc)
list(APPEND TQ_KERNEL_NEON_DOT ternary_matmul/ternary_matmul_neondot.cc)
list(APPEND TQ_KERNEL_TESTS
  ternary_matmul/packing_test.cc
  ternary_matmul/ternary_activations_test.cc
  ternary_matmul/ternary_matmul_test.cc)
