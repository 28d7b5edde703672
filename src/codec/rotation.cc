// Hadamard matrices of orders 12, 20, 28 and 36 (Paley's constructions: R. E. A. C.
// Paley, "On orthogonal matrices", J. Math. Phys. 12, 1933) and the block rotation.
#include "codec/rotation.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "base/status.h"
#include "kernels/hadamard/hadamard.h"
#include "kernels/isa.h"

namespace tq {
namespace {

constexpr int kOddOrders[] = {12, 20, 28, 36};

// The quadratic character of n modulo the prime q: 0, 1 or -1.
constexpr int QuadraticCharacter(int n, int q) {
  n = ((n % q) + q) % q;
  if (n == 0) return 0;
  for (int i = 1; i < q; ++i) {
    if (i * i % q == n) return 1;
  }
  return -1;
}

// Entry of the bordered matrix of characters, order q + 1: symmetric for q = 1 mod 4,
// skew for q = 3 mod 4, rows orthogonal, zero diagonal.
constexpr int Conference(int row, int column, int q) {
  if (row == 0 && column == 0) return 0;
  if (row == 0) return 1;
  if (column == 0) return q % 4 == 1 ? 1 : -1;
  return QuadraticCharacter(row - column, q);
}

// A Hadamard matrix and its transpose, entries +1 and -1, row-major.
struct SignMatrix {
  std::array<float, kMaxHadamardMatrix * kMaxHadamardMatrix> forward{}, transposed{};
};

// Paley I for order q + 1 = 20; Paley II for orders 2 (q + 1) = 12, 28, 36.
SignMatrix MakeSignMatrix(int order) {
  SignMatrix matrix;
  for (int row = 0; row < order; ++row) {
    for (int column = 0; column < order; ++column) {
      int sign;
      if (order == 20) {
        sign = Conference(row, column, 19) + (row == column);
      } else {
        const int c = Conference(row / 2, column / 2, order / 2 - 1);
        const bool both = row % 2 == 1 && column % 2 == 1;
        // C x [1 1; 1 -1] + I x [1 -1; -1 -1].
        sign = c * (both ? -1 : 1);
        if (row / 2 == column / 2) sign += row % 2 == 0 && column % 2 == 0 ? 1 : -1;
      }
      matrix.forward[row * order + column] = static_cast<float>(sign);
      matrix.transposed[column * order + row] = static_cast<float>(sign);
    }
  }
  return matrix;
}

const SignMatrix& SignMatrixOf(int order) {
  static const std::array<SignMatrix, 4> kMatrices = {MakeSignMatrix(12), MakeSignMatrix(20),
                                                      MakeSignMatrix(28), MakeSignMatrix(36)};
  return kMatrices[(order - 12) / 8];
}

// The m of order = m * 2^k, or 0 when it has no such form. The smallest m wins, so a
// power of two is 1 * 2^k.
int OddPart(uint64_t order) {
  if (std::has_single_bit(order)) return 1;
  for (int m : kOddOrders) {
    if (order % m == 0 && std::has_single_bit(order / m)) return m;
  }
  return 0;
}

}  // namespace

bool IsHadamardOrder(uint64_t order) { return order > 0 && OddPart(order) != 0; }

uint32_t LargestHadamardOrder(uint64_t n, uint64_t limit) {
  uint64_t best = 1;
  for (uint64_t m : {1, 12, 20, 28, 36}) {
    for (uint64_t order = m; order <= limit && order <= UINT32_MAX && order <= n; order *= 2) {
      if (n % order != 0) break;
      if (order > best) best = order;
    }
  }
  return static_cast<uint32_t>(best);
}

HadamardForm HadamardFormOf(uint32_t block, HadamardSide side) {
  HadamardForm form;
  form.m = OddPart(block);
  TQ_CHECK(form.m != 0);
  if (form.m > 1) {
    const SignMatrix& signs = SignMatrixOf(form.m);
    form.matrix = side == HadamardSide::kForward ? signs.forward.data() : signs.transposed.data();
  }
  form.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(block)));
  form.log2 = std::countr_zero(block / form.m);
  return form;
}

void BlockHadamard(float* values, uint64_t n, uint32_t block, HadamardSide side) {
  if (block == 1) return;
  TQ_CHECK(n % block == 0);
  const HadamardForm form = HadamardFormOf(block, side);
  HadamardTransform({values, n, form.m, form.log2, form.matrix, form.scale}, CurrentIsa());
}

}  // namespace tq
