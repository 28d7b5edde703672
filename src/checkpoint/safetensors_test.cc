#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>

#include "../../tests/support/temp_folder.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using namespace tq::testing;  // NOLINT: the test support

constexpr auto kInvalid = StatusCode::kInvalidArgument;
constexpr auto kDataLoss = StatusCode::kDataLoss;
constexpr auto kUnimplemented = StatusCode::kUnimplemented;
constexpr auto kNotFound = StatusCode::kNotFound;

std::string File(std::string_view header, std::string_view data = "") {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + std::string(header) +
         std::string(data);
}

class Safetensors : public ::testing::Test {
 protected:
  StatusOr<std::unique_ptr<SafetensorsFile>> Open(std::string_view bytes) {
    WriteText(folder_ / "x.safetensors", bytes);
    return SafetensorsFile::Open(folder_ / "x.safetensors");
  }
  Status Parse(std::string_view header, uint64_t data_bytes) {
    return ParseSafetensorsHeader(header, 0, data_bytes, "x.safetensors").status();
  }
  TempFolder folder_;
};

Tensor Bytes(std::string_view text) {
  return *Tensor::FromBytes(DType::kU8, {text.size()},
                            {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

TEST_F(Safetensors, WritesWhatItReads) {
  const std::vector<float> values = {1, -2, 3.5, 0, 1e-40f, 6};
  const std::vector<OutputTensor> tensors = {
      {"codes", Bytes("abc")},
      {"b.weight", *Tensor::FromValues<float>(DType::kF32, {2, 3}, values)},
      {"empty", *Tensor::Zeros(DType::kI32, {0, 7})},
      {"scalar", *Tensor::Zeros(DType::kF16, {})}};
  const fs::path path = folder_ / "out.safetensors";
  ASSERT_TRUE(WriteSafetensors(path, tensors).ok());
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status().message();
  ASSERT_EQ((*file)->entries().size(), 4u);
  EXPECT_EQ((*file)->entries().find("codes")->second.offset % 64, 0u);
  for (const bool copy : {false, true}) {
    const auto b = copy ? (*file)->Copy("b.weight") : (*file)->Get("b.weight");
    ASSERT_TRUE(b.ok());
    EXPECT_EQ(b->shape(), (Shape{2, 3}));
    std::vector<float> read(6);
    ASSERT_TRUE(ConvertToFloat(b->view(), read.data()).ok());
    EXPECT_EQ(read, values);
  }
  EXPECT_EQ((*file)->Get("scalar")->num_elements(), 1u);
  EXPECT_EQ((*file)->Copy("empty")->num_elements(), 0u);
  EXPECT_THAT((*file)->Get("absent"), Fails(kNotFound, "out.safetensors", "absent"));
  // The same arguments give the same bytes.
  ASSERT_TRUE(WriteSafetensors(folder_ / "again.safetensors", tensors).ok());
  EXPECT_EQ(ReadText(path), ReadText(folder_ / "again.safetensors"));
  EXPECT_THAT(WriteSafetensors(path, {{"a", Bytes("x")}, {"a", Bytes("y")}}),
              Fails(kInvalid, "'a' twice"));
}

TEST_F(Safetensors, StreamedTensorsAreWrittenInTheirTurn) {
  const auto streamed = [](const char* name, uint64_t bytes, const std::string& pieces) {
    const auto stream = [pieces](const ByteSink& sink) -> Status {
      for (const char& piece : pieces) {
        if (piece == '!') return DataLoss("no more bytes");
        TQ_RETURN_IF_ERROR(sink({reinterpret_cast<const uint8_t*>(&piece), 1}));
      }
      return OkStatus();
    };
    return OutputTensor{name, Tensor({DType::kU8, {bytes}, nullptr}, nullptr), stream};
  };
  const fs::path path = folder_ / "x.safetensors";
  ASSERT_TRUE(
      WriteSafetensors(path, {streamed("b", 3, "xyz"), {"a", Bytes("uv")}, streamed("c", 1, "w")})
          .ok());
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ((*file)->Get("b")->data()[2], 'z');
  EXPECT_EQ((*file)->Get("a")->data()[0], 'u');
  EXPECT_EQ((*file)->Get("c")->data()[0], 'w');
  EXPECT_THAT(WriteSafetensors(folder_ / "y.safetensors", {streamed("b", 3, "xy!")}),
              Fails(StatusCode::kDataLoss, "no more bytes"));
  EXPECT_FALSE(fs::exists(folder_ / "y.safetensors"));
}

// Robustness case 1.
TEST_F(Safetensors, FileTooShort) {
  EXPECT_THAT(Open(""), Fails(kDataLoss, "empty"));
  EXPECT_THAT(Open("1234567"), Fails(kDataLoss, "x.safetensors", "7 bytes"));
  EXPECT_THAT(SafetensorsFile::Open(folder_ / "absent"), Fails(kNotFound, "absent"));
  EXPECT_THAT(SafetensorsFile::Open(folder_.path()), Fails(kInvalid, "not a regular file"));
}

// Robustness case 2.
TEST_F(Safetensors, HeaderLength) {
  for (const uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{100'000'001},
                                uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string file = File("{}");
    std::memcpy(file.data(), &length, sizeof(length));
    EXPECT_THAT(Open(file), Fails(kInvalid, "header of " + std::to_string(length))) << length;
  }
  EXPECT_TRUE(Open(File("{}")).ok());
  // Above the limit, though the file is as long as it says (holes: it takes no disk).
  WriteText(folder_ / "x.safetensors", std::string("\x01\xe1\xf5\x05\0\0\0\0", 8));
  fs::resize_file(folder_ / "x.safetensors", 8 + 100'000'001);
  EXPECT_THAT(SafetensorsFile::Open(folder_ / "x.safetensors"),
              Fails(kInvalid, "header of 100000001", "100000000"));
}

// Robustness case 3.
TEST_F(Safetensors, NotJson) {
  for (const std::string header : {"xx", "[]", "{", "{\"a\"}", "{\"\xff\": 1}", "\xef\xbb\xbf{}",
                                   "{} {}", "null", "  {}", "{\"a\":{\"dtype\":\"F32\",}}"}) {
    EXPECT_THAT(Open(File(header)), Fails(kInvalid, "x.safetensors")) << header;
  }
  EXPECT_THAT(Open(File(std::string("{}\0", 3))), Fails(kInvalid, "not JSON"));
  EXPECT_THAT(Open(File("{\"\xff\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}")),
              Fails(kInvalid, "not JSON"));
  EXPECT_TRUE(Open(File("{}   ")).ok());
}

// Robustness case 4.
TEST_F(Safetensors, DeepNesting) {
  const std::string open(1'000'000, '['), objects = [] {
    std::string text;
    for (int i = 0; i < 1'000'000; ++i) text += "{\"a\":";
    return text;
  }();
  EXPECT_THAT(Open(File("{\"a\":" + open)), Fails(kInvalid));
  EXPECT_THAT(Open(File(objects)), Fails(kInvalid));
  EXPECT_THAT(Open(File("{\"a\":{\"shape\":" + open)), Fails(kInvalid));
  EXPECT_THAT(Open(File("{\"__metadata__\":{\"a\":" + open)), Fails(kInvalid));
}

constexpr std::string_view kA = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";

// Robustness case 5.
TEST_F(Safetensors, DuplicateNames) {
  const std::string a(kA);
  EXPECT_TRUE(Parse("{" + a + "}", 4).ok());
  EXPECT_THAT(Parse("{" + a + "," + a + "}", 4), Fails(kInvalid, "duplicate", "'a'"));
  EXPECT_THAT(Parse(R"({"__metadata__":{},"__metadata__":{}})", 0), Fails(kInvalid, "duplicate"));
  EXPECT_THAT(Parse(R"({"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4),
              Fails(kInvalid, "duplicate field 'dtype'"));
  EXPECT_THAT(Parse(R"({"a":{"shape":[4],"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4),
              Fails(kInvalid, "duplicate field 'shape'"));
}

// Robustness case 6.
TEST_F(Safetensors, OffsetsTileTheData) {
  const auto two = [this](const char* first, const char* second, uint64_t bytes) {
    return Parse(fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":{}}},)"
                             R"("b":{{"dtype":"U8","shape":[4],"data_offsets":{}}}}})",
                             first, second),
                 bytes);
  };
  EXPECT_TRUE(two("[0,4]", "[4,8]", 8).ok());
  EXPECT_TRUE(two("[4,8]", "[0,4]", 8).ok());
  EXPECT_THAT(two("[0,4]", "[2,6]", 6), Fails(kInvalid, "'b'", "overlap"));
  EXPECT_THAT(two("[0,4]", "[0,4]", 4), Fails(kInvalid, "overlap"));
  EXPECT_THAT(two("[0,4]", "[5,9]", 9), Fails(kInvalid, "'b'", "gap"));
  EXPECT_THAT(two("[1,5]", "[5,9]", 9), Fails(kInvalid, "'a'", "gap"));
  EXPECT_THAT(two("[4,0]", "[4,8]", 8), Fails(kInvalid, "'a'", "[4, 0)"));
  EXPECT_THAT(two("[0,4]", "[4,8]", 9), Fails(kInvalid, "1 bytes after"));
  EXPECT_THAT(two("[0,4]", "[4,8]", 7), Fails(kDataLoss, "truncated"));
  EXPECT_THAT(Parse("{}", 1), Fails(kInvalid, "1 bytes after"));
}

// Robustness case 7.
TEST_F(Safetensors, ShapeOverflow) {
  for (const char* shape : {"[4294967296,4294967296]", "[9223372036854775808,2]",
                            "[4611686018427387904,1]", "[18446744073709551615]"}) {
    EXPECT_THAT(
        Parse(fmt::format(R"({{"a":{{"dtype":"F32","shape":{},"data_offsets":[0,0]}}}})", shape),
              0),
        Fails(kInvalid, "'a'", "overflow"))
        << shape;
  }
  EXPECT_THAT(Parse(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],)"
                    R"("data_offsets":[0,1]}})",
                    1),
              Fails(kInvalid, "more than 16"));
}

// Robustness case 8.
TEST_F(Safetensors, SizeMismatch) {
  EXPECT_THAT(Parse(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,7]}})", 7),
              Fails(kInvalid, "'a'", "[0, 7)", "8 bytes"));
  EXPECT_THAT(Parse(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8),
              Fails(kInvalid, "missing"));
  EXPECT_THAT(Parse(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", 8),
              Fails(kInvalid, "more than 2"));
  EXPECT_THAT(Parse(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1),
              Fails(kUnimplemented, "'F4'"));
  EXPECT_THAT(Parse(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8), Fails(kInvalid, "missing"));
}

// Robustness case 9.
TEST_F(Safetensors, NumbersThatAreNoSizes) {
  for (const char* number : {"-1", "1.5", "1e400", "-0.0", "4.0", "99999999999999999999", "null",
                             "true", "\"4\"", "[4]", "{}"}) {
    EXPECT_THAT(
        Parse(fmt::format(R"({{"a":{{"dtype":"U8","shape":[{}],"data_offsets":[0,4]}}}})", number),
              4),
        Fails(kInvalid))
        << number;
    EXPECT_THAT(
        Parse(fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,{}]}}}})", number),
              4),
        Fails(kInvalid))
        << number;
  }
}

// Robustness case 45: floats of 8 bits and fewer, whose scales we would have to guess.
TEST_F(Safetensors, NarrowFloats) {
  for (const char* dtype : {"F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4",
                            "F6_E2M3", "F6_E3M2"}) {
    EXPECT_THAT(
        Parse(fmt::format(R"({{"a":{{"dtype":"{}","shape":[4],"data_offsets":[0,4]}}}})", dtype),
              4),
        Fails(kUnimplemented, "tensor 'a'", fmt::format("dtype '{}'", dtype), "scales", "BF16"));
  }
}

// Robustness case 10.
TEST_F(Safetensors, UnknownDtypeOrField) {
  for (const char* dtype : {"f32", "", "COMPLEX64", "C64", "U16", "F16 ", "F"}) {
    EXPECT_THAT(
        Parse(fmt::format(R"({{"a":{{"dtype":"{}","shape":[4],"data_offsets":[0,4]}}}})", dtype),
              4),
        Fails(kUnimplemented, "'a'", dtype));
  }
  EXPECT_THAT(Parse(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}})", 4),
              Fails(kInvalid, "unknown field 'x'"));
  EXPECT_THAT(Parse(R"({"a":7})", 0), Fails(kInvalid, "'a'"));
  EXPECT_THAT(Parse(R"({"__metadata__":{"a":{"b":"c"}}})", 0), Fails(kInvalid));
  EXPECT_THAT(Parse(R"({"__metadata__":{"a":1}})", 0), Fails(kInvalid));
  EXPECT_TRUE(Parse(R"({"__metadata__":{"format":"pt"}})", 0).ok());
}

// Robustness case 11.
TEST_F(Safetensors, ZeroDimensionsAndScalars) {
  EXPECT_TRUE(Parse(R"({"a":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]}})", 0).ok());
  EXPECT_TRUE(Parse(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4).ok());
  EXPECT_THAT(Parse(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,0]}})", 0),
              Fails(kInvalid, "4 bytes"));
  EXPECT_TRUE(Parse(R"({"z":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},)"
                    R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
                    4)
                  .ok());
}

// Robustness case 12.
TEST_F(Safetensors, ManyTensorsAndLongNames) {
  std::vector<OutputTensor> tensors;
  for (int i = 0; i < 100'000; ++i) {
    tensors.push_back({fmt::format("model.layers.{}.weight", i), Bytes("x")});
  }
  const auto start = std::chrono::steady_clock::now();
  const fs::path path = folder_ / "many.safetensors";
  ASSERT_TRUE(WriteSafetensors(path, tensors).ok());
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->entries().size(), 100'000u);
  EXPECT_TRUE((*file)->Get("model.layers.99999.weight").ok());
  // Well under a second when linear; minutes when quadratic.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));

  std::string name;
  name.resize(10'000'000, 'n');
  EXPECT_THAT(
      Parse("{\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0),
      Fails(kInvalid, "10000000 bytes"));
  EXPECT_THAT(Parse("{\"a\":{\"dtype\":\"" + name + "\"}}", 0), Fails(kUnimplemented));
  EXPECT_THAT(Parse("{\"a\":{\"" + name + "\":1}}", 0), Fails(kInvalid));
  EXPECT_THAT(Parse("{\"a\":" + name, 0), Fails(kInvalid));
  EXPECT_THAT(Parse("{\"\":{}}", 0), Fails(kInvalid, "0 bytes"));
  EXPECT_THAT(Parse("{\"line\\nbreak\":7}", 0), Fails(kInvalid, "\\x0a"));
}

class SafetensorsShards : public Safetensors {
 protected:
  void SetUp() override {
    ASSERT_TRUE(WriteSafetensors(folder_ / "one.safetensors", {{"a", Bytes("aa")}}).ok());
    ASSERT_TRUE(WriteSafetensors(folder_ / "two.safetensors", {{"b", Bytes("bbb")}}).ok());
  }
  StatusOr<std::unique_ptr<SafetensorsDirectory>> OpenIndex(std::string_view weight_map) {
    WriteText(folder_ / "model.safetensors.index.json",
              fmt::format(R"({{"metadata":{{}},"weight_map":{}}})", weight_map));
    return SafetensorsDirectory::Open(folder_.path());
  }
};

TEST_F(SafetensorsShards, ReadsAllShards) {
  const auto directory = OpenIndex(R"({"a":"one.safetensors","b":"two.safetensors"})");
  ASSERT_TRUE(directory.ok()) << directory.status().message();
  EXPECT_EQ((*directory)->names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ((*directory)->Get("b")->num_elements(), 3u);
  EXPECT_EQ((*directory)->Copy("a")->data()[1], 'a');
  EXPECT_EQ((*directory)->Find("c"), nullptr);
  EXPECT_THAT((*directory)->Get("c"), Fails(kNotFound, "'c'"));
  EXPECT_EQ((*directory)->file_bytes(), fs::file_size(folder_ / "one.safetensors") +
                                            fs::file_size(folder_ / "two.safetensors"));
}

// Robustness case 13.
TEST_F(SafetensorsShards, NamesThatAreNoShards) {
  for (const char* name : {"../../etc/x", "/dev/zero", "../one.safetensors", "sub/one.safetensors",
                           "", ".", ".safetensors", "one.bin", "..", "/etc/passwd.safetensors",
                           "a\\\\b.safetensors", "one\\u0000.safetensors"}) {
    EXPECT_THAT(OpenIndex(fmt::format(R"({{"a":"{}"}})", name)), Fails(kInvalid, "'a'")) << name;
  }
  EXPECT_THAT(OpenIndex(R"({"a":7})"), Fails(kInvalid, "'a'"));
  EXPECT_THAT(OpenIndex(R"({"a":null})"), Fails(kInvalid, "'a'"));
  EXPECT_THAT(OpenIndex("[]"), Fails(kInvalid, "weight_map"));
  EXPECT_THAT(OpenIndex("{}"), Fails(kInvalid, "weight_map"));
  EXPECT_THAT(OpenIndex(std::string(1'000'000, '[')), Fails(kInvalid, "levels deep"));
  EXPECT_THAT(OpenIndex(R"({"a":"one.safetensors","a":"two.safetensors"})"),
              Fails(kInvalid, "duplicate key 'a'"));
}

// Robustness case 13.
TEST_F(SafetensorsShards, SpecialFiles) {
  ASSERT_EQ(mkfifo((folder_ / "fifo.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(OpenIndex(R"({"a":"fifo.safetensors"})"), Fails(kInvalid, "not a regular file"));
  fs::create_symlink("/dev/zero", folder_ / "zero.safetensors");
  EXPECT_THAT(OpenIndex(R"({"a":"zero.safetensors"})"), Fails(kInvalid, "not a regular file"));
  fs::create_directory(folder_ / "dir.safetensors");
  EXPECT_THAT(OpenIndex(R"({"a":"dir.safetensors"})"), Fails(kInvalid, "not a regular file"));
  // Hugging Face's cache is made of links to regular files: those are read.
  fs::create_symlink(folder_ / "one.safetensors", folder_ / "link.safetensors");
  EXPECT_TRUE(OpenIndex(R"({"a":"link.safetensors"})").ok());
  fs::remove(folder_ / "model.safetensors.index.json");
  ASSERT_EQ(mkfifo((folder_ / "model.safetensors.index.json").c_str(), 0600), 0);
  EXPECT_THAT(SafetensorsDirectory::Open(folder_.path()), Fails(kInvalid, "not a regular file"));
}

// Robustness case 14.
TEST_F(SafetensorsShards, MissingAndDoubledTensors) {
  EXPECT_THAT(OpenIndex(R"({"a":"one.safetensors","b":"absent.safetensors"})"),
              Fails(kNotFound, "absent.safetensors"));
  EXPECT_THAT(OpenIndex(R"({"a":"one.safetensors","b":"one.safetensors"})"),
              Fails(kNotFound, "'b'", "one.safetensors"));
  EXPECT_THAT(OpenIndex(R"({"b":"two.safetensors","c":"one.safetensors"})"),
              Fails(kInvalid, "'a'", "no shard"));
  ASSERT_TRUE(
      WriteSafetensors(folder_ / "two.safetensors", {{"a", Bytes("x")}, {"b", Bytes("y")}}).ok());
  EXPECT_THAT(OpenIndex(R"({"a":"one.safetensors","b":"two.safetensors"})"),
              Fails(kInvalid, "two.safetensors", "'a'", "another shard"));
}

// Robustness case 15.
TEST_F(SafetensorsShards, FileShrinksWhileRead) {
  const fs::path path = folder_ / "big.safetensors";
  ASSERT_TRUE(WriteSafetensors(path, {{"a", Bytes(std::string(1 << 20, 'x'))}}).ok());
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(truncate(path.c_str(), 100), 0);
  EXPECT_THAT((*file)->Get("a"), Fails(kDataLoss, "big.safetensors"));
  EXPECT_THAT((*file)->Copy("a"), Fails(kDataLoss, "big.safetensors"));
  EXPECT_THAT(SafetensorsFile::Open(path), Fails(kInvalid, "header of"));
}

// Robustness case 15: what was checked is a copy, so a new header under it changes nothing.
TEST_F(SafetensorsShards, FileIsRewrittenWhileRead) {
  const fs::path path = folder_ / "big.safetensors";
  ASSERT_TRUE(WriteSafetensors(path, {{"a", Bytes(std::string(1 << 20, 'x'))}}).ok());
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok());
  const std::string other(fs::file_size(path), '\xff');
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary) << other;
  const auto copy = (*file)->Copy("a");
  ASSERT_TRUE(copy.ok()) << copy.status().message();
  EXPECT_EQ(copy->num_bytes(), 1u << 20);
  EXPECT_EQ((*file)->Get("a")->data()[(1 << 20) - 1], 0xff);
  std::ofstream(path, std::ios::app) << "more";
  EXPECT_THAT((*file)->Get("a"), Fails(kDataLoss, "big.safetensors", "changed"));
  EXPECT_THAT(SafetensorsFile::Open(path), Fails(kInvalid, "header of 18446744073709551615"));
}

}  // namespace
}  // namespace tq
