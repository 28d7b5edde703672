#include "codec/exchange_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "base/random.h"
#include "codec/grouped_matrix_for_test.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

bool IsAwq(ExchangeFormat format) { return format == ExchangeFormat::kAwq; }

// Bit `bit` of the words at `first`, first + stride, ...
uint32_t BitOf(const Tensor& words, uint64_t first, uint64_t stride, uint64_t bit) {
  return words.as<uint32_t>()[first + bit / 32 * stride] >> (bit % 32) & 1;
}

// Random words are codes and zeros, whatever the format.
Tensor RandomWords(Shape shape, Random& random) {
  Tensor tensor = *Tensor::Zeros(DType::kI32, std::move(shape));
  for (uint64_t i = 0; i < tensor.num_elements(); ++i) {
    tensor.mutable_as<uint32_t>()[i] = random.NextU32();
  }
  return tensor;
}

// The stored zero of an output, of formats that have them in order.
uint32_t StoredZero(const ExchangeSizes& s, const Tensor& qzeros, uint64_t r, uint64_t g) {
  uint32_t zero = 0;
  for (uint32_t b = 0; b < s.bits; ++b) {
    zero |= BitOf(qzeros, g * (s.rows * s.bits / 32), 1, r * s.bits + b) << b;
  }
  return zero;
}

// Leaves no zero of all ones, which the first version of GPTQ's format may not have.
void ClearOnes(const ExchangeSizes& s, Tensor& qzeros) {
  const uint64_t across = s.rows * s.bits / 32;
  for (uint64_t g = 0; g < qzeros.shape()[0]; ++g) {
    for (uint64_t r = 0; r < s.rows; ++r) {
      if (StoredZero(s, qzeros, r, g) != (1u << s.bits) - 1) continue;
      qzeros.mutable_as<uint32_t>()[g * across + r * s.bits / 32] ^= 1u << (r * s.bits % 32);
    }
  }
}

enum class Groups { kNone, kInOrder, kShuffled };

ExchangeTensors MakeTensors(ExchangeFormat format, const ExchangeSizes& s, Groups inputs,
                            uint64_t seed) {
  Random random(seed, "exchange");
  const uint64_t groups = CeilDiv<uint64_t>(s.cols, s.group_size);
  ExchangeTensors t;
  t.qweight = RandomWords(
      IsAwq(format) ? Shape{s.cols, s.rows / 8} : Shape{s.cols * s.bits / 32, s.rows}, random);
  t.qzeros = RandomWords({groups, s.rows * s.bits / 32}, random);
  if (format == ExchangeFormat::kGptqV1) ClearOnes(s, t.qzeros);
  t.scales = *Tensor::Zeros(DType::kF16, {groups, s.rows});
  for (uint64_t i = 0; i < t.scales.num_elements(); ++i) {
    const double scale = 0.001 + 0.01 * random.NextUniform();
    t.scales.mutable_as<uint16_t>()[i] = FloatToHalf(static_cast<float>(scale));
  }
  if (inputs == Groups::kNone) return t;
  std::vector<int32_t> group(s.cols);
  for (uint64_t c = 0; c < s.cols; ++c) group[c] = static_cast<int32_t>(c / s.group_size);
  if (inputs == Groups::kShuffled) {
    for (uint64_t c = s.cols; c > 1; --c) std::swap(group[c - 1], group[random.NextBelow(c)]);
  }
  t.g_idx = *Tensor::FromValues<int32_t>(DType::kI32, {s.cols}, group);
  return t;
}

// W[r, c] by the description of the formats, a bit at a time.
float WeightOf(ExchangeFormat format, const ExchangeSizes& s, const ExchangeTensors& t, uint64_t r,
               uint64_t c) {
  constexpr uint64_t kOutputOfNibble[] = {0, 2, 4, 6, 1, 3, 5, 7};
  const uint64_t g = t.g_idx.data() == nullptr ? c / s.group_size
                                               : static_cast<uint64_t>(t.g_idx.as<int32_t>()[c]);
  const auto nibble = static_cast<uint64_t>(std::find(kOutputOfNibble, kOutputOfNibble + 8, r % 8) -
                                            kOutputOfNibble);
  const uint64_t across = s.rows * s.bits / 32;
  uint32_t code = 0, zero = 0;
  for (uint32_t b = 0; b < s.bits; ++b) {
    if (IsAwq(format)) {
      code |= BitOf(t.qweight, c * across, 1, (r / 8 * 8 + nibble) * 4 + b) << b;
      zero |= BitOf(t.qzeros, g * across, 1, (r / 8 * 8 + nibble) * 4 + b) << b;
    } else {
      code |= BitOf(t.qweight, r, s.rows, c * s.bits + b) << b;
      zero |= BitOf(t.qzeros, g * across, 1, r * s.bits + b) << b;
    }
  }
  if (format == ExchangeFormat::kGptqV1) zero += 1;
  return HalfToFloat(t.scales.as<uint16_t>()[g * s.rows + r]) *
         (static_cast<float>(code) - static_cast<float>(zero));
}

bool SameBytes(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.data(), b.data(), a.num_bytes()) == 0;
}

class ExchangeLayoutTest
    : public ::testing::TestWithParam<std::tuple<ExchangeFormat, uint32_t, uint32_t, Groups>> {};

TEST_P(ExchangeLayoutTest, MeansWhatTheFormatSaysAndComesBack) {
  const auto [format, bits, group_size, inputs] = GetParam();
  const ExchangeSizes sizes{96, 160, bits, group_size};
  const ExchangeTensors tensors = MakeTensors(format, sizes, inputs, 1);
  const std::unique_ptr<ThreadPool> threads = *ThreadPool::Create(3);
  ThreadPool& pool = *threads;
  const auto matrix = FromExchange(format, sizes, tensors, pool);
  ASSERT_TRUE(matrix.ok()) << matrix.status().message();
  EXPECT_EQ(matrix->ordered, inputs == Groups::kShuffled && group_size < sizes.cols);
  std::vector<float> weights(sizes.rows * sizes.cols);
  DecodeRows(*matrix, 0, sizes.rows, weights.data());
  for (uint64_t r = 0; r < sizes.rows; ++r) {
    for (uint64_t c = 0; c < sizes.cols; ++c) {
      ASSERT_EQ(weights[r * sizes.cols + c], WeightOf(format, sizes, tensors, r, c))
          << r << " " << c;
    }
  }
  const auto back = ToExchange(format, *matrix, pool);
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_TRUE(SameBytes(back->qweight, tensors.qweight));
  EXPECT_TRUE(SameBytes(back->qzeros, tensors.qzeros));
  EXPECT_TRUE(SameBytes(back->scales, tensors.scales));
  if (tensors.g_idx.data() != nullptr) {
    EXPECT_TRUE(SameBytes(back->g_idx, tensors.g_idx));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Gptq, ExchangeLayoutTest,
    ::testing::Combine(::testing::Values(ExchangeFormat::kGptqV1, ExchangeFormat::kGptqV2),
                       ::testing::Values(2u, 3u, 4u, 8u), ::testing::Values(32u, 128u, 160u),
                       ::testing::Values(Groups::kNone, Groups::kInOrder, Groups::kShuffled)));
INSTANTIATE_TEST_SUITE_P(Awq, ExchangeLayoutTest,
                         ::testing::Combine(::testing::Values(ExchangeFormat::kAwq),
                                            ::testing::Values(4u), ::testing::Values(32u, 64u),
                                            ::testing::Values(Groups::kNone)));

// Zeros in the middle throughout take no memory.
TEST(ExchangeLayout, SymmetricZerosAreNotStored) {
  const ExchangeSizes sizes{16, 64, 4, 32};
  ExchangeTensors tensors = MakeTensors(ExchangeFormat::kGptqV1, sizes, Groups::kNone, 2);
  std::fill_n(tensors.qzeros.mutable_as<uint32_t>(), tensors.qzeros.num_elements(), 0x77777777);
  InlineExecutor executor;
  const auto matrix = FromExchange(ExchangeFormat::kGptqV1, sizes, tensors, executor);
  ASSERT_TRUE(matrix.ok());
  EXPECT_EQ(matrix->zeros, ZeroKind::kSymmetric);
  EXPECT_TRUE(
      SameBytes(ToExchange(ExchangeFormat::kGptqV1, *matrix, executor)->qzeros, tensors.qzeros));
}

// Programs differ about what they mean in the first.
TEST(ExchangeLayout, ZerosOfAllOnesAreOfTheSecondVersionAlone) {
  InlineExecutor executor;
  for (const uint32_t bits : {2, 3, 4, 8}) {
    SCOPED_TRACE(bits);
    const ExchangeSizes sizes{32, 64, bits, 32};
    ExchangeTensors tensors = MakeTensors(ExchangeFormat::kGptqV1, sizes, Groups::kNone, 6);
    const auto matrix = FromExchange(ExchangeFormat::kGptqV1, sizes, tensors, executor);
    ASSERT_TRUE(matrix.ok()) << matrix.status().message();
    EXPECT_EQ(matrix->zeros, ZeroKind::kPacked);
    auto* words = tensors.qzeros.mutable_as<uint32_t>() + bits;  // of the second group
    for (uint32_t bit = 10 * bits; bit < 11 * bits; ++bit) words[bit / 32] |= 1u << (bit % 32);
    ASSERT_EQ(StoredZero(sizes, tensors.qzeros, 10, 1), (1u << bits) - 1);
    const Status refused = FromExchange(ExchangeFormat::kGptqV1, sizes, tensors, executor).status();
    EXPECT_EQ(refused.code(), StatusCode::kUnimplemented);
    EXPECT_THAT(
        std::string(refused.message()),
        AllOf(HasSubstr("qzeros of output 10 group 1 is " + std::to_string((1u << bits) - 1)),
              HasSubstr("programs differ"), HasSubstr("gptq_v2")));
    const auto second = FromExchange(ExchangeFormat::kGptqV2, sizes, tensors, executor);
    ASSERT_TRUE(second.ok()) << second.status().message();
    EXPECT_EQ(second->zeros, ZeroKind::kPacked);
  }
}

// What the types of scales have in common is the same; what a half does not hold is named.
TEST(ExchangeLayout, ScalesMayBeBfloat16) {
  InlineExecutor executor;
  const ExchangeFormat format = ExchangeFormat::kAwq;
  const ExchangeSizes sizes{32, 64, 4, 32};
  const ExchangeTensors halves = MakeTensors(format, sizes, Groups::kNone, 7);
  ExchangeTensors tensors = halves, exact = halves;
  tensors.scales = *Tensor::Zeros(DType::kBF16, {2, 32});
  exact.scales = *Tensor::Zeros(DType::kF16, {2, 32});
  auto* scales = tensors.scales.mutable_as<uint16_t>();
  for (size_t i = 0; i < 64; ++i) {
    scales[i] = FloatToBFloat16(HalfToFloat(halves.scales.as<uint16_t>()[i]));
    exact.scales.mutable_as<uint16_t>()[i] = FloatToHalf(BFloat16ToFloat(scales[i]));
  }
  scales[7] = FloatToBFloat16(1e-30f);  // 0 as a half
  exact.scales.mutable_as<uint16_t>()[7] = 0;
  const auto matrix = FromExchange(format, sizes, tensors, executor);
  const auto expected = FromExchange(format, sizes, exact, executor);
  ASSERT_TRUE(matrix.ok() && expected.ok()) << matrix.status().message();
  EXPECT_TRUE(SameBytes(matrix->scale, expected->scale));
  EXPECT_TRUE(SameBytes(matrix->codes, expected->codes));
  const auto error = [&](float scale) {
    scales[32 + 3] = FloatToBFloat16(scale);
    return std::string(FromExchange(format, sizes, tensors, executor).status().message());
  };
  EXPECT_THAT(error(-1e6f), AllOf(HasSubstr("scales[1, 3] is -"), HasSubstr("65504")));
  EXPECT_THAT(error(std::numeric_limits<float>::infinity()),
              AllOf(HasSubstr("row 3 group 1"), HasSubstr("finite")));
  EXPECT_THAT(error(std::numeric_limits<float>::quiet_NaN()), HasSubstr("finite"));
  EXPECT_EQ(error(1000), "");
}

// Groups are no larger than those of our own matrices.
TEST(ExchangeLayout, GroupsHaveALimit) {
  for (const ExchangeFormat format : {ExchangeFormat::kGptqV1, ExchangeFormat::kAwq}) {
    EXPECT_TRUE(ShapesOf(format, {32, 70016, 4, 65536}).ok());
    EXPECT_THAT(std::string(ShapesOf(format, {32, 70016, 4, 70016}).status().message()),
                HasSubstr("group_size = 70016, must be 1 to 65536"));
  }
}

// Every way in which a file can lie.
TEST(ExchangeLayout, RefusesWhatDoesNotFitByName) {
  constexpr ExchangeFormat kGptq = ExchangeFormat::kGptqV2;
  const ExchangeSizes sizes{32, 64, 4, 32};
  const ExchangeTensors good = MakeTensors(kGptq, sizes, Groups::kInOrder, 3);
  InlineExecutor executor;
  const auto error = [&](ExchangeFormat format, const ExchangeSizes& s, const ExchangeTensors& t) {
    return FromExchange(format, s, t, executor).status().message();
  };
  ASSERT_TRUE(FromExchange(kGptq, sizes, good, executor).ok());
  EXPECT_THAT(error(kGptq, {32, 64, 5, 32}, good), HasSubstr("bits = 5"));
  EXPECT_THAT(error(ExchangeFormat::kAwq, {32, 64, 3, 32}, good), HasSubstr("bits = 3"));
  EXPECT_THAT(error(kGptq, {0, 64, 4, 32}, good), HasSubstr("rows = 0"));
  EXPECT_THAT(error(kGptq, {uint64_t{1} << 40, 64, 4, 32}, good), HasSubstr("rows = "));
  EXPECT_THAT(error(kGptq, {32, 64, 4, 0}, good), HasSubstr("group_size = 0"));
  EXPECT_THAT(error(kGptq, {33, 64, 4, 32}, good), HasSubstr("33 outputs"));
  EXPECT_THAT(error(kGptq, {32, 63, 4, 32}, good), HasSubstr("63 inputs"));
  EXPECT_THAT(error(kGptq, {32, 128, 4, 32}, good), HasSubstr("qweight is I32 [8, 32]"));
  EXPECT_THAT(error(kGptq, {32, 64, 4, 64}, good), HasSubstr("qzeros is I32 [2, 4]"));
  EXPECT_THAT(error(ExchangeFormat::kAwq, sizes, good), HasSubstr("qweight"));

  ExchangeTensors bad = good;
  bad.qweight = Tensor();
  EXPECT_THAT(error(kGptq, sizes, bad), HasSubstr("no qweight"));
  bad = good;
  bad.scales = *Tensor::Zeros(DType::kF32, {2, 32});
  EXPECT_THAT(error(kGptq, sizes, bad), HasSubstr("scales is F32"));
  bad = MakeTensors(kGptq, sizes, Groups::kInOrder, 3);
  bad.scales.mutable_as<uint16_t>()[32 + 7] = 0x7C00;  // infinity
  EXPECT_THAT(error(kGptq, sizes, bad), AllOf(HasSubstr("row 7 group 1"), HasSubstr("finite")));

  bad = MakeTensors(kGptq, sizes, Groups::kInOrder, 3);
  for (const int32_t group : {-1, 2, std::numeric_limits<int32_t>::min()}) {
    bad.g_idx.mutable_as<int32_t>()[5] = group;
    EXPECT_THAT(error(kGptq, sizes, bad), HasSubstr("g_idx[5] = " + std::to_string(group)));
  }
  bad.g_idx.mutable_as<int32_t>()[5] = 1;
  EXPECT_THAT(error(kGptq, sizes, bad), HasSubstr("group 0 31 inputs, must be 32"));
  ExchangeTensors awq = MakeTensors(ExchangeFormat::kAwq, sizes, Groups::kInOrder, 3);
  EXPECT_THAT(error(ExchangeFormat::kAwq, sizes, awq), HasSubstr("g_idx"));
}

// A scale of 0 makes weights of 0 of any codes and zeros.
TEST(ExchangeLayout, ScalesOfZeroMakeZeros) {
  InlineExecutor executor;
  const ExchangeSizes sizes{32, 64, 4, 32};
  for (const ExchangeFormat format :
       {ExchangeFormat::kGptqV1, ExchangeFormat::kGptqV2, ExchangeFormat::kAwq}) {
    ExchangeTensors tensors = MakeTensors(format, sizes, Groups::kNone, 8);
    tensors.scales.mutable_as<uint16_t>()[7] = 0;
    tensors.scales.mutable_as<uint16_t>()[32 + 9] = 0x8000;  // -0
    const auto matrix = FromExchange(format, sizes, tensors, executor);
    ASSERT_TRUE(matrix.ok()) << matrix.status().message();
    std::vector<float> weights(32 * 64), again(32 * 64);
    DecodeRows(*matrix, 0, 32, weights.data());
    for (uint64_t r = 0; r < 32; ++r) {
      for (uint64_t c = 0; c < 64; ++c) {
        ASSERT_EQ(weights[r * 64 + c], WeightOf(format, sizes, tensors, r, c)) << r << " " << c;
        if ((r == 7 && c < 32) || (r == 9 && c >= 32)) {
          ASSERT_EQ(weights[r * 64 + c], 0);
        }
      }
    }
    const auto back = ToExchange(format, *matrix, executor);
    ASSERT_TRUE(back.ok()) << back.status().message();
    EXPECT_EQ(back->scales.as<uint16_t>()[7], 0x3C00);
    DecodeRows(*FromExchange(format, sizes, *back, executor), 0, 32, again.data());
    EXPECT_EQ(again, weights);
  }
}

// Other programs divide by scales; rows of zeros are zeros there too.
TEST(ExchangeLayout, GroupsOfZerosHaveAScale) {
  InlineExecutor executor;
  const GroupedLayout layout = testing::MakeLayout(32, 64, 4, 32, ZeroKind::kPacked);
  GroupedTensors parts = testing::RandomTensors(layout, 5);
  std::fill_n(parts.zero.mutable_data(), parts.zero.num_bytes(), uint8_t{0x99});
  parts.zero.mutable_data()[3] = 0x90;  // row 3: 0 and 9
  parts.scale.mutable_as<uint16_t>()[3 * 2] = 0x8000;
  const auto matrix = MakeGroupedMatrix(layout, std::move(parts));
  ASSERT_TRUE(matrix.ok()) << matrix.status().message();
  for (const ExchangeFormat format :
       {ExchangeFormat::kGptqV1, ExchangeFormat::kGptqV2, ExchangeFormat::kAwq}) {
    const auto tensors = ToExchange(format, *matrix, executor);
    ASSERT_TRUE(tensors.ok()) << tensors.status().message();
    EXPECT_EQ(tensors->scales.as<uint16_t>()[3], 0x3C00);
    const auto back = FromExchange(format, {32, 64, 4, 32}, *tensors, executor);
    ASSERT_TRUE(back.ok()) << back.status().message();
    std::vector<float> before(32 * 64), after(32 * 64);
    DecodeRows(*matrix, 0, 32, before.data());
    DecodeRows(*back, 0, 32, after.data());
    EXPECT_EQ(after, before);
    EXPECT_EQ(after[3 * 64 + 5], 0.0f);
  }
}

TEST(ExchangeLayout, RefusesWhatAFormatCannotSay) {
  InlineExecutor executor;
  const auto error = [&](ExchangeFormat format, const GroupedLayout& layout) {
    GroupedTensors tensors = testing::RandomTensors(layout, 4);
    auto matrix = MakeGroupedMatrix(layout, std::move(tensors));
    return ToExchange(format, *matrix, executor).status().message();
  };
  using testing::MakeLayout;
  EXPECT_THAT(error(ExchangeFormat::kGptqV2, MakeLayout(32, 64, 5, 32)), HasSubstr("bits = 5"));
  EXPECT_THAT(error(ExchangeFormat::kGptqV2, MakeLayout(32, 64, 4, 32)), HasSubstr("integer"));
  EXPECT_THAT(error(ExchangeFormat::kGptqV1, MakeLayout(32, 64, 2, 8, ZeroKind::kPacked)),
              HasSubstr("is 0, must be an integer from 1 to 3"));
  // 2^bits, which would be stored as all ones.
  const GroupedLayout layout = MakeLayout(32, 64, 4, 32);
  GroupedTensors parts = testing::RandomTensors(layout, 4);
  std::fill_n(parts.zero.mutable_as<uint16_t>(), 64, FloatToHalf(16));
  const auto sixteen = MakeGroupedMatrix(layout, std::move(parts));
  ASSERT_TRUE(sixteen.ok()) << sixteen.status().message();
  EXPECT_THAT(
      std::string(ToExchange(ExchangeFormat::kGptqV1, *sixteen, executor).status().message()),
      HasSubstr("is 16, must be an integer from 1 to 15"));
  EXPECT_THAT(error(ExchangeFormat::kAwq, MakeLayout(32, 64, 4, 32, ZeroKind::kSymmetric, true)),
              HasSubstr("act-order"));
  EXPECT_THAT(error(ExchangeFormat::kAwq, MakeLayout(36, 64, 4, 32, ZeroKind::kSymmetric)),
              HasSubstr("36 outputs"));
}

}  // namespace
}  // namespace tq
