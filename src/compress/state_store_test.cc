#include "compress/state_store.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "../../tests/support/temp_folder.h"

namespace tq {
namespace {

using testing::TempFolder;

TEST(StateStoreTest, SpillsToAFileWithoutAName) {
  const TempFolder folder;
  for (const uint64_t limit : {uint64_t{1} << 20, uint64_t{0}}) {
    auto store = StateStore::Create(1000, limit, folder.path());
    ASSERT_TRUE(store.ok()) << store.status().message();
    EXPECT_EQ(store->spilled(), limit == 0);
    store->data()[0] = 1;
    store->data()[999] = 2;
    EXPECT_EQ(store->data()[0] + store->data()[999], 3);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  }
}

TEST(StateStoreTest, ReleasedStatesKeepTheirValues) {
  const TempFolder folder;
  constexpr uint64_t kCount = 1 << 20;
  for (const uint64_t limit : {uint64_t{1} << 30, uint64_t{0}}) {
    auto store = StateStore::Create(kCount, limit, folder.path());
    ASSERT_TRUE(store.ok()) << store.status().message();
    for (uint64_t i = 0; i < kCount; ++i) store->data()[i] = static_cast<float>(i);
    store->Release(1000, 50000);
    store->Release(0, kCount);
    store->Release(kCount, 0);
    for (uint64_t i = 0; i < kCount; ++i) ASSERT_EQ(store->data()[i], static_cast<float>(i));
  }
}

// Robustness case 62, case 68: space is asked for at the start; a write into a hole of a mapped
// file on a full disk would end the process.
TEST(StateStoreTest, TooLittleSpaceIsAnError) {
  const TempFolder folder;
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {1000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const Status full = StateStore::Create(1000, 0, folder.path()).status();
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, ignored);
  EXPECT_EQ(full.code(), StatusCode::kIo);
  EXPECT_NE(full.message().find(folder.path().string()), std::string::npos) << full.message();
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  for (const uint64_t count : {uint64_t{1} << 58, uint64_t{1} << 62, UINT64_MAX}) {
    EXPECT_EQ(StateStore::Create(count, 0, folder.path()).status().code(),
              StatusCode::kResourceExhausted);
  }
  EXPECT_FALSE(StateStore::Create(1000, 0, folder / "absent").ok());
}

}  // namespace
}  // namespace tq
