list(APPEND TQ_KERNEL_SOURCES cuda/trellis_units.cc cuda/trellis_gemv_heuristics.cc
  cuda/viterbi_heuristics.cc)
list(APPEND TQ_KERNEL_TESTS cuda/trellis_units_test.cc cuda/trellis_gemv_heuristics_test.cc
  cuda/viterbi_heuristics_test.cc)
list(APPEND TQ_KERNEL_CUDA cuda/trellis_gemv.cu cuda/activations.cu cuda/transformer.cu
  cuda/attention.cu cuda/many_attention.cu cuda/fused_steps.cu cuda/dense_weights.cu
  cuda/dense_steps.cu cuda/argmax.cu cuda/sampling.cu cuda/viterbi.cu cuda/feedback.cu)
list(APPEND TQ_KERNEL_CUDA_TESTS cuda/trellis_gemv_device_test.cc
  cuda/activations_device_test.cc cuda/product_device_test.cc cuda/dense_device_test.cc
  cuda/transformer_device_test.cc cuda/sampling_device_test.cc
  cuda/viterbi_device_test.cc)
