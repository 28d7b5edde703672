// synthetic_model SHAPE OUT [--width-divisor 1] [--filled-layers 2 | --random-codes RATE]: writes a
// model in the shape of a large Llama, to measure time and memory on without its weights: a Hugging
// Face directory, or with --random-codes one of ours.
//
// The first layers, and the rows of the embedding that the tokenizer can reach, are Gaussian
// (bf16); norms are 1. Everything else is a hole of the file: it reads as zeros and takes no
// disk. The tokenizer has a token for each byte and none besides.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/file_io.h"
#include "base/random.h"
#include "checkpoint/model_config.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "random_codes.h"
#include "tensor/dtype.h"
#include "tokenizer/byte_spelling.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

struct Options {
  std::string shape, output;
  uint32_t width_divisor = 1, filled_layers = 2;
  double random_codes = 0;  // rate; 0: none
};

struct ModelShape {
  const char* name;
  uint32_t hidden, intermediate, layers, heads, head_dim;
  bool tied;
};
// Meta's Llama 3.1 (A. Grattafiori et al., "The Llama 3 Herd of Models", 2024, table 3) and
// Llama 3.2 1B (its config.json).
constexpr ModelShape kShapes[] = {{"1b", 2048, 8192, 16, 32, 64, true},
                                  {"8b", 4096, 14336, 32, 32, 128, false},
                                  {"70b", 8192, 28672, 80, 64, 128, false},
                                  {"405b", 16384, 53248, 126, 128, 128, false}};
constexpr uint32_t kVocabulary = 128256, kKvHeads = 8, kPositions = 131072;
constexpr uint64_t kShardBytes = uint64_t{4} << 30;  // as most models are published

StatusOr<ModelConfig> MakeConfig(const Options& options) {
  const auto* shape = std::find_if(std::begin(kShapes), std::end(kShapes),
                                   [&](const ModelShape& s) { return options.shape == s.name; });
  if (shape == std::end(kShapes)) {
    return InvalidArgument("shape {}: known are 1b, 8b, 70b and 405b", options.shape);
  }
  const uint32_t divisor = options.width_divisor;
  if (divisor == 0 || shape->heads % divisor != 0) {
    return InvalidArgument("--width-divisor {}: must divide the {} heads", divisor, shape->heads);
  }
  ModelConfig config;
  config.architecture = "llama";
  config.vocab_size = kVocabulary / divisor;
  config.hidden_size = shape->hidden / divisor;
  config.intermediate_size = shape->intermediate / divisor;
  config.num_layers = shape->layers;
  config.num_heads = shape->heads / divisor;
  config.num_kv_heads = std::max(1u, kKvHeads / divisor);
  config.head_dim = shape->head_dim;
  config.tie_embeddings = shape->tied;
  config.max_position = kPositions;
  config.rope_theta = 500000;
  config.bos_id = 0;
  config.eos_id = 1;
  TQ_RETURN_IF_ERROR(CheckModelConfig(config, options.shape));
  return config;
}

// <s>, </s> and the 256 bytes.
TokenizerData ByteTokenizer() {
  TokenizerData data;
  data.tokens = {"<s>", "</s>"};
  data.types = {TokenType::kControl, TokenType::kControl};
  for (int byte = 0; byte < 256; ++byte) {
    data.tokens.push_back(SpellByte(static_cast<uint8_t>(byte)));
    data.types.push_back(TokenType::kNormal);
  }
  data.bos = 0;
  data.eos = 1;
  return data;
}

// Rows of a tensor that are not a hole.
uint64_t FilledRows(const TensorSpec& spec, uint64_t tokens, uint32_t filled_layers) {
  if (spec.shape.size() == 1) return 1;
  if (spec.name == "model.embed_tokens.weight") return std::min(tokens, spec.shape[0]);
  for (uint32_t layer = 0; layer < filled_layers; ++layer) {
    if (spec.name.starts_with(fmt::format("model.layers.{}.", layer))) return spec.shape[0];
  }
  return 0;
}

// Row `row` of a tensor: norms are 1, matrices keep the size of their input.
std::vector<uint16_t> MakeRow(const TensorSpec& spec, uint64_t row) {
  const uint64_t columns = spec.shape.back();
  if (spec.shape.size() == 1) return std::vector<uint16_t>(columns, FloatToBFloat16(1.0f));
  Random random(1, spec.name, row);
  const double sigma =
      spec.name.starts_with("model.embed") ? 1.0 : 1 / std::sqrt(static_cast<double>(columns));
  std::vector<uint16_t> values(columns);
  for (uint16_t& v : values) v = FloatToBFloat16(static_cast<float>(sigma * random.NextNormal()));
  return values;
}

Status WriteAt(int fd, const void* data, uint64_t size, uint64_t offset, const std::string& name) {
  const auto* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = pwrite(fd, bytes, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoError("writing " + name, errno);
    bytes += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<uint64_t>(n);
  }
  return OkStatus();
}

uint64_t Bytes(const TensorSpec& spec) {
  uint64_t bytes = sizeof(uint16_t);
  for (const uint64_t d : spec.shape) bytes *= d;  // a checked config's shapes
  return bytes;
}

Status WriteShard(const std::filesystem::path& path, const std::vector<TensorSpec>& specs,
                  uint64_t tokens, uint32_t filled_layers) {
  SafetensorsHeader header;
  std::vector<uint64_t> offsets;
  for (const TensorSpec& spec : specs) {
    offsets.push_back(header.data_bytes());
    header.Add(spec.name, DType::kBF16, spec.shape, Bytes(spec));
  }
  const std::string head = header.Bytes();
  const std::string name = path.string();
  const int fd = open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return IoError(name, errno);
  const uint64_t size = head.size() + header.data_bytes();
  Status status = ftruncate(fd, static_cast<off_t>(size)) == 0 ? OkStatus() : IoError(name, errno);
  if (status.ok()) status = WriteAt(fd, head.data(), head.size(), 0, name);
  for (size_t i = 0; i < specs.size(); ++i) {
    const uint64_t row_bytes = specs[i].shape.back() * sizeof(uint16_t);
    const uint64_t rows = FilledRows(specs[i], tokens, filled_layers);
    for (uint64_t row = 0; row < rows && status.ok(); ++row) {
      status = WriteAt(fd, MakeRow(specs[i], row).data(), row_bytes,
                       head.size() + offsets[i] + row * row_bytes, name);
    }
  }
  if (close(fd) != 0 && status.ok()) status = IoError(name, errno);
  return status;
}

Status Run(const Options& options) {
  const std::filesystem::path folder = options.output;
  TQ_ASSIGN_OR_RETURN(const ModelConfig config, MakeConfig(options));
  TQ_RETURN_IF_ERROR(CheckOutputDirectory(folder, ""));
  const TokenizerData tokenizer = ByteTokenizer();
  if (options.random_codes != 0) {
    PackedModelContents contents;
    contents.config = config;
    contents.files = {{"tokenizer.json", TokenizerDataToJson(tokenizer)},
                      {"tokenizer_config.json", TokenizerConfigToJson(tokenizer)}};
    return WriteRandomCodes(folder, options.random_codes, std::move(contents));
  }
  std::vector<std::vector<TensorSpec>> shards(1);
  uint64_t used = 0;
  for (TensorSpec& spec : ModelTensors(config)) {
    if (used > 0 && used + Bytes(spec) > kShardBytes) {
      shards.emplace_back();
      used = 0;
    }
    used += Bytes(spec);
    shards.back().push_back(std::move(spec));
  }
  std::error_code error;
  std::filesystem::create_directory(folder, error);
  if (error) return IoError(options.output, error.value());
  nlohmann::ordered_json index;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    TQ_RETURN_IF_ERROR(
        WriteShard(folder / name, shards[i], tokenizer.tokens.size(), options.filled_layers));
    for (const TensorSpec& spec : shards[i]) index["weight_map"][spec.name] = name;
  }
  const std::pair<const char*, std::string> files[] = {
      {"model.safetensors.index.json", index.dump(2) + "\n"},
      {"tokenizer.json", TokenizerDataToJson(tokenizer)},
      {"tokenizer_config.json", TokenizerConfigToJson(tokenizer)},
      {"config.json", ModelConfigToJson(config)}};
  for (const auto& [name, text] : files) {
    TQ_RETURN_IF_ERROR(WriteFileAtomically(folder / name, text));
  }
  return OkStatus();
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  CLI::App app("Writes a model in the shape of a large Llama, nearly all of it zeros.");
  tq::Options options;
  app.add_option("SHAPE", options.shape, "1b, 8b, 70b or 405b")->required();
  app.add_option("OUT", options.output, "folder to write")->required();
  app.add_option("--width-divisor", options.width_divisor, "divides every size but the layers")
      ->capture_default_str();
  app.add_option("--filled-layers", options.filled_layers, "layers with weights")
      ->capture_default_str();
  app.add_option("--random-codes", options.random_codes,
                 "write a packed model of random codes at this rate instead: 0.5, 0.75, ... 8");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const tq::Status status = tq::Run(options);
  if (!status.ok()) std::fprintf(stderr, "synthetic_model: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
