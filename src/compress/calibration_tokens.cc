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

// All tokens of a text; enough of them to say something.
StatusOr<std::vector<int32_t>> EncodeText(std::string_view text, std::string_view what,
                                          const Tokenizer& tokenizer) {
  TQ_RETURN_IF_ERROR(CheckIsText(text, what));
  std::vector<int32_t> all = tokenizer.Encode(text);
  if (all.size() < kMinCalibrationTokens) {
    return InvalidArgument("calibration text {} has {} tokens; at least {} are needed", what,
                           all.size(), kMinCalibrationTokens);
  }
  return all;
}

// Appends the window that starts at token `start`.
void AppendWindow(const std::vector<int32_t>& all, uint64_t start, int32_t bos,
                  CalibrationTokens& tokens) {
  const auto begin = all.begin() + static_cast<ptrdiff_t>(start);
  tokens.ids.insert(tokens.ids.end(), begin, begin + static_cast<ptrdiff_t>(tokens.context));
  if (bos >= 0) tokens.ids[tokens.ids.size() - tokens.context] = bos;
}

}  // namespace

StatusOr<CalibrationTokens> CutCalibrationText(std::string_view text, std::string_view what,
                                               const Tokenizer& tokenizer, uint64_t wanted,
                                               uint64_t context) {
  TQ_ASSIGN_OR_RETURN(const std::vector<int32_t> all, EncodeText(text, what, tokenizer));
  CalibrationTokens tokens;
  tokens.context = std::min<uint64_t>(context, all.size());
  const uint64_t windows =
      std::max<uint64_t>(1, std::min<uint64_t>(wanted, all.size()) / tokens.context);
  const uint64_t last_start = all.size() - tokens.context;
  for (uint64_t i = 0; i < windows; ++i) {
    const uint64_t start = windows == 1 ? 0 : last_start * i / (windows - 1);
    AppendWindow(all, start, tokenizer.window_bos(), tokens);
  }
  return tokens;
}

StatusOr<CalibrationSet> CutCalibrationSet(std::string_view text, std::string_view what,
                                           const Tokenizer& tokenizer, uint64_t wanted,
                                           uint64_t context) {
  TQ_ASSIGN_OR_RETURN(const std::vector<int32_t> all, EncodeText(text, what, tokenizer));
  constexpr uint64_t kMinHeldApart = 2;
  const uint64_t windows = all.size() / context;
  if (windows <= kMinHeldApart) {
    return InvalidArgument(
        "calibration text {} has {} tokens; choosing rates takes at least {} windows of {} "
        "(more text, or --uniform)",
        what, all.size(), kMinHeldApart + 1, context);
  }
  CalibrationSet set;
  set.text.context = set.held_apart.context = context;
  const uint64_t held = std::clamp(windows / 4, kMinHeldApart, kMaxHeldApart);
  const uint64_t rest = windows - held;
  const uint64_t used = std::clamp<uint64_t>(wanted / context, 1, rest);
  // Window w is held apart when h * windows / held == w for some h; of the others, the i-th is
  // used when it is one of `used` evenly spread ones.
  uint64_t next_held = 0, other = 0, next_used = 0;
  for (uint64_t w = 0; w < windows; ++w) {
    if (next_held < held && w == next_held * windows / held) {
      ++next_held;
      AppendWindow(all, w * context, tokenizer.window_bos(), set.held_apart);
      continue;
    }
    if (next_used < used && other == next_used * rest / used) {
      ++next_used;
      AppendWindow(all, w * context, tokenizer.window_bos(), set.text);
    }
    ++other;
  }
  return set;
}

CalibrationTokens ShortWindows(const CalibrationTokens& tokens, uint64_t count, uint64_t context) {
  CalibrationTokens cut;
  cut.context = std::min(context, tokens.context);
  const uint64_t windows = std::clamp<uint64_t>(count / cut.context, 1, tokens.windows());
  for (uint64_t i = 0; i < windows; ++i) {
    const auto window = tokens.window(i * tokens.windows() / windows);
    cut.ids.insert(cut.ids.end(), window.begin(),
                   window.begin() + static_cast<ptrdiff_t>(cut.context));
  }
  return cut;
}

}  // namespace tq
