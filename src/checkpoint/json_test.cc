#include "checkpoint/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

using tq::testing::Fails;
constexpr auto kInvalid = StatusCode::kInvalidArgument;

TEST(Json, BuildsTheDocument) {
  const std::string text =
      R"({"a": [1, -2, 3.5, "x", null, true, {"b": []}], "c": {"a": {}}, "d": [[], [1]]})";
  const auto json = ParseJson(text, "f");
  ASSERT_TRUE(json.ok()) << json.status().message();
  EXPECT_EQ(*json, nlohmann::json::parse(text));
  EXPECT_EQ(*ParseJson(" 7 ", "f"), 7);
}

TEST(Json, RefusesBrokenText) {
  for (const std::string text :
       {"", "{", "[1,]", "{\"a\" 1}", "nul", "[1] 2", "\"\xff\"", "\"\n\""}) {
    EXPECT_THAT(ParseJson(text, "dir/f.json"), Fails(kInvalid, "dir/f.json", "byte")) << text;
  }
  EXPECT_THAT(ParseJson(std::string("1\0", 2), "f"), Fails(kInvalid));
  EXPECT_THAT(ParseJson("[1e400]", "f"), Fails(kInvalid, "1e400"));
  EXPECT_THAT(ParseJson("{\"x\":1, \"y\":{\"x\":1, \"x\":2}}", "f"),
              Fails(kInvalid, "duplicate key 'x'"));
}

TEST(Json, BoundsDepthAndSize) {
  EXPECT_THAT(ParseJson(std::string(1'000'000, '['), "f"), Fails(kInvalid, "64 levels"));
  const std::string fits = std::string(64, '[') + std::string(64, ']');
  EXPECT_TRUE(ParseJson(fits, "f").ok());
  EXPECT_THAT(ParseJson("[" + fits + "]", "f"), Fails(kInvalid, "64 levels"));
  EXPECT_TRUE(ParseJson("[1,2,3]", "f", {.values = 4}).ok());
  EXPECT_THAT(ParseJson("[1,2,3,4]", "f", {.values = 4}),
              Fails(StatusCode::kResourceExhausted, "4 JSON values"));
}

TEST(Json, ErrorsStayShort) {
  EXPECT_THAT(ParseJson("[" + std::string(5'000'000, 'x') + "]", "f"), Fails(kInvalid));
  EXPECT_THAT(ParseJson("[\"" + std::string(5'000'000, 'x') + "\n\"]", "f"), Fails(kInvalid));
}

}  // namespace
}  // namespace tq
