// One model at several sizes: what each loses. Everything is quantised in one pass, nothing is
// kept but the figures.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "compress/quantize.h"
#include "device/executor.h"
#include "evaluate/report.h"

namespace tq {

struct CompareOptions {
  // Model, calibration, how rates are chosen and groups of scalar codes; its method, bits and
  // output are of no account.
  QuantizeOptions quantize;
  std::vector<Method> methods = {Method::kTrellis};
  // Of each method: for trellis sizes in whole-model bits per weight, for others widths of code.
  std::vector<double> bits;
  // Trellis: ways to choose rates; kNone: uniform.
  std::vector<SensitivityMeasure> rates = {SensitivityMeasure::kKl};
  std::filesystem::path text;  // losses are measured on it
  uint64_t context = 512;      // tokens per window
  uint64_t max_windows = 0;    // 0: all
  // Folder for unfinished work: resumed from, removed at the end.
  std::filesystem::path work = "tq-compare.work";
};

struct CompareResult {
  // Sizes in their order, at each the methods, trellis by each way to choose rates.
  std::vector<ReportModel> models;
  // What cannot be had: a method's name and size, and why.
  struct Impossible {
    std::string name, reason;
  };
  std::vector<Impossible> impossible;
  uint64_t parameters = 0, original_bytes = 0;
  uint64_t windows = 0;
};

StatusOr<CompareResult> Compare(const CompareOptions& options, Executor& executor,
                                Progress& progress);

}  // namespace tq
