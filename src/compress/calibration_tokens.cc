#include "compress/calibration_tokens.h"

#include <algorithm>
#include <utility>

namespace tq {
namespace {

// Share of bytes that no text holds (control characters other than white space) from which
// on a file is taken for binary: one in 64; NUL bytes are refused at once.
constexpr uint64_t kMaxControlShare = 64;

Status CheckIsText(std::string_view text, std::string_view what) {
  if (text.empty()) return InvalidArgument("calibration text {} is empty", what);
  uint64_t control = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == 0) {
      return InvalidArgument("calibration text {} is binary: NUL at byte {}", what, i);
    }
    control += byte < 32 && byte != '\n' && byte != '\r' && byte != '\t' && byte != '\f';
  }
  if (control > text.size() / kMaxControlShare) {
    return InvalidArgument(
        "calibration text {} is binary: {} of its {} bytes are control characters", what, control,
        text.size());
  }
  return OkStatus();
}

}  // namespace

StatusOr<CalibrationTokens> CutCalibrationText(std::string_view text, std::string_view what,
                                               const Tokenizer& tokenizer, uint64_t wanted,
                                               uint64_t context) {
  TQ_RETURN_IF_ERROR(CheckIsText(text, what));
  const std::vector<int32_t> all = tokenizer.Encode(text);
  if (all.size() < kMinCalibrationTokens) {
    return InvalidArgument("calibration text {} has {} tokens; at least {} are needed", what,
                           all.size(), kMinCalibrationTokens);
  }
  CalibrationTokens tokens;
  tokens.context = std::min<uint64_t>(context, all.size());
  const uint64_t windows =
      std::max<uint64_t>(1, std::min<uint64_t>(wanted, all.size()) / tokens.context);
  const uint64_t last_start = all.size() - tokens.context;
  for (uint64_t i = 0; i < windows; ++i) {
    const uint64_t start = windows == 1 ? 0 : last_start * i / (windows - 1);
    tokens.ids.insert(tokens.ids.end(), all.begin() + static_cast<ptrdiff_t>(start),
                      all.begin() + static_cast<ptrdiff_t>(start + tokens.context));
    if (tokenizer.window_bos() >= 0) tokens.ids[i * tokens.context] = tokenizer.window_bos();
  }
  return tokens;
}

}  // namespace tq
