#include "checkpoint/exchange_quantization.h"

#include <algorithm>
#include <cctype>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/json.h"
#include "checkpoint/quote.h"

namespace tq {
namespace {

using nlohmann::json;

constexpr int32_t kMaxGroupSize = std::numeric_limits<int32_t>::max();

// What changes no weight: how codes were found, which kernels run them and how, and which modules
// have codes, which their tensors say.
constexpr std::string_view kWithoutEffect[] = {"act_group_aware",
                                               "autoround_version",
                                               "batch_size",
                                               "block_name_to_quantize",
                                               "cache_block_outputs",
                                               "cache_examples_on_gpu",
                                               "damp_auto_increment",
                                               "damp_percent",
                                               "dataset",
                                               "disable_exllama",
                                               "do_fuse",
                                               "enable_quanted_input",
                                               "exllama_config",
                                               "fuse_max_seq_len",
                                               "iters",
                                               "low_gpu_mem_usage",
                                               "max_input_length",
                                               "meta",
                                               "model_file_base_name",
                                               "model_name_or_path",
                                               "model_seqlen",
                                               "module_name_preceding_first_block",
                                               "modules_in_block_to_quantize",
                                               "modules_to_fuse",
                                               "modules_to_not_convert",
                                               "pad_token_id",
                                               "quant_method",
                                               "scale_dtype",  // the tensors say it
                                               "static_groups",
                                               "to_quant_block_names",
                                               "tokenizer",
                                               "true_sequential",
                                               "use_cuda_fp16",
                                               "use_exllama"};

std::string Lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// Whether settings for single modules only leave some out, which have no codes.
bool OnlyLeavesOut(const json& dynamic) {
  if (!dynamic.is_object()) return false;
  for (const auto& [pattern, settings] : dynamic.items()) {
    if (!pattern.starts_with("-:")) return false;
  }
  return true;
}

class Reader {
 public:
  Reader(const json& fields, std::string_view where)
      : where_(where), awq_(fields["quant_method"] == "awq") {
    if (awq_) quantization_.format = ExchangeFormat::kAwq;
  }

  Status Read(std::string_view key, const json& value) {
    if (value.is_null() || std::ranges::find(kWithoutEffect, key) != std::end(kWithoutEffect)) {
      return OkStatus();
    }
    if (key == "bits" || key == "w_bit") return ReadBits(key, value);
    if (key == "group_size" || key == "q_group_size") return ReadGroupSize(key, value);
    if (key == "desc_act" && value.is_boolean() && !(awq_ && value == true)) {
      quantization_.ordered = value.get<bool>();
      return OkStatus();
    }
    if (key == "sym" && awq_) return OkStatus();  // zero_point says it
    if (key == (awq_ ? "zero_point" : "sym") && value.is_boolean()) {
      quantization_.symmetric = value.get<bool>() != awq_;
      return OkStatus();
    }
    const bool is_layout = key == "checkpoint_format" || key == "format" || key == "version";
    if (is_layout && value.is_string()) return ReadLayout(key, value);
    return IsNeutral(key, value) ? OkStatus() : FieldNotSupported(where_, key, value);
  }

  StatusOr<ExchangeQuantization> Finish() {
    if (!has_bits_) return InvalidArgument("{}: 'bits' is missing", where_);
    if (!has_group_size_) return InvalidArgument("{}: 'group_size' is missing", where_);
    return quantization_;
  }

 private:
  // Values at which a field changes nothing.
  bool IsNeutral(std::string_view key, const json& value) const {
    if (key == "dynamic") return OnlyLeavesOut(value);
    if (key == "lm_head" || key == "is_marlin_format") return value == false;
    if (key == "pack_dtype") return value == "int32";
    if (key == "method") return value == (awq_ ? "awq" : "gptq");
    if (key == "data_type") return value == "int";
    // Of GPTQ it picks a kernel, and of AWQ too but for one, which has a layout of its own.
    if (key == "backend") return value.is_string() && Lower(value.get<std::string>()) != "llm-awq";
    return false;
  }

  Status ReadBits(std::string_view key, const json& value) {
    const std::string_view known = awq_ ? "4" : "2, 3, 4 and 8";
    const bool is_known = awq_ ? value == 4 : value == 2 || value == 3 || value == 4 || value == 8;
    if (!value.is_number_integer() || !is_known) {
      return Unimplemented("{}: {} = {} is not supported, known are {}", where_, Quote(key),
                           Quote(value.dump()), known);
    }
    const auto bits = value.get<uint32_t>();
    if (has_bits_ && bits != quantization_.bits) return Contradicts(key, value);
    has_bits_ = true;
    quantization_.bits = bits;
    return OkStatus();
  }

  Status ReadGroupSize(std::string_view key, const json& value) {
    const bool is_huge = value.is_number_unsigned() && value.get<uint64_t>() > kMaxGroupSize;
    const int64_t given = value.is_number_integer() && !is_huge ? value.get<int64_t>() : 0;
    if (given != -1 && (given < 1 || given > kMaxGroupSize)) {
      return InvalidArgument("{}: {} is {}, allowed are -1 and 1 to {}", where_, Quote(key),
                             Quote(value.dump()), kMaxGroupSize);
    }
    std::optional<uint32_t> size;
    if (given != -1) size = static_cast<uint32_t>(given);
    if (has_group_size_ && size != quantization_.group_size) return Contradicts(key, value);
    has_group_size_ = true;
    quantization_.group_size = size;
    return OkStatus();
  }

  // "GEMM" and "gemm" are the same.
  Status ReadLayout(std::string_view key, const json& value) {
    const std::string layout = Lower(value.get<std::string>());
    std::optional<ExchangeFormat> format;
    if (awq_ && layout == "gemm") format = ExchangeFormat::kAwq;
    if (!awq_ && key != "version" && layout == "gptq") format = ExchangeFormat::kGptqV1;
    if (!awq_ && key != "version" && layout == "gptq_v2") format = ExchangeFormat::kGptqV2;
    if (!format) {
      return Unimplemented("{}: {} = {} is not supported, known are {}", where_, Quote(key),
                           Quote(value.dump()), awq_ ? "'gemm'" : "'gptq' and 'gptq_v2'");
    }
    if (has_layout_ && *format != quantization_.format) return Contradicts(key, value);
    has_layout_ = true;
    quantization_.format = *format;
    return OkStatus();
  }

  Status Contradicts(std::string_view key, const json& value) const {
    return InvalidArgument("{}: {} = {} contradicts another field", where_, Quote(key),
                           Quote(value.dump()));
  }

  const std::string_view where_;
  const bool awq_;
  bool has_bits_ = false, has_group_size_ = false, has_layout_ = false;
  ExchangeQuantization quantization_;
};

}  // namespace

ExchangeSizes ExchangeQuantization::SizesOf(const Shape& shape) const {
  const uint64_t group = std::min<uint64_t>(group_size.value_or(kMaxGroupSize), shape[1]);
  return {shape[0], shape[1], bits, static_cast<uint32_t>(group)};
}

StatusOr<ExchangeQuantization> ReadExchangeQuantization(const json& fields,
                                                        std::string_view where) {
  Reader reader(fields, where);
  for (const auto& [key, value] : fields.items()) {
    TQ_RETURN_IF_ERROR(reader.Read(key, value));
  }
  return reader.Finish();
}

}  // namespace tq
