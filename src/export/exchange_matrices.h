// The matrices of a model's layers in the layouts of AutoGPTQ, GPTQModel and AutoAWQ, one in memory
// at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "checkpoint/safetensors.h"
#include "codec/exchange_layout.h"
#include "device/executor.h"
#include "export/weight_rows.h"

namespace tq {

class ExchangeMatrices {
 public:
  // All matrices must be of grouped codes, of one width and in groups of one size; otherwise, and
  // where the format has no word for one, an error names `model` and the matrix. References but
  // `progress` must outlive this. Stops with kCancelled between matrices when asked to.
  static StatusOr<std::unique_ptr<ExchangeMatrices>> Of(ExchangeFormat format,
                                                        const std::filesystem::path& model,
                                                        const WeightRows& weights,
                                                        Executor& executor, Progress& progress);

  // Whether a tensor of the model is one of them.
  static bool Holds(const TensorSpec& spec);
  // qweight, qzeros, scales and, of GPTQ, g_idx, which are made when they are written, in this
  // order; `converted` is called once they are known.
  StatusOr<std::vector<OutputTensor>> TensorsOf(const TensorSpec& spec,
                                                std::function<void()> converted);
  // As other programs read it from config.json.
  nlohmann::ordered_json QuantizationConfig() const;
  bool symmetric() const { return symmetric_; }

 private:
  ExchangeMatrices(ExchangeFormat format, const std::filesystem::path& model,
                   const WeightRows& weights, Executor& executor)
      : format_(format), model_(model), weights_(weights), executor_(executor) {}
  // Adds a matrix to what is said of all.
  Status Add(const TensorSpec& spec, const GroupedMatrix& matrix);
  Status CheckGroups(const TensorSpec& spec) const;
  ExchangeSizes SizesOf(const TensorSpec& spec) const;
  std::string Where(std::string_view name) const;
  StatusOr<GroupedMatrix> Load(const TensorSpec& spec) const;
  // Makes tensors_ those of a matrix.
  Status Convert(const TensorSpec& spec, const std::function<void()>& converted);

  const ExchangeFormat format_;
  const std::filesystem::path& model_;
  const WeightRows& weights_;
  Executor& executor_;
  uint32_t bits_ = 0;
  // Of matrices with several groups in a row; none: there are no such.
  std::optional<uint32_t> group_size_;
  uint64_t longest_group_ = 0;  // of matrices with one
  bool symmetric_ = true, ordered_ = false;
  std::string converted_;  // the matrix in tensors_
  ExchangeTensors tensors_;
};

}  // namespace tq
