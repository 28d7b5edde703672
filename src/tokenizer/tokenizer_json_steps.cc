#include "tokenizer/tokenizer_json_steps.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/quote.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"

namespace tq {
namespace {

using nlohmann::json;

using Step = std::pair<JsonFields, std::string>;  // an object and its "type"

// An object with a "type": a pre-tokeniser, post-processor or decoder.
StatusOr<Step> Typed(const json& value, std::string where) {
  TQ_ASSIGN_OR_RETURN(JsonFields fields, JsonFields::Of(value, std::move(where)));
  TQ_ASSIGN_OR_RETURN(std::string type, fields.String("type"));
  return std::pair(std::move(fields), std::move(type));
}

// The parts of a "Sequence" (its list is called `list`), or the object itself.
StatusOr<std::vector<Step>> Flatten(const json& value, std::string where, std::string_view list) {
  std::vector<Step> parts;
  TQ_ASSIGN_OR_RETURN(auto part, Typed(value, where));
  if (part.second != "Sequence") {
    parts.push_back(std::move(part));
    return parts;
  }
  TQ_RETURN_IF_ERROR(part.first.RefuseOthers({"type", list}));
  TQ_ASSIGN_OR_RETURN(const auto* items, JsonListOrEmpty(part.first, list));
  for (size_t i = 0; i < items->size(); ++i) {
    TQ_ASSIGN_OR_RETURN(auto inner, Typed((*items)[i], fmt::format("{}.{}[{}]", where, list, i)));
    parts.push_back(std::move(inner));
  }
  return parts;
}

// A string to look for, of a "pattern" that is {"String": ...}; {"Regex": ...} if `regex`.
StatusOr<std::string> Pattern(const JsonFields& fields, bool regex) {
  const json* value = fields.Find("pattern");
  if (value == nullptr) return InvalidArgument("{} is missing", fields.Name("pattern"));
  TQ_ASSIGN_OR_RETURN(const JsonFields pattern, JsonFields::Of(*value, fields.Name("pattern")));
  TQ_RETURN_IF_ERROR(pattern.RefuseOthers({"String", "Regex"}));
  const char* key = regex ? "Regex" : "String";
  if (pattern.Find(key) == nullptr) {
    return Unimplemented("{} is no {}", fields.Name("pattern"), regex ? "Regex" : "String");
  }
  return pattern.String(key);
}

// An error unless the field is the string `wanted`.
Status ExpectString(const JsonFields& fields, std::string_view key, std::string_view wanted) {
  TQ_ASSIGN_OR_RETURN(const std::string value, fields.String(key));
  if (value == wanted) return OkStatus();
  return Unimplemented("{} is {}, only {} is supported", fields.Name(key), Quote(value),
                       Quote(wanted));
}

// "Replace" of one string by another, which are the only ones supported.
Status ExpectReplace(const JsonFields& fields, std::string_view from, std::string_view to) {
  TQ_RETURN_IF_ERROR(fields.RefuseOthers({"type", "pattern", "content"}));
  TQ_ASSIGN_OR_RETURN(const std::string pattern, Pattern(fields, /*regex=*/false));
  if (pattern != from) {
    return Unimplemented("{} is {}, only {} is supported", fields.Name("pattern"), Quote(pattern),
                         Quote(from));
  }
  return ExpectString(fields, "content", to);
}

Status SetOnce(const JsonFields& fields, bool& flag) {
  if (flag) return Unimplemented("{}: the same step a second time", fields.where());
  flag = true;
  return OkStatus();
}

// add_prefix_space has no default where it stands.
StatusOr<bool> PrefixSpace(const JsonFields& fields) {
  if (fields.Find("add_prefix_space") == nullptr) {
    return InvalidArgument("{} is missing", fields.Name("add_prefix_space"));
  }
  return fields.BoolOr("add_prefix_space", false);
}

// `regex`: whether ByteLevel cuts by itself; after a pattern it must not.
Status ReadByteLevel(const JsonFields& fields, bool regex, TokenizerData& data) {
  TQ_RETURN_IF_ERROR(
      fields.RefuseOthers({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  TQ_ASSIGN_OR_RETURN(const bool use_regex, fields.BoolOr("use_regex", true));
  if (use_regex != regex) return Unimplemented("{} is {}", fields.Name("use_regex"), use_regex);
  TQ_ASSIGN_OR_RETURN(data.add_prefix_space, PrefixSpace(fields));
  return OkStatus();
}

Status ReadDigits(const JsonFields& fields, TokenizerData& data) {
  TQ_RETURN_IF_ERROR(fields.RefuseOthers({"type", "individual_digits"}));
  TQ_ASSIGN_OR_RETURN(const bool individual, fields.BoolOr("individual_digits", false));
  if (!individual) return Unimplemented("{} is false", fields.Name("individual_digits"));
  data.pre_tokenizer = PreTokenizerKind::kSmolLm;
  return OkStatus();
}

Status ReadSplit(const JsonFields& fields, TokenizerData& data) {
  TQ_RETURN_IF_ERROR(fields.RefuseOthers({"type", "pattern", "behavior", "invert"}));
  TQ_ASSIGN_OR_RETURN(const std::string pattern, Pattern(fields, /*regex=*/true));
  const auto kind = KindOfPattern(pattern);
  if (!kind) {
    return Unimplemented("{} has type 'Split' with a pattern that is not known: {}", fields.where(),
                         Quote(pattern));
  }
  data.pre_tokenizer = *kind;
  TQ_RETURN_IF_ERROR(fields.RefuseTrue("invert"));
  return ExpectString(fields, "behavior", "Isolated");
}

// The newer prepend_scheme is "always", "never" or "first"; the older add_prefix_space means
// "always" or "never". Sets whether there is a prefix at all.
Status ReadPrependScheme(const JsonFields& fields, bool& prefix, bool& first_only) {
  TQ_ASSIGN_OR_RETURN(const std::string scheme, fields.StringOr("prepend_scheme", ""));
  first_only = scheme == "first";
  prefix = scheme == "always" || first_only;
  if (prefix || scheme == "never") return OkStatus();
  if (!scheme.empty()) {
    return Unimplemented("{} is {}", fields.Name("prepend_scheme"), Quote(scheme));
  }
  TQ_ASSIGN_OR_RETURN(prefix, PrefixSpace(fields));
  return OkStatus();
}

Status CheckMetaspace(const JsonFields& fields) {
  TQ_RETURN_IF_ERROR(fields.RefuseOthers(
      {"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"}));
  return ExpectString(fields, "replacement", kSpaceMark);
}

Status ReadMetaspace(const JsonFields& fields, TokenizerData& data) {
  TQ_RETURN_IF_ERROR(CheckMetaspace(fields));
  TQ_ASSIGN_OR_RETURN(const bool split, fields.BoolOr("split", true));
  data.pre_tokenizer = split ? PreTokenizerKind::kMetaspaceWords : PreTokenizerKind::kMetaspace;
  return ReadPrependScheme(fields, data.add_prefix_space, data.prefix_first_only);
}

// Whether the step cuts at spaces, of which the normalizer has left none.
StatusOr<bool> CutsAtNothing(const Step& step, const TokenizerData& data) {
  if (step.second != "Split" || !data.normalization.mark_spaces) return false;
  TQ_RETURN_IF_ERROR(step.first.RefuseOthers({"type", "pattern", "behavior", "invert"}));
  TQ_ASSIGN_OR_RETURN(const std::string pattern, Pattern(step.first, /*regex=*/false));
  TQ_RETURN_IF_ERROR(step.first.RefuseTrue("invert"));
  return pattern == " ";
}

// Around SentencePiece's kinds of model: nothing, Metaspace, or (Gemma) a cut at spaces.
Status ReadCharacterLevel(const std::vector<Step>& steps, std::string_view where,
                          TokenizerData& data) {
  data.pre_tokenizer = PreTokenizerKind::kNone;
  if (steps.empty()) return OkStatus();
  if (steps.size() == 1 && steps[0].second == "Metaspace") {
    return ReadMetaspace(steps[0].first, data);
  }
  if (steps.size() == 1) {
    TQ_ASSIGN_OR_RETURN(const bool nothing, CutsAtNothing(steps[0], data));
    if (nothing) return OkStatus();
  }
  for (const auto& [fields, type] : steps) {
    if (type == "Metaspace") continue;
    return Unimplemented("{} has type {} without ByteLevel behind it, only Metaspace is supported",
                         fields.where(), Quote(type));
  }
  return Unimplemented("{} has {} steps", where, steps.size());
}

Status ReadByteLevelSteps(const std::vector<Step>& steps, std::string_view where,
                          TokenizerData& data) {
  data.pre_tokenizer = PreTokenizerKind::kGpt2;
  if (steps.size() == 1) return ReadByteLevel(steps[0].first, /*regex=*/true, data);
  if (steps.size() == 2 && steps[0].second == "Digits") {
    TQ_RETURN_IF_ERROR(ReadDigits(steps[0].first, data));
    return ReadByteLevel(steps[1].first, /*regex=*/true, data);
  }
  if (steps.size() == 2 && steps[0].second == "Split") {
    TQ_RETURN_IF_ERROR(ReadSplit(steps[0].first, data));
    return ReadByteLevel(steps[1].first, /*regex=*/false, data);
  }
  return Unimplemented("{} is none of ByteLevel; Digits, ByteLevel; Split, ByteLevel", where);
}

// The token that a template puts before a single text: [BOS, A] or [A].
Status ReadTemplate(const JsonFields& fields, TokenizerData& data) {
  TQ_RETURN_IF_ERROR(fields.RefuseOthers({"type", "single", "pair", "special_tokens"}));
  TQ_ASSIGN_OR_RETURN(const auto* single, JsonListOrEmpty(fields, "single"));
  std::string shape, special;
  for (const json& piece : *single) {
    TQ_ASSIGN_OR_RETURN(const JsonFields outer, JsonFields::Of(piece, fields.Name("single")));
    TQ_RETURN_IF_ERROR(outer.RefuseOthers({"SpecialToken", "Sequence"}));
    if (const json* token = outer.Find("SpecialToken")) {
      TQ_ASSIGN_OR_RETURN(const JsonFields inner, JsonFields::Of(*token, fields.Name("single")));
      TQ_ASSIGN_OR_RETURN(special, inner.String("id"));
      shape += 'S';
    } else {
      shape += 'A';
    }
  }
  if (shape == "A") return OkStatus();
  if (shape != "SA") {
    return Unimplemented("{}: only a token before the text is supported", fields.Name("single"));
  }
  const std::string where = fields.Name("special_tokens");
  const json* specials = fields.Find("special_tokens");
  if (specials == nullptr) return InvalidArgument("{} is missing", where);
  TQ_ASSIGN_OR_RETURN(const JsonFields by_name, JsonFields::Of(*specials, where));
  const json* entry = by_name.Find(special);
  if (entry == nullptr) return InvalidArgument("{} lacks {}", where, Quote(special));
  TQ_ASSIGN_OR_RETURN(const JsonFields token, JsonFields::Of(*entry, where));
  TQ_ASSIGN_OR_RETURN(const auto* ids, JsonListOrEmpty(token, "ids"));
  if (ids->size() != 1) {
    return Unimplemented("{} has {} ids, only one is supported", where, ids->size());
  }
  TQ_ASSIGN_OR_RETURN(data.bos, JsonTokenId((*ids)[0], where));
  data.add_bos = true;
  return OkStatus();
}

// [Replace mark by space, ByteFallback, Fuse, Strip]: the order does not change the bytes, but
// for Strip, which comes last. Instead of Replace and Strip there may be Metaspace, which drops
// all marks of a first token of marks; we drop one, as for the other.
Status ReadCharacterDecoder(const std::vector<Step>& steps, std::string_view where,
                            TokenizerData& data) {
  bool unmarks = false, bytes = false, fused = false;
  for (const auto& [fields, type] : steps) {
    if (data.strip_prefix && type != "Fuse") {
      return Unimplemented("{} has type {} behind one that strips", fields.where(), Quote(type));
    }
    if (type == "Replace") {
      TQ_RETURN_IF_ERROR(ExpectReplace(fields, kSpaceMark, " "));
      TQ_RETURN_IF_ERROR(SetOnce(fields, unmarks));
    } else if (type == "Metaspace") {
      TQ_RETURN_IF_ERROR(CheckMetaspace(fields));
      TQ_RETURN_IF_ERROR(SetOnce(fields, unmarks));
      bool first_only = false;
      TQ_RETURN_IF_ERROR(ReadPrependScheme(fields, data.strip_prefix, first_only));
    } else if (type == "ByteFallback") {
      bytes = true;
    } else if (type == "Strip") {
      TQ_RETURN_IF_ERROR(fields.RefuseOthers({"type", "content", "start", "stop"}));
      TQ_RETURN_IF_ERROR(ExpectString(fields, "content", " "));
      const json* start = fields.Find("start");
      const json* stop = fields.Find("stop");
      if (start == nullptr || *start != 1 || stop == nullptr || *stop != 0) {
        return Unimplemented("{}: only a start of 1 and a stop of 0 are supported", fields.where());
      }
      // Elsewhere it would strip each token.
      if (!fused) return Unimplemented("{} has type 'Strip' without Fuse before", fields.where());
      data.strip_prefix = true;
    } else if (type == "Fuse") {
      fused = true;
    } else {
      return Unimplemented("{} has type {}", fields.where(), Quote(type));
    }
  }
  if (!unmarks) return Unimplemented("{} lacks a step that turns U+2581 into a space", where);
  const bool has_bytes =
      std::find(data.types.begin(), data.types.end(), TokenType::kByte) != data.types.end();
  if (has_bytes && !bytes) return Unimplemented("{} lacks ByteFallback", where);
  return OkStatus();
}

}  // namespace

Status ReadNormalizer(const json* value, std::string_view file, TokenizerData& data) {
  if (value == nullptr) return OkStatus();
  TQ_ASSIGN_OR_RETURN(const auto steps,
                      Flatten(*value, fmt::format("{}: normalizer", file), "normalizers"));
  Normalization& normalization = data.normalization;
  for (const auto& [fields, type] : steps) {
    if (type == "NFC") {
      TQ_RETURN_IF_ERROR(fields.RefuseOthers({"type"}));
      TQ_RETURN_IF_ERROR(SetOnce(fields, normalization.nfc));
    } else if (type == "Prepend") {
      TQ_RETURN_IF_ERROR(fields.RefuseOthers({"type", "prepend"}));
      TQ_RETURN_IF_ERROR(ExpectString(fields, "prepend", kSpaceMark));
      TQ_RETURN_IF_ERROR(SetOnce(fields, normalization.prefix_mark));
    } else if (type == "Replace") {
      TQ_RETURN_IF_ERROR(ExpectReplace(fields, " ", kSpaceMark));
      TQ_RETURN_IF_ERROR(SetOnce(fields, normalization.mark_spaces));
    } else {
      return Unimplemented("{} has type {}, only NFC, Prepend and Replace are supported",
                           fields.where(), Quote(type));
    }
  }
  return OkStatus();
}

Status ReadPreTokenizer(const json* value, std::string_view file, TokenizerData& data) {
  const std::string where = fmt::format("{}: pre_tokenizer", file);
  std::vector<Step> steps;
  if (value != nullptr) {
    TQ_ASSIGN_OR_RETURN(steps, Flatten(*value, where, "pretokenizers"));
  }
  const bool byte_level = !steps.empty() && steps.back().second == "ByteLevel";
  if (data.model != TokenModel::kUnigram) {
    data.model = byte_level ? TokenModel::kByteBpe : TokenModel::kCharacterBpe;
  }
  return byte_level ? ReadByteLevelSteps(steps, where, data)
                    : ReadCharacterLevel(steps, where, data);
}

Status ReadPostProcessor(const json* value, std::string_view file, TokenizerData& data) {
  if (value == nullptr) return OkStatus();
  TQ_ASSIGN_OR_RETURN(const auto parts,
                      Flatten(*value, fmt::format("{}: post_processor", file), "processors"));
  for (const auto& [fields, type] : parts) {
    if (type == "ByteLevel") continue;  // changes offsets only
    if (type != "TemplateProcessing") {
      return Unimplemented("{} has type {}, only ByteLevel and TemplateProcessing are supported",
                           fields.where(), Quote(type));
    }
    if (data.add_bos) return Unimplemented("{}: a second template", fields.where());
    TQ_RETURN_IF_ERROR(ReadTemplate(fields, data));
  }
  return OkStatus();
}

Status ReadDecoder(const json* value, std::string_view file, TokenizerData& data) {
  const std::string where = fmt::format("{}: decoder", file);
  if (value == nullptr) return Unimplemented("{} is null", where);
  TQ_ASSIGN_OR_RETURN(const auto steps, Flatten(*value, where, "decoders"));
  if (data.model != TokenModel::kByteBpe) return ReadCharacterDecoder(steps, where, data);
  if (steps.size() == 1 && steps[0].second == "ByteLevel") return OkStatus();
  return Unimplemented("{} has type {}, only ByteLevel is supported after such a pre_tokenizer",
                       where, Quote(steps.empty() ? "" : steps[0].second));
}

}  // namespace tq
