#include "tensor/tensor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "../../tests/support/faulty_calls.h"
#include "../../tests/support/temp_folder.h"
#include "base/file_io.h"
#include "tensor/mapped_file.h"

namespace tq {
namespace {

using testing::read_faults;
using testing::TempFolder;

TEST(DTypeTest, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = HalfToFloat(static_cast<uint16_t>(h));
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(f))));
    } else {
      EXPECT_EQ(FloatToHalf(f), h);
    }
  }
}

TEST(DTypeTest, RoundsToNearestEven) {
  EXPECT_EQ(FloatToHalf(1.0f + 0x1p-11f), FloatToHalf(1.0f));          // tie to even
  EXPECT_EQ(FloatToHalf(1.0f + 3 * 0x1p-11f), FloatToHalf(1.0f) + 2);  // tie to even, up
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0);
  EXPECT_EQ(FloatToHalf(0x1.8p-25f), 1);
  EXPECT_EQ(FloatToBFloat16(1.0f + 0x1p-8f), FloatToBFloat16(1.0f));
  EXPECT_EQ(BFloat16ToFloat(FloatToBFloat16(3.0f)), 3.0f);
}

TEST(TensorTest, SizesAreChecked) {
  EXPECT_FALSE(NumBytes({uint64_t{1} << 40, uint64_t{1} << 40}, DType::kF32).ok());
  EXPECT_FALSE(NumBytes({uint64_t{1} << 62, 2}, DType::kF32).ok());
  EXPECT_EQ(*NumBytes({3, 0}, DType::kF32), 0u);
  EXPECT_EQ(*NumBytes({}, DType::kF64), 8u);
  const std::vector<float> values = {1, 2, 3};
  EXPECT_FALSE(Tensor::FromValues<float>(DType::kF32, {4}, values).ok());
}

TEST(TensorTest, ConvertsFloatingTypes) {
  const std::vector<double> values = {0.5, -2};
  StatusOr<Tensor> tensor = Tensor::FromValues<double>(DType::kF64, {2}, values);
  ASSERT_TRUE(tensor.ok());
  float out[2];
  ASSERT_TRUE(ConvertToFloat(tensor->view(), out).ok());
  EXPECT_EQ(out[0], 0.5f);
  EXPECT_EQ(out[1], -2.0f);
  StatusOr<Tensor> ints = Tensor::Zeros(DType::kI32, {2});
  EXPECT_EQ(ConvertToFloat(ints->view(), out).code(), StatusCode::kUnimplemented);
}

// Robustness case 68.
TEST(TensorTest, MemoryThatCannotBeHadIsAnError) {
  std::vector<uint64_t> sizes = {UINT64_MAX, UINT64_MAX - 63};
#if !defined(TQ_SANITIZED)  // the sanitizers' malloc aborts
  sizes.push_back(uint64_t{1} << 60);
#endif
  for (const uint64_t bytes : sizes) {
    const auto memory = AllocateAligned(bytes, "tensor 'x'");
    EXPECT_EQ(memory.status().code(), StatusCode::kResourceExhausted);
    EXPECT_NE(memory.status().message().find("tensor 'x'"), std::string::npos);
    EXPECT_NE(memory.status().message().find(std::to_string(bytes)), std::string::npos);
  }
}

// Robustness case 63.
TEST(MappedFileTest, ReadsThatFail) {
  const TempFolder folder;
  const auto path = folder / "file";
  ASSERT_TRUE(WriteFileAtomically(path, "0123456789").ok());
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok());
  char bytes[8] = {};
  read_faults = {{.error = EINTR}, {.most = 3}, {.error = EINTR}, {.most = 1}};
  ASSERT_TRUE((*file)->ReadAt(1, bytes, 8).ok());
  EXPECT_EQ(std::string(bytes, 8), "12345678");
  EXPECT_TRUE(read_faults.empty());
  read_faults = {{.most = 3}, {.error = EIO}};
  const Status status = (*file)->ReadAt(0, bytes, 8);
  EXPECT_EQ(status.code(), StatusCode::kIo);
  EXPECT_NE(status.message().find(path.string()), std::string::npos) << status.message();
}

TEST(MappedFileTest, DroppedPagesComeBack) {
  const TempFolder folder;
  std::string text(100000, 'x');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i % 23);
  ASSERT_TRUE(WriteFileAtomically(folder / "file", text).ok());
  const auto file = *MappedFile::Open(folder / "file");
  const Tensor tensor = Tensor::Mapped({DType::kU8, {90000}, file->data() + 5000}, file);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(tensor.data()), 90000),
              text.substr(5000, 90000));
    tensor.DropPages(10000, 50000);
    file->DropPages(0, text.size());
    file->DropPages(text.size(), 0);
  }
  Tensor own = *Tensor::FromValues<float>(DType::kF32, {2}, std::vector<float>{1, 2});
  own.DropPages(0, 8);
  EXPECT_EQ(own.as<float>()[1], 2);
}

// Robustness case 15.
TEST(MappedFileTest, NoticesTruncation) {
  const TempFolder folder;
  const auto path = folder / "file";
  ASSERT_TRUE(WriteFileAtomically(path, "0123456789").ok());
  auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->Range(2, 3)->front(), '2');
  EXPECT_FALSE((*file)->Range(8, 3).ok());
  EXPECT_FALSE((*file)->Range(UINT64_MAX, 2).ok());
  ASSERT_EQ(truncate(path.c_str(), 4), 0);
  EXPECT_EQ((*file)->VerifySize().code(), StatusCode::kDataLoss);
  char byte;
  EXPECT_EQ((*file)->ReadAt(8, &byte, 1).code(), StatusCode::kDataLoss);
  std::filesystem::remove(path);
  EXPECT_EQ(MappedFile::Open(path).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::Open("/dev/zero").status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tq
