list(APPEND TQ_CODEC_SOURCES dense_matmul.cc)
list(APPEND TQ_CODEC_TESTS dense_matmul_test.cc)
