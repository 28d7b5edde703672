list(APPEND TQ_CODEC_SOURCES packed_matmul.cc rotated_input.cc)
list(APPEND TQ_CODEC_TESTS packed_matmul_test.cc)
