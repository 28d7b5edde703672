# Rotation, the packed matrix and the trellis encoder.
list(APPEND TQ_CODEC_SOURCES packed_matrix.cc rotation.cc tile_map.cc trellis_encoder.cc)
list(APPEND TQ_CODEC_TESTS packed_matrix_test.cc rotation_test.cc)
