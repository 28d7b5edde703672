#include "tokenizer/token_trie.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "base/random.h"

namespace tq {
namespace {

TEST(TokenTrie, FindsEveryTokenAndNoOther) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed, "token_trie_test");
    const auto some_text = [&] {
      std::string text;
      for (uint64_t n = random.NextBelow(6); n < 6; ++n) text += "ab\xFF\0"[random.NextBelow(4)];
      return text;
    };
    std::map<std::string, int32_t> tokens;
    for (int32_t id = 0; id < 40; ++id) tokens.emplace(some_text(), id);
    std::vector<std::pair<std::string_view, int32_t>> list(tokens.begin(), tokens.end());
    const TokenTrie trie(list);
    for (int i = 0; i < 300; ++i) {
      const std::string text = some_text();
      const auto found = tokens.find(text);
      ASSERT_EQ(trie.Find(text), found == tokens.end() ? -1 : found->second);
    }
  }
}

TEST(TokenTrie, StepsByByte) {
  const TokenTrie trie({{"ab", 7}, {"a", 3}, {"abc", 1}});
  EXPECT_EQ(trie.Token(TokenTrie::kRoot), -1);
  const TokenTrie::Node a = trie.Next(TokenTrie::kRoot, 'a');
  EXPECT_EQ(trie.Token(a), 3);
  EXPECT_EQ(trie.Token(trie.Next(a, 'b')), 7);
  EXPECT_EQ(trie.Next(a, 'c'), TokenTrie::kNone);
  EXPECT_EQ(trie.Find("abcd"), -1);
  EXPECT_EQ(trie.Find(""), -1);
}

TEST(TokenTrie, EmptyAndDoubled) {
  const TokenTrie none({});
  EXPECT_EQ(none.Find("a"), -1);
  EXPECT_EQ(none.Next(TokenTrie::kRoot, 0), TokenTrie::kNone);
  EXPECT_EQ(TokenTrie({{"a", 9}, {"a", 4}}).Find("a"), 4);
}

}  // namespace
}  // namespace tq
