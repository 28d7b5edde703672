#include "checkpoint/gguf_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../../tests/support/temp_folder.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_names.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

using namespace tq::testing;  // NOLINT: the test support
using namespace std::literals;

std::vector<uint8_t> Bytes(uint64_t n, uint8_t first) {
  std::vector<uint8_t> bytes(n);
  for (uint64_t i = 0; i < n; ++i) bytes[i] = static_cast<uint8_t>(first + i);
  return bytes;
}

// The whole of a small file, to the byte.
TEST(GgufWriter, GoldenBytes) {
  TempFolder folder;
  GgufKeys keys;
  keys.Uint("u", 7);
  keys.Float("f", 1.5f);
  keys.Bool("b", true);
  keys.String("s", "text");
  keys.Strings("a", {"x", ""});
  keys.Ints("i", {-1, 2});
  keys.Floats("l", {1.5f, -2});
  const std::vector<GgufOutputTensor> tensors = {{"t", GgufEncoding::kF16, {3, 2}},
                                                 {"n", GgufEncoding::kF32, {1}}};
  auto writer = GgufWriter::Create(folder / "x.gguf", keys, tensors);
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  const std::vector<uint8_t> first = Bytes(12, 1), second = Bytes(4, 200);
  ASSERT_TRUE(writer->Append({first.data(), 5}).ok());
  ASSERT_TRUE(writer->Append({first.data() + 5, 7}).ok());
  ASSERT_TRUE(writer->Append(second).ok());
  EXPECT_FALSE(std::filesystem::exists(folder / "x.gguf"));
  ASSERT_TRUE(writer->Commit().ok());

  std::string expected =
      "GGUF\3\0\0\0"
      "\2\0\0\0\0\0\0\0\7\0\0\0\0\0\0\0"
      "\1\0\0\0\0\0\0\0u\4\0\0\0\7\0\0\0"
      "\1\0\0\0\0\0\0\0f\6\0\0\0\0\0\xc0\x3f"
      "\1\0\0\0\0\0\0\0b\7\0\0\0\1"
      "\1\0\0\0\0\0\0\0s\x8\0\0\0\4\0\0\0\0\0\0\0text"
      "\1\0\0\0\0\0\0\0a\x9\0\0\0\x8\0\0\0\2\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0x\0\0\0\0\0\0\0\0"
      "\1\0\0\0\0\0\0\0i\x9\0\0\0\5\0\0\0\2\0\0\0\0\0\0\0\xff\xff\xff\xff\2\0\0\0"
      "\1\0\0\0\0\0\0\0l\x9\0\0\0\6\0\0\0\2\0\0\0\0\0\0\0\0\0\xc0\x3f\0\0\0\xc0"
      "\1\0\0\0\0\0\0\0t\2\0\0\0\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0"
      "\1\0\0\0\0\0\0\0n\1\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0"s;
  expected.resize((expected.size() + 31) / 32 * 32);
  expected += "\1\2\3\4\5\6\7\x8\x9\xa\xb\xc"s + std::string(20, '\0');
  expected += "\xc8\xc9\xca\xcb"s + std::string(28, '\0');
  EXPECT_EQ(ReadText(folder / "x.gguf"), expected);
  EXPECT_EQ(writer->file_bytes(), expected.size());

  const auto file = GgufFile::Open(folder / "x.gguf");
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(*(*file)->GetUint("u"), 7u);
  EXPECT_EQ(**(*file)->GetStrings("a"), (std::vector<std::string>{"x", ""}));
  EXPECT_EQ((*file)->Find("t")->shape, (Shape{3, 2}));
}

TEST(GgufWriter, WithoutCommitNothingIsLeft) {
  TempFolder folder;
  {
    auto writer = GgufWriter::Create(folder / "x.gguf", {}, {{"t", GgufEncoding::kF32, {4}}});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->Append(Bytes(8, 0)).ok());
    EXPECT_FALSE(std::filesystem::is_empty(folder.path()));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

// Robustness case 62: space is asked for before anything is written.
TEST(GgufWriter, MoreThanTheDiskHas) {
  TempFolder folder;
  const GgufOutputTensor huge = {"t", GgufEncoding::kF32, {1 << 20, 1 << 20, 1 << 10}};
  EXPECT_THAT(GgufWriter::Create(folder / "x.gguf", {}, {huge}).status(),
              Fails(StatusCode::kResourceExhausted, "x.gguf", "the disk has"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(GgufNames, RowsOfAHeadChangePlaces) {
  // A head of 6: halves 0 1 2 and 3 4 5 become 0 3 1 4 2 5.
  const uint64_t expected[] = {0, 3, 1, 4, 2, 5};
  for (uint64_t row = 0; row < 6; ++row) {
    EXPECT_EQ(HuggingFaceRow(row, 6), expected[row]);
    EXPECT_EQ(HuggingFaceRow(row + 12, 6), expected[row] + 12);
    EXPECT_EQ(GgufRow(HuggingFaceRow(row + 18, 6), 6), row + 18);
  }
}

}  // namespace
}  // namespace tq
