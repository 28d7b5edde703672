#include "kernels/gemm/gemm_f32.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "kernels/isa.h"

namespace tq::gemm {
namespace {

constexpr size_t kSizes[] = {1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65};
constexpr uint64_t kSeed = 20240611;

std::vector<Isa> Levels() {
  std::vector<Isa> levels;
  for (Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    if (IsaSupported(isa)) levels.push_back(isa);
  }
  return levels;
}

std::vector<float> RandomFloats(size_t count, std::string_view name) {
  Random random(kSeed, name);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.NextNormal());
  return values;
}

// A product with rows longer than needed; the gaps must stay untouched.
struct Problem {
  Problem(size_t n, size_t m, size_t k, bool transposed_b)
      : transposed(transposed_b),
        a(RandomFloats(n * (k + 3), "a")),
        b(RandomFloats(transposed_b ? m * (k + 5) : k * (m + 5), "b")),
        start(RandomFloats(n * (m + 2), "c")) {
    args.n = n, args.m = m, args.k = k;
    args.lda = k + 3;
    args.ldb = transposed_b ? k + 5 : m + 5;
    args.ldc = m + 2;
    args.a = a.data(), args.b = b.data();
  }
  float A(size_t i, size_t p) const { return a[i * args.lda + p]; }
  float B(size_t p, size_t j) const {
    return transposed ? b[j * args.ldb + p] : b[p * args.ldb + j];
  }
  std::vector<float> Run(Isa isa, bool accumulate) {
    std::vector<float> c = start;
    args.c = c.data();
    args.accumulate = accumulate;
    transposed ? MatmulNt(args, isa) : MatmulNn(args, isa);
    return c;
  }

  bool transposed;
  std::vector<float> a, b, start;
  Args args;
};

// The chain of the contract; the plain level may round the product first.
float Chain(const Problem& problem, size_t i, size_t j, float start, bool fused) {
  for (size_t p = 0; p < problem.args.k; ++p) {
    const float a = problem.A(i, p), b = problem.B(p, j);
    start = fused ? std::fma(a, b, start) : start + a * b;
  }
  return start;
}

void CheckProblem(Problem& problem, bool accumulate) {
  const Args& args = problem.args;
  for (Isa isa : Levels()) {
    const std::vector<float> c = problem.Run(isa, accumulate);
    for (size_t i = 0; i < args.n; ++i) {
      for (size_t j = 0; j < args.ldc; ++j) {
        const size_t at = i * args.ldc + j;
        if (j >= args.m) {
          ASSERT_EQ(c[at], problem.start[at]) << "gap written";
          continue;
        }
        const float start = accumulate ? problem.start[at] : 0.0f;
        ASSERT_EQ(c[at], Chain(problem, i, j, start, isa != Isa::kReference))
            << IsaName(isa) << " n " << args.n << " m " << args.m << " k " << args.k << " element "
            << i << "," << j << " seed " << kSeed;
      }
    }
  }
}

TEST(GemmF32, EveryElementIsItsChainBitForBit) {
  for (const bool transposed : {true, false}) {
    for (size_t n : kSizes) {
      for (size_t m : kSizes) {
        for (size_t k : {1, 7, 16, 33, 65}) {
          Problem problem(n, m, k, transposed);
          ASSERT_NO_FATAL_FAILURE(CheckProblem(problem, (n + m + k) % 2 == 0));
        }
      }
    }
  }
}

TEST(GemmF32, DepthsAcrossBlocks) {
  for (const bool transposed : {true, false}) {
    for (size_t k : {0, 2, 8, 15, 31, 63, 64, 191, 192, 193, 384, 577}) {
      for (const bool accumulate : {false, true}) {
        Problem problem(9, 50, k, transposed);
        ASSERT_NO_FATAL_FAILURE(CheckProblem(problem, accumulate));
      }
    }
  }
}

TEST(GemmF32, CloseToExact) {
  for (size_t k : {1, 17, 64, 576, 1536}) {
    Problem problem(11, 23, k, true);
    for (Isa isa : Levels()) {
      const std::vector<float> c = problem.Run(isa, false);
      for (size_t i = 0; i < 11; ++i) {
        for (size_t j = 0; j < 23; ++j) {
          double exact = 0, size = 0;
          for (size_t p = 0; p < k; ++p) {
            const double product = static_cast<double>(problem.A(i, p)) * problem.B(p, j);
            exact += product;
            size += std::abs(product);
          }
          const double bound = (static_cast<double>(k) + 1) * std::ldexp(size, -23);
          ASSERT_NEAR(c[i * problem.args.ldc + j], exact, bound) << IsaName(isa) << " k " << k;
        }
      }
    }
  }
}

TEST(GemmF32, SplitsAndOneRowGiveTheSameBits) {
  Problem problem(37, 101, 200, true);
  for (Isa isa : Levels()) {
    const std::vector<float> whole = problem.Run(isa, false);
    std::vector<float> pieces = problem.start;
    for (size_t i = 0; i < 37; i += 5) {
      for (size_t j = 0; j < 101; j += 13) {
        Args part = problem.args;
        part.n = std::min<size_t>(5, 37 - i), part.m = std::min<size_t>(13, 101 - j);
        part.a += i * part.lda, part.b += j * part.ldb;
        part.c = pieces.data() + i * part.ldc + j;
        MatmulNt(part, isa);
      }
    }
    EXPECT_EQ(whole, pieces) << IsaName(isa);
  }
}

TEST(GemmF32, NanStaysInItsRowAndColumn) {
  Problem problem(10, 20, 30, true);
  problem.a[3 * problem.args.lda + 7] = std::numeric_limits<float>::quiet_NaN();
  for (Isa isa : Levels()) {
    const std::vector<float> c = problem.Run(isa, false);
    for (size_t i = 0; i < 10; ++i) {
      for (size_t j = 0; j < 20; ++j) {
        EXPECT_EQ(std::isnan(c[i * problem.args.ldc + j]), i == 3) << IsaName(isa);
      }
    }
  }
}

void CheckSyrk(size_t n, size_t k, size_t split) {
  const size_t ldx = k + 3, ldh = k + 1;
  const std::vector<float> x = RandomFloats(n * ldx, "x");
  for (Isa isa : Levels()) {
    std::vector<float> h(k * ldh, 0.25f);
    for (size_t row = 0; row < k; row += split) {
      SyrkUpper({n, k, x.data(), ldx, h.data(), ldh, row, std::min(k, row + split)}, isa);
    }
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j < ldh; ++j) {
        float expected = 0.25f;
        if (j >= i && j < k) {
          for (size_t begin = 0; begin < n; begin += kSyrkBlock) {
            float sum = 0;
            for (size_t p = begin; p < std::min(n, begin + kSyrkBlock); ++p) {
              const float a = x[p * ldx + i], b = x[p * ldx + j];
              sum = isa == Isa::kReference ? sum + a * b : std::fma(a, b, sum);
            }
            expected += sum;
          }
        }
        ASSERT_EQ(h[i * ldh + j], expected)
            << IsaName(isa) << " n " << n << " k " << k << " element " << i << "," << j;
      }
    }
  }
}

TEST(GemmF32, SyrkAddsTheUpperTriangle) {
  for (size_t k : kSizes) {
    for (size_t n : {1, 2, 16, 33}) ASSERT_NO_FATAL_FAILURE(CheckSyrk(n, k, k));
  }
  ASSERT_NO_FATAL_FAILURE(CheckSyrk(400, 150, 150));
  ASSERT_NO_FATAL_FAILURE(CheckSyrk(193, 150, 7));
  ASSERT_NO_FATAL_FAILURE(CheckSyrk(192, 101, 50));
}

}  // namespace
}  // namespace tq::gemm
