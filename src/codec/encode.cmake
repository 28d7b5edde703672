# Rotation, the packed matrix and the trellis encoder.
list(APPEND TQ_CODEC_SOURCES packed_matrix.cc rotation.cc tile_map.cc trellis_encoder.cc)
list(APPEND TQ_CODEC_TESTS golden_test.cc packed_matrix_test.cc rotation_test.cc
  trellis_encoder_test.cc)
set_source_files_properties(golden_test.cc PROPERTIES COMPILE_DEFINITIONS
  TQ_GOLDEN_DIR="${PROJECT_SOURCE_DIR}/tests/golden/codec")
