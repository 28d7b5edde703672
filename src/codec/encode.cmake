# Rotation, the packed matrix and the trellis encoder.
list(APPEND TQ_CODEC_SOURCES rotation.cc)
list(APPEND TQ_CODEC_TESTS rotation_test.cc)
