#include "tokenizer/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <string>

#include "base/random.h"

namespace tq {
namespace {

std::array<int32_t, 256> IdentityBytes() {
  std::array<int32_t, 256> tokens;
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

// The definition, in O(n^2): merge the leftmost pair of the lowest rank until none is left.
std::vector<int32_t> Reference(std::string_view word, const std::vector<TokenMerge>& merges) {
  std::map<std::pair<int32_t, int32_t>, size_t> ranks;
  for (size_t i = 0; i < merges.size(); ++i) ranks[{merges[i].left, merges[i].right}] = i;
  std::vector<int32_t> ids;
  for (const char c : word) ids.push_back(static_cast<uint8_t>(c));
  while (true) {
    size_t best = merges.size(), at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = ranks.find({ids[i], ids[i + 1]});
      if (found != ranks.end() && found->second < best) best = found->second, at = i;
    }
    if (best == merges.size()) return ids;
    ids[at] = merges[best].result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(at) + 1);
  }
}

std::vector<int32_t> Encoded(const Bpe& bpe, std::string_view word) {
  std::vector<int32_t> ids;
  bpe.Encode({&word, 1}, ids);
  return ids;
}

TEST(Bpe, EqualsTheDefinition) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed, "bpe_test");
    // Tokens over the letters a to d; each merge joins two that exist into a new one.
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    std::vector<int32_t> usable = {'a', 'b', 'c', 'd'};
    std::map<std::string, int32_t> ids;
    std::map<std::pair<int32_t, int32_t>, bool> taken;
    std::vector<TokenMerge> merges;
    for (int i = 0; i < 60; ++i) {
      const int32_t left = usable[random.NextBelow(usable.size())];
      const int32_t right = usable[random.NextBelow(usable.size())];
      if (taken.contains({left, right})) continue;
      taken[{left, right}] = true;
      const std::string text =
          tokens[static_cast<size_t>(left)] + tokens[static_cast<size_t>(right)];
      auto [found, inserted] = ids.emplace(text, static_cast<int32_t>(tokens.size()));
      if (inserted) {
        tokens.push_back(text);
        usable.push_back(found->second);
      }
      merges.push_back({left, right, found->second});
    }
    const auto table = MergeTable::Create(merges, tokens.size());
    ASSERT_TRUE(table.ok());
    const Bpe bpe(*table, IdentityBytes());
    for (size_t size = 0; size < 70; ++size) {
      std::string word;
      while (word.size() < size) word += "abcde"[random.NextBelow(random.NextBelow(2) ? 5 : 2)];
      ASSERT_EQ(Encoded(bpe, word), Reference(word, merges)) << word;
    }
  }
}

TEST(Bpe, DropsBytesWithoutToken) {
  const auto table = MergeTable::Create(std::vector<TokenMerge>{{'a', 'b', 256}}, 257);
  auto bytes = IdentityBytes();
  bytes['x'] = -1;
  const Bpe bpe(*table, bytes);
  EXPECT_EQ(Encoded(bpe, "axb"), (std::vector<int32_t>{256}));
  EXPECT_TRUE(Encoded(bpe, "xxx").empty());
  EXPECT_TRUE(Encoded(bpe, "").empty());
}

TEST(Bpe, TakesKnownWordsWhole) {
  const auto table = MergeTable::Create(std::vector<TokenMerge>{{'a', 'b', 256}}, 258);
  const Bpe bpe(*table, IdentityBytes(), TokenTrie({{"abc", 257}, {"a", 'a'}}));
  EXPECT_EQ(Encoded(bpe, "abc"), (std::vector<int32_t>{257}));
  EXPECT_EQ(Encoded(bpe, "abcd"), (std::vector<int32_t>{256, 'c', 'd'}));
}

// "aba" can be made of a, ba and of ab, a. Where both could be made, the first merge of the
// list is, or if they tie the leftmost.
TEST(Bpe, MergesOfOneTokenMayTie) {
  enum : int32_t { kA, kB, kAb, kBa, kAba };
  const std::vector<TokenMerge> merges = {
      {kA, kB, kAb}, {kB, kA, kBa}, {kA, kBa, kAba}, {kAb, kA, kAba}};
  const auto merged = [&](bool tie) {
    const auto table = MergeTable::Create(merges, 5, tie);
    BpeScratch scratch;
    scratch.tokens = {kAb, kA, kBa};
    std::vector<int32_t> ids;
    MergeTokens(*table, scratch, ids);
    return ids;
  };
  EXPECT_EQ(merged(false), (std::vector<int32_t>{kAb, kAba}));
  EXPECT_EQ(merged(true), (std::vector<int32_t>{kAba, kBa}));
}

// "aa" and "aaa" rank equally: in "aaaaaa" they are made from the left, in turn.
TEST(Bpe, MergesOfSeveralTokensMayTie) {
  enum : int32_t { kA, kAa, kAaa };
  const std::vector<TokenMerge> merges = {{kA, kA, kAa}, {kAa, kA, kAaa}, {kA, kAa, kAaa}};
  const auto merged = [&](std::vector<int32_t> tied, size_t size) {
    const auto table = MergeTable::Create(merges, 3, true, tied);
    BpeScratch scratch;
    scratch.tokens.assign(size, kA);
    std::vector<int32_t> ids;
    MergeTokens(*table, scratch, ids);
    return ids;
  };
  EXPECT_EQ(merged({}, 6), (std::vector<int32_t>{kAa, kAa, kAa}));
  EXPECT_EQ(merged({kAaa}, 6), (std::vector<int32_t>{kAaa, kAaa}));
  EXPECT_EQ(merged({kAaa}, 5), (std::vector<int32_t>{kAaa, kAa}));
  EXPECT_EQ(merged({kAaa}, 4), (std::vector<int32_t>{kAaa, kA}));
}

TokenizerData CharacterData() {
  TokenizerData data;
  data.model = TokenModel::kCharacterBpe;
  data.pre_tokenizer = PreTokenizerKind::kNone;
  data.tokens = {"<unk>", "a", "\u00E9", "a\u00E9", "<0x78>", "<0xFF>"};
  data.types = {TokenType::kControl, TokenType::kNormal, TokenType::kNormal,
                TokenType::kNormal,  TokenType::kByte,   TokenType::kByte};
  data.merges = {{1, 2, 3}};
  data.unk = 0;
  data.missing_to_unk = true;
  return data;
}

std::vector<int32_t> Encoded(const TokenizerData& data, std::string_view word) {
  const auto table = MergeTable::Create(data.merges, data.tokens.size());
  std::vector<int32_t> ids;
  CharacterBpe(*table, CharacterTokens(data)).Encode({&word, 1}, ids);
  return ids;
}

TEST(CharacterBpe, FallsBackToBytesAndThenToTheUnknownToken) {
  TokenizerData data = CharacterData();
  EXPECT_EQ(Encoded(data, "a\u00E9\u00E9"), (std::vector<int32_t>{3, 2}));
  EXPECT_EQ(Encoded(data, "ax\xFF"), (std::vector<int32_t>{1, 4, 5}));
  EXPECT_EQ(Encoded(data, "\u00EA\u00EBa\xC3"), (std::vector<int32_t>{0, 0, 1, 0}));
  data.fuse_unk = true;
  EXPECT_EQ(Encoded(data, "\u00EA\u00EBa\xC3"), (std::vector<int32_t>{0, 1, 0}));
  data.missing_to_unk = false;
  EXPECT_EQ(Encoded(data, "\u00EA\u00EBa\xC3"), (std::vector<int32_t>{1}));
}

TEST(MergeTable, NamesTheSamePairTwice) {
  const std::vector<TokenMerge> merges = {{1, 2, 3}, {0, 1, 4}, {1, 2, 3}};
  const auto table = MergeTable::Create(merges, 5);
  ASSERT_FALSE(table.ok());
  EXPECT_NE(table.status().message().find("merges 0 and 2"), std::string::npos)
      << table.status().message();
}

TEST(MergeTable, FindsEveryPairAndNoOther) {
  std::vector<TokenMerge> merges;
  for (int32_t left = 49; left >= 0; left -= 3) {
    for (int32_t right = 0; right < 50; right += 1 + left % 4) merges.push_back({left, right, 0});
  }
  const auto table = MergeTable::Create(merges, 50);
  ASSERT_TRUE(table.ok());
  size_t found = 0;
  for (int32_t left = 0; left < 50; ++left) {
    for (int32_t right = 0; right < 50; ++right) {
      const uint32_t place = table->Find(left, right);
      if (place == MergeTable::kNone) continue;
      ++found;
      EXPECT_EQ(table->Rank(place), place);
      EXPECT_EQ(merges[place].left, left);
      EXPECT_EQ(merges[place].right, right);
    }
  }
  EXPECT_EQ(found, merges.size());
}

}  // namespace
}  // namespace tq
