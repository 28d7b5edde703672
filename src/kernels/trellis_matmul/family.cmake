list(APPEND TQ_KERNEL_SOURCES
  trellis_matmul/trellis_matmul.cc
  trellis_matmul/trellis_matmul_reference.cc
  trellis_matmul/activations_reference.cc)
