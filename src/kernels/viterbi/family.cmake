# Viterbi search for the tail-biting path of a trellis code.
list(APPEND TQ_KERNEL_SOURCES viterbi/viterbi.cc viterbi/viterbi_reference.cc)
list(APPEND TQ_KERNEL_AVX2 viterbi/viterbi_avx2.cc)
list(APPEND TQ_KERNEL_AVX2_VNNI viterbi/viterbi_avx2vnni.cc)
list(APPEND TQ_KERNEL_AVX512 viterbi/viterbi_avx512.cc)
list(APPEND TQ_KERNEL_TESTS viterbi/viterbi_test.cc)
