// Block Hadamard rotations and the scaled rotations around a packed matrix.
#pragma once

#include <cstdint>
#include <vector>

namespace tq {

// Orders m * 2^k with m in {1, 12, 20, 28, 36}: those a normalised Hadamard exists for here.
bool IsHadamardOrder(uint64_t order);
// The largest usable order that divides n and is at most `limit` (1 if none is).
uint32_t LargestHadamardOrder(uint64_t n, uint64_t limit);

// The transform of a block as kernels take it: blocks of m << log2 values.
enum class HadamardSide { kForward, kTransposed };
struct HadamardForm {
  int m = 1, log2 = 0;
  const float* matrix = nullptr;  // [m, m], of static storage; null for m = 1
  float scale = 1;
};
// For an order of IsHadamardOrder.
HadamardForm HadamardFormOf(uint32_t block, HadamardSide side);

// In place on n values (n divisible by block): each block of `block` values is multiplied
// by the orthonormal Hadamard matrix of that order, H x (kTransposed: H^T x). Orders
// 2^k are symmetric. float arithmetic in a fixed order: the same on every thread count.
void BlockHadamard(float* values, uint64_t n, uint32_t block, HadamardSide side);

}  // namespace tq
