list(APPEND TQ_KERNEL_SOURCES cuda/trellis_units.cc cuda/trellis_gemv_heuristics.cc)
list(APPEND TQ_KERNEL_TESTS cuda/trellis_units_test.cc cuda/trellis_gemv_heuristics_test.cc)
list(APPEND TQ_KERNEL_CUDA cuda/trellis_gemv.cu cuda/activations.cu)
list(APPEND TQ_KERNEL_CUDA_TESTS cuda/trellis_gemv_device_test.cc
  cuda/activations_device_test.cc cuda/product_device_test.cc)
