// The tokens that calibration runs the original model on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "checkpoint/model_source.h"
#include "device/executor.h"
#include "tokenizer/tokenizer.h"

namespace tq {

// Windows of equal length, one after the other.
struct CalibrationTokens {
  uint64_t context = 0;
  std::vector<int32_t> ids;  // [windows, context]

  uint64_t windows() const { return context == 0 ? 0 : ids.size() / context; }
  std::span<const int32_t> window(uint64_t i) const { return {ids.data() + i * context, context}; }
};

// What a text must at least give to say anything about a model's activations.
inline constexpr uint64_t kMinCalibrationTokens = 16;
// A window has tokens to score in its second half.
inline constexpr uint64_t kMinCalibrationContext = 4;

// Windows of `context` tokens spread evenly over the text, about `wanted` tokens in all or
// what there is; a text shorter than `context` is one window. The first token of each window
// is replaced by BOS if the model expects it. `what` names the text in errors: an empty or
// binary one, and one that is too short, are refused.
StatusOr<CalibrationTokens> CutCalibrationText(std::string_view text, std::string_view what,
                                               const Tokenizer& tokenizer, uint64_t wanted,
                                               uint64_t context);

// Windows to calibrate with, and others that are held apart to compare candidates on.
struct CalibrationSet {
  CalibrationTokens text, held_apart;
};
// At most this many windows are held apart, and at least two.
inline constexpr uint64_t kMaxHeldApart = 16;

// As CutCalibrationText, but no token is in two windows, and up to a quarter of the windows,
// evenly spread, are held apart. A text of fewer than three windows is an error.
StatusOr<CalibrationSet> CutCalibrationSet(std::string_view text, std::string_view what,
                                           const Tokenizer& tokenizer, uint64_t wanted,
                                           uint64_t context);

// About `count` tokens in shorter windows, of at most `context` tokens: the beginnings of evenly
// spread ones.
CalibrationTokens ShortWindows(const CalibrationTokens& tokens, uint64_t count, uint64_t context);

// Text of at most this many bytes is read from a calibration file.
inline constexpr uint64_t kMaxCalibrationBytes = uint64_t{1} << 30;

// What drawing them takes: the weights in float32 and the KV caches of a batch.
uint64_t SampleMemoryNeeded(const ModelSource& source, uint64_t wanted, uint64_t context);

// Tokens drawn from the model itself (temperature 1, from BOS or, without one, from a random
// token). ResourceExhausted when the model does not fit in memory as float32.
StatusOr<CalibrationTokens> SampleCalibrationTokens(const ModelSource& source, int32_t bos,
                                                    uint64_t wanted, uint64_t context,
                                                    uint64_t seed, Executor& executor,
                                                    Progress& progress);

}  // namespace tq
