#include "checkpoint/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "../../tests/support/gguf_builder.h"
#include "../../tests/support/temp_folder.h"
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

using namespace tq::testing;  // NOLINT: the test support
constexpr auto kInvalid = StatusCode::kInvalidArgument;
constexpr auto kDataLoss = StatusCode::kDataLoss;
constexpr auto kUnimplemented = StatusCode::kUnimplemented;
constexpr auto kNotFound = StatusCode::kNotFound;

class Gguf : public ::testing::Test {
 protected:
  StatusOr<std::unique_ptr<GgufFile>> Open(std::string_view bytes) {
    WriteText(folder_ / "x.gguf", bytes);
    return GgufFile::Open(folder_ / "x.gguf");
  }
  StatusOr<std::unique_ptr<GgufFile>> Open(const GgufBuilder& builder) {
    return Open(builder.Build());
  }
  TempFolder folder_;
};

// A header whose counts are lies.
std::string Preamble(uint32_t version, uint64_t tensors, uint64_t keys) {
  std::string file = "GGUF";
  PutRaw(file, version);
  PutRaw(file, tensors);
  PutRaw(file, keys);
  return file;
}

std::string ArrayBytes(uint32_t type, uint64_t count, std::string_view elements = "") {
  std::string bytes;
  PutRaw(bytes, type);
  PutRaw(bytes, count);
  bytes += elements;
  return bytes;
}

TEST_F(Gguf, ReadsMetadataOfEveryType) {
  GgufBuilder builder;
  builder.Scalar<uint8_t>("u8", 0, 200)
      .Scalar<int8_t>("i8", 1, -100)
      .Scalar<uint16_t>("u16", 2, 60000)
      .Scalar<int16_t>("i16", 3, -30000)
      .Scalar<uint32_t>("u32", 4, 4000000000u)
      .Scalar<int32_t>("i32", 5, -2000000000)
      .Scalar<float>("f32", 6, 0.5f)
      .Bool("bool", true)
      .String("text", "abc")
      .Scalar<uint64_t>("u64", 10, uint64_t{1} << 63)
      .Scalar<int64_t>("i64", 11, -5)
      .Scalar<double>("f64", 12, 0.25)
      .Strings("words", {"a", "", "ccc"})
      .Ints("numbers", {1, -2, 3})
      .Key("bytes", 9, ArrayBytes(0, 3, "\x01\x02\xff"))
      .Key("none", 9, ArrayBytes(6, 0));
  const auto opened = Open(builder);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const GgufFile& file = **opened;
  EXPECT_EQ(*file.GetUint("u8"), 200u);
  EXPECT_EQ(*file.GetUint("u16"), 60000u);
  EXPECT_EQ(*file.GetUint("u32"), 4000000000u);
  EXPECT_EQ(*file.GetUint("u64"), uint64_t{1} << 63);
  EXPECT_EQ(std::get<int64_t>(file.metadata().find("i8")->second.value), -100);
  EXPECT_EQ(std::get<int64_t>(file.metadata().find("i16")->second.value), -30000);
  EXPECT_EQ(std::get<int64_t>(file.metadata().find("i32")->second.value), -2000000000);
  EXPECT_EQ(*file.GetFloat("f32"), 0.5);
  EXPECT_EQ(*file.GetFloat("f64"), 0.25);
  EXPECT_TRUE(*file.GetBoolOr("bool", false));
  EXPECT_EQ(*file.GetString("text"), "abc");
  EXPECT_EQ(**file.GetStrings("words"), (std::vector<std::string>{"a", "", "ccc"}));
  EXPECT_EQ(**file.GetInts("numbers"), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(**file.GetInts("bytes"), (std::vector<int64_t>{1, 2, 255}));
  EXPECT_EQ(*file.GetUintOr("absent", 7), 7u);
  EXPECT_THAT(file.GetUint("absent"), Fails(kNotFound, "x.gguf", "absent"));
  EXPECT_THAT(file.GetUint("i64"), Fails(kInvalid, "i64"));
  EXPECT_THAT(file.GetUint("text"), Fails(kInvalid, "text", "integer"));
  EXPECT_THAT(file.GetUintOr("f32", 1), Fails(kInvalid, "f32"));
  EXPECT_THAT(file.GetFloatOr("u8", 1), Fails(kInvalid, "u8"));
  EXPECT_THAT(file.GetBoolOr("u8", true), Fails(kInvalid, "u8"));
  EXPECT_THAT(file.GetStrings("numbers"), Fails(kInvalid, "numbers"));
}

TEST_F(Gguf, ReadsTensorsAtAnyAlignment) {
  for (const uint32_t alignment : {8u, 32u, 256u}) {
    GgufBuilder builder;
    builder.alignment = alignment;
    builder.Uint("general.alignment", alignment);
    builder.Tensor("a", kPackF32, {3}, PackGguf(kPackF32, {1, 2, 3}));
    builder.Tensor("b", kPackF16, {2, 2}, PackGguf(kPackF16, {4, 5, 6, 7}));
    const auto file = Open(builder);
    ASSERT_TRUE(file.ok()) << file.status().message();
    const GgufTensor* b = (*file)->Find("b");
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(b->offset % alignment, 0u);
    const auto tensor = (*file)->LoadFloat(*b);
    ASSERT_TRUE(tensor.ok());
    EXPECT_EQ(tensor->as<float>()[3], 7);
    EXPECT_EQ((*file)->Bytes(*b)->size(), 8u);
    EXPECT_EQ((*file)->Find("c"), nullptr);
  }
}

// Robustness case 16.
TEST_F(Gguf, MagicAndVersion) {
  EXPECT_THAT(Open(std::string_view("GGUF")), Fails(kDataLoss, "4 bytes"));
  EXPECT_THAT(Open("GGML" + std::string(40, '\0')), Fails(kInvalid, "magic"));
  for (const uint32_t version : {0u, 1u, 2u, 4u, 0xffffffffu}) {
    EXPECT_THAT(Open(Preamble(version, 0, 0)),
                Fails(kUnimplemented, "version " + std::to_string(version)));
  }
  EXPECT_THAT(Open(Preamble(0x03000000, 0, 0)), Fails(kUnimplemented, "byte order"));
  EXPECT_TRUE(Open(Preamble(3, 0, 0)).ok());
}

// Robustness case 17.
TEST_F(Gguf, Counts) {
  for (const uint64_t count : {uint64_t{1} << 63, ~uint64_t{0}, uint64_t{1} << 32}) {
    EXPECT_THAT(Open(Preamble(3, count, 0)), Fails(kInvalid, std::to_string(count) + " tensors"));
    EXPECT_THAT(Open(Preamble(3, 0, count)), Fails(kInvalid, std::to_string(count) + " metadata"));
  }
  EXPECT_THAT(Open(Preamble(3, 5, 0)), Fails(kDataLoss, "truncated"));
  EXPECT_THAT(Open(Preamble(3, 0, 5)), Fails(kDataLoss, "truncated"));
}

// Robustness case 18.
TEST_F(Gguf, Strings) {
  std::string file = Preamble(3, 0, 1);
  PutRaw<uint64_t>(file, uint64_t{1} << 62);
  EXPECT_THAT(Open(file), Fails(kInvalid, "4611686018427387904 bytes"));
  EXPECT_THAT(Open(GgufBuilder().Uint("", 1)), Fails(kInvalid, "empty"));
  EXPECT_THAT(Open(GgufBuilder().Uint("k", 1).Uint("k", 1)), Fails(kInvalid, "duplicate", "'k'"));
  std::string text;
  PutRaw<uint64_t>(text, ~uint64_t{0});
  EXPECT_THAT(Open(GgufBuilder().Key("k", kGgufString, text)), Fails(kInvalid, "'k'"));
  EXPECT_THAT(Open(GgufBuilder().Key("k", 13, "")), Fails(kInvalid, "'k'", "type 13"));
  EXPECT_THAT(Open(GgufBuilder().Scalar<uint8_t>("k", kGgufBool, 2)), Fails(kInvalid, "boolean 2"));
  EXPECT_THAT(Open(GgufBuilder().Tensor("", 0, {1}, "1234")), Fails(kInvalid, "empty"));
  EXPECT_THAT(Open(GgufBuilder().Tensor("t", 0, {1}, "1234").Tensor("t", 0, {1}, "1234")),
              Fails(kInvalid, "duplicate tensor 't'"));
  EXPECT_THAT(Open(GgufBuilder().Tensor(std::string(5000, 't'), 0, {1}, "1234")),
              Fails(kInvalid, "tensor name", "1024"));
}

// Robustness case 19.
TEST_F(Gguf, Arrays) {
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += ArrayBytes(kGgufArray, 1);
  EXPECT_THAT(Open(GgufBuilder().Key("k", kGgufArray, nested)), Fails(kUnimplemented, "'k'"));
  EXPECT_THAT(Open(GgufBuilder().Key("k", kGgufArray, ArrayBytes(99, 1))),
              Fails(kUnimplemented, "unknown type 99"));
  for (const uint64_t count : {uint64_t{1000}, uint64_t{1} << 61, ~uint64_t{0}}) {
    for (const uint32_t type : {0u, 4u, 8u, 12u}) {
      EXPECT_THAT(Open(GgufBuilder().Key("k", kGgufArray, ArrayBytes(type, count))),
                  Fails(kInvalid, "'k'", std::to_string(count)));
    }
  }
  std::string big;
  PutRaw(big, ~uint64_t{0});
  EXPECT_THAT(Open(GgufBuilder().Key("k", kGgufArray, ArrayBytes(kGgufUint64, 1, big))),
              Fails(kInvalid, "2^63"));
}

// Robustness case 20.
TEST_F(Gguf, Alignment) {
  for (const uint32_t alignment : {0u, 3u, 4u, 48u, 1u << 31, ~0u}) {
    EXPECT_THAT(Open(GgufBuilder().Uint("general.alignment", alignment)),
                Fails(kInvalid, "general.alignment", std::to_string(alignment)));
  }
  EXPECT_THAT(Open(GgufBuilder().Scalar<uint64_t>("general.alignment", kGgufUint64, 32)),
              Fails(kInvalid, "general.alignment"));
  EXPECT_THAT(Open(GgufBuilder().String("general.alignment", "32")),
              Fails(kInvalid, "general.alignment"));
}

// Robustness case 21.
TEST_F(Gguf, Dimensions) {
  std::string tensor;
  PutString(tensor, "t");
  for (const uint32_t dimensions : {0u, 5u, ~0u}) {
    std::string file = Preamble(3, 1, 0) + tensor;
    PutRaw(file, dimensions);
    file.resize(file.size() + 64, '\1');
    EXPECT_THAT(Open(file), Fails(kInvalid, "'t'", std::to_string(dimensions) + " dimensions"));
  }
  const auto with = [this](const std::vector<uint64_t>& ne) {
    return Open(GgufBuilder().RawTensor("t", kPackF32, ne, 0)).status();
  };
  EXPECT_THAT(with({0}), Fails(kInvalid, "'t'", "dimension 0 is 0"));
  EXPECT_THAT(with({4, static_cast<uint64_t>(-4)}), Fails(kInvalid, "dimension 1 is -4"));
  EXPECT_THAT(with({uint64_t{1} << 32, uint64_t{1} << 32}), Fails(kInvalid, "overflow"));
  EXPECT_THAT(with({uint64_t{1} << 62}), Fails(kInvalid, "overflow"));
  EXPECT_THAT(with({uint64_t{1} << 40}), Fails(kDataLoss, "outside the file"));
}

// Robustness case 22.
TEST_F(Gguf, Types) {
  // Removed, of other tools, quantised otherwise, of forks, and nonsense.
  const std::pair<uint32_t, const char*> cases[] = {
      {4, "Q4_2"},       {9, "Q8_1"},        {15, "Q8_K"},        {16, "IQ2_XXS"},
      {17, "IQ2_XS"},    {18, "IQ3_XXS"},    {19, "IQ1_S"},       {21, "IQ3_S"},
      {22, "IQ2_S"},     {24, "I8"},         {28, "F64"},         {29, "IQ1_M"},
      {31, "Q4_0_4_4"},  {38, "IQ4_NL_8_8"}, {39, "MXFP4"},       {40, "NVFP4"},
      {41, "number 41"}, {46, "number 46"},  {137, "number 137"}, {~0u, "number 4294967295"}};
  for (const auto& [type, name] : cases) {
    EXPECT_THAT(Open(GgufBuilder().RawTensor("t", type, {256}, 0)),
                Fails(kUnimplemented, "tensor 't'", std::string("type ") + name, "Q4_K, Q5_K"));
  }
}

// Robustness case 23.
TEST_F(Gguf, Offsets) {
  const auto with = [this](uint64_t first, uint64_t second) {
    GgufBuilder builder;
    builder.RawTensor("a", kPackF32, {8}, first).RawTensor("b", kPackF32, {16}, second);
    return Open(builder.Build() + std::string(96, '\0')).status();
  };
  EXPECT_TRUE(with(0, 32).ok());
  EXPECT_TRUE(with(64, 0).ok());
  EXPECT_THAT(with(0, 64), Fails(kDataLoss, "'b'", "outside the file"));
  EXPECT_THAT(with(0, ~uint64_t{0} - 31), Fails(kDataLoss, "'b'", "outside the file"));
  EXPECT_THAT(with(0, 33), Fails(kInvalid, "'b'", "33", "alignment 32"));
  EXPECT_THAT(with(32, 0), Fails(kInvalid, "overlap"));
  EXPECT_THAT(with(0, 0), Fails(kInvalid, "overlap"));
}

// Robustness case 46.
TEST_F(Gguf, RowsMustHoldWholeBlocks) {
  int types = 0;
  for (uint32_t type = 0; type < 64; ++type) {
    const auto format = GgufBlockFormat(type);
    if (!format || format->values == 1) continue;
    ++types;
    // Also where all rows together would hold whole blocks.
    for (const uint64_t columns : {uint64_t{1}, format->values / 2, format->values + 32 / 2}) {
      EXPECT_THAT(Open(GgufBuilder().RawTensor("t", type, {columns, format->values}, 0)),
                  Fails(kInvalid, "'t'", fmt::format("rows of {} values", columns),
                        fmt::format("{}'s block of {}", GgufTypeName(type), format->values)));
    }
  }
  EXPECT_EQ(types, 14);
}

// Codes that no encoder writes: not even one block of a row is read.
TEST_F(Gguf, UnsoundTernaryCodes) {
  for (const auto& [type, bytes, byte] : {std::tuple{34u, 54u, '\x01'}, {35u, 66u, '\x03'}}) {
    std::string blocks(4 * bytes, '\0');
    blocks[2 * bytes + 7] = byte;  // the second row's first block
    const auto file = Open(GgufBuilder().Tensor("t", type, {512, 2}, blocks));
    ASSERT_TRUE(file.ok()) << file.status().message();
    const GgufTensor& tensor = (*file)->tensors()[0];
    const std::string name = GgufTypeName(type);
    EXPECT_THAT((*file)->LoadFloat(tensor), Fails(kDataLoss, "x.gguf", "'t'", "block 2", name));
    std::vector<float> row(512);
    EXPECT_TRUE((*file)->LoadRow(tensor, 0, row.data()).ok());
    EXPECT_THAT((*file)->LoadRow(tensor, 1, row.data()), Fails(kDataLoss, "block 2", name));
  }
}

// Robustness case 15, case 23: cut anywhere.
TEST_F(Gguf, TruncationAnywhereIsAnError) {
  GgufBuilder builder;
  builder.Uint("n", 1).String("s", "text").Strings("l", {"a", "b"});
  builder.Tensor("t", kPackQ8_0, {32, 2}, PackGguf(kPackQ8_0, std::vector<float>(64, 1.0f)));
  const std::string whole = builder.Build();
  ASSERT_TRUE(Open(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(Open(whole.substr(0, size)).ok()) << size;
  }
}

// Robustness case 15.
TEST_F(Gguf, FileShrinksWhileRead) {
  GgufBuilder builder;
  builder.Tensor("t", kPackF32, {100'000}, std::string(400'000, '\0'));
  const auto file = Open(builder);
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(truncate((folder_ / "x.gguf").c_str(), 100), 0);
  EXPECT_THAT((*file)->LoadFloat((*file)->tensors()[0]), Fails(kDataLoss, "x.gguf"));
  EXPECT_THAT((*file)->Bytes((*file)->tensors()[0]), Fails(kDataLoss, "x.gguf"));
}

// Robustness case 12.
TEST_F(Gguf, ManyTensors) {
  GgufBuilder builder;
  for (int i = 0; i < 100'000; ++i) {
    builder.Tensor(fmt::format("blk.{}.weight", i), kPackF32, {1}, "1234");
  }
  const auto file = Open(builder);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_NE((*file)->Find("blk.99999.weight"), nullptr);
}

}  // namespace
}  // namespace tq
