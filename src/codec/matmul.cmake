list(APPEND TQ_CODEC_SOURCES packed_matmul.cc rotated_input.cc)
