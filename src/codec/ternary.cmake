# Matrices of ternary weights (BitNet b1.58) and their products.
list(APPEND TQ_CODEC_SOURCES ternary_matmul.cc ternary_matrix.cc)
list(APPEND TQ_CODEC_TESTS ternary_matmul_test.cc ternary_matrix_test.cc)
