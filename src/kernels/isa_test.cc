#include "kernels/isa.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace tq {
namespace {

TEST(IsaTest, ReferenceIsAlwaysThere) {
  EXPECT_TRUE(IsaSupported(Isa::kReference));
  EXPECT_TRUE(IsaSupported(CurrentIsa()));
}

// Robustness case 69.
TEST(IsaTest, BadForceIsaNamesTheSupportedLevels) {
  const char* before = std::getenv("TQ_FORCE_ISA");
  const std::string saved = before ? before : "";
  setenv("TQ_FORCE_ISA", "avx9000", 1);
  const Status status = CheckIsa();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("reference"), std::string::npos);
  setenv("TQ_FORCE_ISA", "reference", 1);
  EXPECT_TRUE(CheckIsa().ok());
  if (before) {
    setenv("TQ_FORCE_ISA", saved.c_str(), 1);
  } else {
    unsetenv("TQ_FORCE_ISA");
  }
}

}  // namespace
}  // namespace tq
