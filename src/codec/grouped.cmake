list(APPEND TQ_CODEC_SOURCES dense_matmul.cc exchange_layout.cc grouped_matmul.cc grouped_matrix.cc
     grouped_rounding.cc)
list(APPEND TQ_CODEC_TESTS dense_matmul_test.cc exchange_layout_test.cc grouped_matmul_test.cc
     grouped_matrix_test.cc grouped_rounding_test.cc)
if(TQ_CUDA)
  list(APPEND TQ_CODEC_SOURCES cuda_dense_device.cc)
  list(APPEND TQ_CODEC_TESTS cuda_dense_device_test.cc)
else()
  list(APPEND TQ_CODEC_SOURCES cuda_dense_device_missing.cc)
endif()
