list(APPEND TQ_CODEC_SOURCES dense_matmul.cc grouped_matrix.cc)
list(APPEND TQ_CODEC_TESTS dense_matmul_test.cc grouped_matrix_test.cc)
