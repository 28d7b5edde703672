list(APPEND TQ_KERNEL_SOURCES
  transformer/attention.cc transformer/elementwise.cc transformer/logits.cc)
list(APPEND TQ_KERNEL_AVX2 transformer/transformer_avx2.cc)
list(APPEND TQ_KERNEL_AVX512 transformer/transformer_avx512.cc)
list(APPEND TQ_KERNEL_TESTS
  transformer/attention_test.cc transformer/elementwise_test.cc transformer/logits_test.cc)
