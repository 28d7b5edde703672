#include "checkpoint/gguf_blocks.h"

#include <gtest/gtest.h>

#include <bit>

#include "checkpoint/gguf.h"

namespace tq {
namespace {

// blocks.gguf is made by the format's reference implementation: benchmarks/oracles/gguf_blocks.py.
TEST(GgufBlocks, DecodesToTheBitAsTheReferenceDoes) {
  const auto file = GgufFile::Open(TQ_GOLDEN_DIR "/gguf/blocks.gguf");
  ASSERT_TRUE(file.ok()) << file.status().message();
  int types = 0;
  for (const GgufTensor& tensor : (*file)->tensors()) {
    if (tensor.name.ends_with(".expected")) continue;
    ++types;
    EXPECT_EQ(GgufTypeName(static_cast<uint32_t>(tensor.type)), tensor.name);
    const GgufTensor* reference = (*file)->Find(tensor.name + ".expected");
    ASSERT_NE(reference, nullptr);
    ASSERT_EQ(reference->shape, tensor.shape);
    const auto values = (*file)->LoadFloat(tensor), expected = (*file)->LoadFloat(*reference);
    ASSERT_TRUE(values.ok() && expected.ok());
    for (uint64_t i = 0; i < values->num_elements(); ++i) {
      EXPECT_EQ(std::bit_cast<uint32_t>(values->as<float>()[i]),
                std::bit_cast<uint32_t>(expected->as<float>()[i]))
          << tensor.name << " element " << i;
    }
  }
  EXPECT_EQ(types, 6);  // all but F32, which the expected values are
}

TEST(GgufBlocks, SizesOfAllTypesWeRead) {
  int known = 0;
  for (uint32_t type = 0; type < 256; ++type) known += GgufBlockFormat(type).has_value();
  EXPECT_EQ(known, 7);
  EXPECT_EQ(GgufTypeName(12), "Q4_K");
  EXPECT_EQ(GgufTypeName(200), "number 200 (unknown)");
}

}  // namespace
}  // namespace tq
