// A tokenizer from SentencePiece's tokenizer.model: a serialised ModelProto
// (sentencepiece_model.proto of the library).
#include <bit>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/quote.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/protobuf_reader.h"
#include "tokenizer/sentencepiece_vocabulary.h"
#include "tokenizer/tokenizer_config.h"
#include "tokenizer/tokenizer_data.h"

namespace tq {
namespace {

using Field = ProtobufReader::Field;

constexpr std::string_view kFile = "tokenizer.model";

// What we need of a ModelProto, with the format's defaults.
struct Model {
  std::vector<std::string> pieces;
  std::vector<int64_t> types;
  std::vector<double> scores;
  uint64_t model_type = 1;  // 1: unigram, 2: BPE, 3: words, 4: characters
  // Negative: none. Protocol buffers write them as 64-bit two's complement.
  int64_t bos = 1, eos = 2, pad = -1;
  bool whitespace_as_suffix = false;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
  bool has_charsmap = false, has_denormalizer = false;
};

Status ExpectWire(const Field& field, Field::Wire wire, std::string_view name) {
  if (field.wire == wire) return OkStatus();
  return DataLoss("{}: {} has the wire type {}", kFile, name, static_cast<int>(field.wire));
}

template <class Use>
Status ForEachField(std::string_view bytes, Use use) {
  ProtobufReader reader(bytes, kFile);
  while (!reader.done()) {
    TQ_ASSIGN_OR_RETURN(const Field field, reader.Next());
    TQ_RETURN_IF_ERROR(use(field));
  }
  return OkStatus();
}

Status ReadPiece(std::string_view bytes, Model& model) {
  std::string text;
  float score = 0;
  int64_t type = 1;
  TQ_RETURN_IF_ERROR(ForEachField(bytes, [&](const Field& field) -> Status {
    switch (field.number) {
      case 1:
        TQ_RETURN_IF_ERROR(ExpectWire(field, Field::Wire::kBytes, "pieces.piece"));
        text = field.bytes;
        break;
      case 2:
        TQ_RETURN_IF_ERROR(ExpectWire(field, Field::Wire::kFixed32, "pieces.score"));
        score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
        break;
      case 3:
        TQ_RETURN_IF_ERROR(ExpectWire(field, Field::Wire::kVarint, "pieces.type"));
        type = static_cast<int64_t>(field.value);
        break;
      default:
        break;
    }
    return OkStatus();
  }));
  model.pieces.push_back(std::move(text));
  model.types.push_back(type);
  model.scores.push_back(score);
  return OkStatus();
}

// Everything else in it was for training.
Status ReadTrainerSpec(std::string_view bytes, Model& model) {
  return ForEachField(bytes, [&](const Field& field) -> Status {
    if (field.wire != Field::Wire::kVarint) return OkStatus();
    const auto id = static_cast<int64_t>(field.value);
    if (field.number == 3) model.model_type = field.value;
    if (field.number == 24) model.whitespace_as_suffix = field.value != 0;
    if (field.number == 41) model.bos = id;
    if (field.number == 42) model.eos = id;
    if (field.number == 43) model.pad = id;
    return OkStatus();
  });
}

Status ReadNormalizerSpec(std::string_view bytes, Model& model) {
  return ForEachField(bytes, [&](const Field& field) -> Status {
    if (field.number == 2) model.has_charsmap = !field.bytes.empty();
    if (field.wire != Field::Wire::kVarint) return OkStatus();
    if (field.number == 3) model.add_dummy_prefix = field.value != 0;
    if (field.number == 4) model.remove_extra_whitespaces = field.value != 0;
    if (field.number == 5) model.escape_whitespaces = field.value != 0;
    return OkStatus();
  });
}

StatusOr<Model> ReadModel(std::string_view bytes) {
  Model model;
  TQ_RETURN_IF_ERROR(ForEachField(bytes, [&](const Field& field) -> Status {
    if (field.number < 1 || field.number > 5) return OkStatus();
    TQ_RETURN_IF_ERROR(ExpectWire(field, Field::Wire::kBytes, "a field of the model"));
    if (field.number == 1) {
      if (model.pieces.size() >= kMaxVocabulary) {
        return InvalidArgument("{}: more than {} pieces", kFile, kMaxVocabulary);
      }
      return ReadPiece(field.bytes, model);
    }
    if (field.number == 2) return ReadTrainerSpec(field.bytes, model);
    if (field.number == 3) return ReadNormalizerSpec(field.bytes, model);
    if (field.number == 5) {
      return ForEachField(field.bytes, [&](const Field& inner) -> Status {
        if (inner.number == 2) model.has_denormalizer = !inner.bytes.empty();
        return OkStatus();
      });
    }
    return OkStatus();
  }));
  return model;
}

// What changes the text and what we do not do.
Status CheckSupported(const Model& model) {
  constexpr std::string_view kHint =
      "; a tokenizer.json beside it, made by Hugging Face's library, would be read instead";
  const auto refuse = [&](std::string_view what) {
    return Unimplemented("{}: {}{}", kFile, what, kHint);
  };
  if (model.model_type != 1 && model.model_type != 2) {
    return refuse(
        fmt::format("trainer_spec.model_type is {}, only 1 (unigram) and 2 (BPE) are "
                    "supported",
                    model.model_type));
  }
  if (model.has_charsmap) return refuse("normalizer_spec.precompiled_charsmap is not supported");
  if (model.has_denormalizer) return refuse("denormalizer_spec is not supported");
  if (model.remove_extra_whitespaces) {
    return refuse("normalizer_spec.remove_extra_whitespaces is true");
  }
  if (!model.escape_whitespaces) return refuse("normalizer_spec.escape_whitespaces is false");
  if (model.whitespace_as_suffix) return refuse("trainer_spec.treat_whitespace_as_suffix is true");
  return OkStatus();
}

// Ids without a piece count as none, as the library has it.
int32_t PieceOrNone(int64_t id, const Model& model) {
  return id >= 0 && id < static_cast<int64_t>(model.pieces.size()) ? static_cast<int32_t>(id) : -1;
}

}  // namespace

StatusOr<TokenizerData> TokenizerDataFromSentencePiece(std::string_view bytes,
                                                       std::string_view tokenizer_config_json) {
  TQ_ASSIGN_OR_RETURN(Model model, ReadModel(bytes));
  if (model.pieces.empty())
    return InvalidArgument("{}: no pieces in {} bytes", kFile, bytes.size());
  TQ_RETURN_IF_ERROR(CheckSupported(model));
  TokenizerData data;
  data.model = model.model_type == 1 ? TokenModel::kUnigram : TokenModel::kCharacterBpe;
  data.pre_tokenizer = PreTokenizerKind::kNone;
  data.normalization.mark_spaces = true;
  data.normalization.prefix_mark = model.add_dummy_prefix;
  data.strip_prefix = model.add_dummy_prefix;
  data.bos = PieceOrNone(model.bos, model);
  data.eos = PieceOrNone(model.eos, model);
  data.pad = PieceOrNone(model.pad, model);
  data.tokens = std::move(model.pieces);
  TQ_RETURN_IF_ERROR(
      SetSentencePieceVocabulary(model.types, model.scores, "tokenizer.model: pieces", data));
  // They are matched in the text as written, before spaces are marked.
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    if (data.types[id] == TokenType::kUserDefined) data.tokens[id] = UnmarkSpaces(data.tokens[id]);
  }
  // Hugging Face's tokenizers of such files add BOS unless told otherwise.
  data.add_bos = data.bos >= 0;
  if (!tokenizer_config_json.empty()) {
    TQ_RETURN_IF_ERROR(ApplyTokenizerConfig(tokenizer_config_json, /*decides_bos=*/true, data));
  }
  if (Status status = CheckTokenizerData(data); !status.ok()) return status.WithContext(kFile);
  return data;
}

}  // namespace tq
