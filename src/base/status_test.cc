#include "base/status.h"

#include <gtest/gtest.h>

#include <memory>

namespace tq {
namespace {

StatusOr<int> Half(int n) {
  if (n % 2 != 0) return InvalidArgument("n {}: must be even", n);
  return n / 2;
}

Status Quarter(int n, int* out) {
  TQ_ASSIGN_OR_RETURN(const int half, Half(n));
  TQ_ASSIGN_OR_RETURN(*out, Half(half));
  return OkStatus();
}

TEST(StatusTest, CarriesCodeAndMessageThroughMacros) {
  int out = 0;
  EXPECT_TRUE(Quarter(8, &out).ok());
  EXPECT_EQ(out, 2);
  const Status status = Quarter(6, &out);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "n 3: must be even");
  EXPECT_EQ(status.WithContext("model.safetensors").message(),
            "model.safetensors: n 3: must be even");
}

TEST(StatusTest, StatusOrHoldsMoveOnlyValues) {
  StatusOr<std::unique_ptr<int>> value(std::make_unique<int>(7));
  ASSERT_TRUE(value.ok());
  std::unique_ptr<int> taken = *std::move(value);
  EXPECT_EQ(*taken, 7);
}

TEST(StatusDeathTest, UsingAnAbsentValueAborts) {
  StatusOr<int> value = Half(3);
  EXPECT_DEATH((void)*value, "n 3: must be even");
}

}  // namespace
}  // namespace tq
