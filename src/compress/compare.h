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
  // Model, calibration and how rates are chosen; its bits and output are of no account.
  QuantizeOptions quantize;
  std::vector<double> bits;  // sizes, whole-model bits per weight
  // Ways to choose rates; kNone: uniform.
  std::vector<SensitivityMeasure> rates = {SensitivityMeasure::kKl};
  std::filesystem::path text;  // losses are measured on it
  uint64_t context = 512;      // tokens per window
  uint64_t max_windows = 0;    // 0: all
  // Folder for unfinished work: resumed from, removed at the end.
  std::filesystem::path work = "tq-compare.work";
};

struct CompareResult {
  std::vector<ReportModel> models;  // sizes in their order, at each the ways to choose rates
  uint64_t parameters = 0, original_bytes = 0;
  uint64_t windows = 0;
};

StatusOr<CompareResult> Compare(const CompareOptions& options, Executor& executor,
                                Progress& progress);

}  // namespace tq
