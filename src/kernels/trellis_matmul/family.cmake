list(APPEND TQ_KERNEL_SOURCES
  trellis_matmul/trellis_matmul.cc
  trellis_matmul/trellis_matmul_reference.cc
  trellis_matmul/activations_reference.cc)
list(APPEND TQ_KERNEL_AVX2 trellis_matmul/trellis_matmul_avx2.cc trellis_matmul/activations_avx2.cc)
list(APPEND TQ_KERNEL_AVX2_VNNI trellis_matmul/trellis_matmul_avx2vnni.cc)
list(APPEND TQ_KERNEL_AVX512_VNNI trellis_matmul/trellis_matmul_avx512vnni.cc)
list(APPEND TQ_KERNEL_AVX512
  trellis_matmul/trellis_matmul_avx512.cc
  trellis_matmul/trellis_matmul_avx512mul16.cc)
list(APPEND TQ_KERNEL_NEON_DOT trellis_matmul/trellis_matmul_neondot.cc)
list(APPEND TQ_KERNEL_TESTS trellis_matmul/trellis_matmul_test.cc trellis_matmul/activations_test.cc)
