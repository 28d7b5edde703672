# The bit layout of trellis codes.
list(APPEND TQ_KERNEL_TESTS trellis/trellis_code_test.cc)
