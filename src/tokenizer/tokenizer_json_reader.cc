#include "tokenizer/tokenizer_json_reader.h"

#include <exception>
#include <limits>

#include "checkpoint/json.h"
#include "checkpoint/quote.h"

namespace tq {
namespace {

using nlohmann::json;

// Everything in the document but the vocabulary and merges: a few thousand values at most
// in any real file (added tokens have seven each).
constexpr uint64_t kMaxValues = 2'000'000;
constexpr size_t kMaxDepth = 64;

// Callbacks return false to stop, with status_ set.
class Reader final : public nlohmann::json_sax<json> {
 public:
  explicit Reader(std::string_view file) : file_(file) {}

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override {
    if (part_ == Part::kVocab) return VocabId(value, 0);
    if (part_ == Part::kPiece) return PieceScore(static_cast<double>(value));
    return Add(value);
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (part_ == Part::kVocab) return VocabId(0, value);
    if (part_ == Part::kPiece) return PieceScore(static_cast<double>(value));
    return Add(value);
  }
  bool number_float(number_float_t value, const string_t&) override {
    if (part_ == Part::kPiece) return PieceScore(value);
    return Add(value);
  }
  bool string(string_t& value) override;
  bool binary(binary_t&) override { return false; }

  bool key(string_t& name) override;
  bool start_object(size_t) override;
  bool end_object() override;
  bool start_array(size_t) override;
  bool end_array() override;

  bool parse_error(size_t position, const std::string&, const json::exception& error) override {
    return Fail(JsonSyntaxError(file_, position, error.what()));
  }

  StatusOr<TokenizerDocument> Take() {
    if (!status_.ok()) return status_;
    return std::move(document_);
  }

 private:
  enum class Part { kDocument, kVocab, kPieces, kPiece, kMerges, kMergePair };

  bool Fail(Status status) {
    status_ = std::move(status);
    return false;
  }
  bool VocabId(int64_t negative, uint64_t id);
  bool PieceScore(double score);
  bool Add(json value);
  bool Open(json value);
  // Whether the value to come is model.<name>.
  bool AtModel(std::string_view name) const {
    return open_.size() == 2 && path_ == "model" && key_ == name && open_.back()->is_object();
  }
  std::string MergeName() const {
    return fmt::format("{}: model.merges[{}]", file_, document_.merges.size());
  }
  bool FailPiece() {
    return Fail(InvalidArgument("{}: model.vocab[{}]: want a token and its score", file_,
                                document_.pieces.size() - (part_ == Part::kPiece)));
  }

  std::string_view file_;
  TokenizerDocument document_;
  Part part_ = Part::kDocument;
  std::vector<json*> open_;
  json* slot_ = nullptr;   // the value of the last key
  std::string path_;       // the key of the outermost object that is open
  std::string key_;        // the last key
  std::string vocab_key_;  // in the vocabulary
  int pair_sides_ = 0;     // values of the merge or piece that is open
  uint64_t values_ = 0;
  Status status_;
};

bool Reader::VocabId(int64_t negative, uint64_t id) {
  if (negative < 0 || id > static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) {
    return Fail(InvalidArgument("{}: model.vocab[{}] is {}, an id must be 0 to 2147483647", file_,
                                Quote(vocab_key_),
                                negative < 0 ? std::to_string(negative) : std::to_string(id)));
  }
  document_.vocab.emplace_back(std::move(vocab_key_), static_cast<int32_t>(id));
  return true;
}

bool Reader::PieceScore(double score) {
  if (++pair_sides_ != 2) return FailPiece();
  document_.pieces.back().second = score;
  return true;
}

// Puts a plain value, or the beginning of a list or object, in its place.
bool Reader::Add(json value) {
  switch (part_) {
    case Part::kDocument:
      break;
    case Part::kVocab:
      return Fail(InvalidArgument("{}: model.vocab[{}] is {}, want an id", file_, Quote(vocab_key_),
                                  JsonTypeName(value)));
    case Part::kPieces:
    case Part::kPiece:
      return FailPiece();
    case Part::kMerges:
    case Part::kMergePair:
      return Fail(
          InvalidArgument("{} is {}, want a string or two", MergeName(), JsonTypeName(value)));
  }
  if (++values_ > kMaxValues) {
    return Fail(ResourceExhausted("{}: more than {} JSON values", file_, kMaxValues));
  }
  if (open_.empty()) {
    document_.rest = std::move(value);
    slot_ = &document_.rest;
  } else if (open_.back()->is_array()) {
    auto& array = open_.back()->get_ref<json::array_t&>();
    array.push_back(std::move(value));
    slot_ = &array.back();
  } else {
    *slot_ = std::move(value);
  }
  return true;
}

bool Reader::Open(json value) {
  if (open_.size() >= kMaxDepth) {
    return Fail(InvalidArgument("{}: JSON nested more than {} levels deep", file_, kMaxDepth));
  }
  if (!Add(std::move(value))) return false;
  // Containers that hold the value do not grow while it is open: the pointer stays valid.
  open_.push_back(slot_);
  return true;
}

bool Reader::string(string_t& value) {
  if (part_ == Part::kMerges) {
    const Status status = AppendMerge(value, MergeName(), document_.merges);
    return status.ok() || Fail(status);
  }
  if (part_ == Part::kMergePair) {
    if (++pair_sides_ > 2 || value.empty()) {
      return Fail(InvalidArgument("{}: want two strings, none empty", MergeName()));
    }
    document_.merges.Append(value);
    return true;
  }
  if (part_ == Part::kPiece) {
    if (++pair_sides_ != 1) return FailPiece();
    document_.pieces.back().first = std::move(value);
    return true;
  }
  return Add(std::move(value));
}

bool Reader::key(string_t& name) {
  if (part_ == Part::kVocab) {
    vocab_key_ = std::move(name);
    return true;
  }
  const auto [at, inserted] = open_.back()->get_ref<json::object_t&>().emplace(name, nullptr);
  if (!inserted) return Fail(InvalidArgument("{}: duplicate key {}", file_, Quote(name)));
  slot_ = &at->second;
  if (open_.size() == 1) path_ = name;
  key_ = std::move(name);
  return true;
}

bool Reader::start_object(size_t) {
  if (part_ == Part::kDocument && AtModel("vocab")) {
    part_ = Part::kVocab;
    return true;
  }
  return Open(json::object());
}

bool Reader::end_object() {
  if (part_ == Part::kVocab) {
    part_ = Part::kDocument;
  } else {
    open_.pop_back();
  }
  return true;
}

bool Reader::start_array(size_t) {
  if (part_ == Part::kDocument && AtModel("merges")) {
    part_ = Part::kMerges;
    return true;
  }
  if (part_ == Part::kDocument && AtModel("vocab")) {
    part_ = Part::kPieces;
    return true;
  }
  if (part_ == Part::kMerges || part_ == Part::kPieces) {
    if (part_ == Part::kPieces) document_.pieces.emplace_back();
    part_ = part_ == Part::kMerges ? Part::kMergePair : Part::kPiece;
    pair_sides_ = 0;
    return true;
  }
  return Open(json::array());
}

bool Reader::end_array() {
  if (part_ == Part::kMergePair) {
    if (pair_sides_ != 2) {
      return Fail(InvalidArgument("{}: {} strings, want two", MergeName(), pair_sides_));
    }
    part_ = Part::kMerges;
  } else if (part_ == Part::kPiece) {
    if (pair_sides_ != 2) return FailPiece();
    part_ = Part::kPieces;
  } else if (part_ == Part::kMerges || part_ == Part::kPieces) {
    part_ = Part::kDocument;
  } else {
    open_.pop_back();
  }
  return true;
}

}  // namespace

Status AppendMerge(std::string_view merge, std::string_view where, MergeText& merges) {
  const size_t space = merge.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == merge.size() ||
      merge.find(' ', space + 1) != std::string_view::npos) {
    return InvalidArgument("{} is {}, want two tokens with one space between", where, Quote(merge));
  }
  merges.Append(merge.substr(0, space));
  merges.Append(merge.substr(space + 1));
  return OkStatus();
}

StatusOr<TokenizerDocument> ParseTokenizerDocument(std::string_view text, std::string_view file) {
  Reader reader(file);
  try {
    json::sax_parse(text, &reader);
  } catch (const std::exception& error) {  // bad_alloc above all
    return ResourceExhausted("{}: reading JSON: {}", file, error.what());
  }
  return reader.Take();
}

}  // namespace tq
