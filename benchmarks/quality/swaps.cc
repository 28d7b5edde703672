// How well sensitivities foretell what quantising one matrix does: every decoder matrix in turn is
// quantised for real and swapped into the float model.
//
//   swaps MODEL SENSITIVITY.json CALIBRATION.txt TEXT.txt [BITS [STEP]]
//
// Prints, per matrix, the KL divergence that was predicted and the true one on TEXT, then
// Spearman's rank correlation of both, also for the Hessian measure. STEP: only every so many
// matrices.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "codec/packed_matrix.h"
#include "compress/calibrate.h"
#include "compress/group.h"
#include "compress/kl_probe.h"
#include "compress/sensitivity.h"
#include "device/thread_pool.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;

struct Arguments {
  std::string model, sensitivity, calibration, text;
  double bits = 2;
  size_t step = 1;
};

// Ranks from 0; equal values share their mean rank.
std::vector<double> Ranks(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t i = 0; i < order.size();) {
    size_t end = i;
    while (end < order.size() && values[order[end]] == values[order[i]]) ++end;
    for (size_t j = i; j < end; ++j) ranks[order[j]] = static_cast<double>(i + end - 1) / 2;
    i = end;
  }
  return ranks;
}

double Spearman(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> x = Ranks(a), y = Ranks(b);
  const double mean = static_cast<double>(x.size() - 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xy / std::sqrt(xx * yy);
}

// What the codes of a matrix decode to, float [rows, cols].
StatusOr<Tensor> Decode(const QuantizedMatrix& matrix, const PlannedMatrix& m, Executor& executor) {
  std::map<std::string, Tensor> tensors;
  for (const OutputTensor& t : matrix.tensors) tensors[t.name] = t.tensor;
  const auto input = std::make_shared<InputTransform>(
      InputTransform{tensors[m.group + ".in_scale"],
                     static_cast<uint32_t>(tensors[m.name + ".layout"].as<int32_t>()[6])});
  TQ_ASSIGN_OR_RETURN(
      const PackedMatrix packed,
      PackedMatrixFromTensors(tensors[m.name + ".layout"], tensors[m.name + ".codes"],
                              tensors[m.name + ".out_scale"], input));
  TQ_ASSIGN_OR_RETURN(Tensor decoded, Tensor::Zeros(DType::kF32, {m.rows, m.cols}));
  DecodeDense(packed, executor, decoded.mutable_as<float>());
  return decoded;
}

class Swaps {
 public:
  Swaps(const Arguments& arguments, Executor& executor)
      : arguments_(arguments), executor_(executor) {}

  Status Run() {
    options_.model = arguments_.model;
    options_.fast = true;
    TQ_ASSIGN_OR_RETURN(source_, ModelSource::Open(options_.model));
    TQ_ASSIGN_OR_RETURN(outline_, OutlineModel(*source_, options_));
    TQ_ASSIGN_OR_RETURN(const Hash128 fingerprint, ModelFingerprint(*source_));
    TQ_ASSIGN_OR_RETURN(table_, ReadSensitivity(arguments_.sensitivity, fingerprint, outline_));
    TQ_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::FromModel(options_.model));
    TQ_ASSIGN_OR_RETURN(const std::string calibration,
                        ReadFile(arguments_.calibration, kMaxTextBytes));
    TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(arguments_.text, kMaxTextBytes));
    TQ_ASSIGN_OR_RETURN(CalibrationTokens tokens,
                        CutCalibrationText(calibration, arguments_.calibration, *tokenizer,
                                           kSensitivityTokens, 512));
    TQ_ASSIGN_OR_RETURN(CalibrationTokens windows,
                        CutCalibrationText(text, arguments_.text, *tokenizer, 4096, 512));
    TQ_ASSIGN_OR_RETURN(
        CalibrationStream stream,
        CalibrationStream::Create(*source_, std::move(tokens), options_.calibration_memory, "."));
    TQ_ASSIGN_OR_RETURN(KlProbe probe, KlProbe::Create(*source_, std::move(windows), executor_));
    const std::vector<MatrixGroup> groups =
        GroupsOf(outline_.matrices, source_->config().tie_embeddings);
    for (uint32_t layer = 0; layer < source_->config().num_layers; ++layer) {
      std::map<std::string, const MatrixGroup*> of_layer;
      std::set<std::string> names;
      for (const MatrixGroup& group : groups) {
        if (group.layer != layer) continue;
        const std::string& name = outline_.matrices[group.begin].group;
        of_layer.emplace(name, &group);
        names.insert(name);
      }
      TQ_ASSIGN_OR_RETURN(std::vector<HessianSum> sums, stream.RunLayer(names, executor_));
      for (HessianSum& sum : sums) {
        const MatrixGroup& group = *of_layer.at(sum.name());
        TQ_RETURN_IF_ERROR(SwapGroup(group, std::move(sum), probe));
      }
      TQ_RETURN_IF_ERROR(probe.Advance());
    }
    fmt::print("Spearman over {} matrices at {} bits: kl {:.3f}, hessian {:.3f}\n", true_.size(),
               arguments_.bits, Spearman(predicted_, true_), Spearman(hessian_, true_));
    return OkStatus();
  }

 private:
  Status SwapGroup(const MatrixGroup& group, HessianSum sum, KlProbe& probe) {
    TQ_ASSIGN_OR_RETURN(Tensor hessian, std::move(sum).Finish(executor_));
    const auto matrices =
        std::span(outline_.matrices).subspan(group.begin, group.end - group.begin);
    TQ_ASSIGN_OR_RETURN(
        GroupQuantizer quantizer,
        GroupQuantizer::Load(*source_, options_, matrices, std::move(hessian), nullptr, executor_));
    for (size_t i = 0; i < matrices.size(); ++i) {
      if ((group.begin + i) % arguments_.step != 0) continue;
      PlannedMatrix m = matrices[i];
      m.segments = SplitRows(m.rows, PositionOfRate(arguments_.bits), 0.5, HigherRows::kLast,
                             VariantOf(options_));
      TQ_ASSIGN_OR_RETURN(const QuantizedMatrix quantized,
                          quantizer.Quantize(i, m, GroupQuantizer::Weights::kSpend, executor_));
      LayerTensors tensors = probe.tensors(probe.current());
      TQ_ASSIGN_OR_RETURN(*tensors.Find(m.name), Decode(quantized, m, executor_));
      TQ_ASSIGN_OR_RETURN(const auto layer, probe.MakeLayer(std::move(tensors)));
      TQ_ASSIGN_OR_RETURN(const double kl, probe.KlWithLayer(*layer));
      Compare(m.name, kl);
    }
    return OkStatus();
  }

  void Compare(const std::string& name, double kl) {
    const double error = ExpectedError(PositionOfRate(arguments_.bits), HigherRows::kLast);
    for (const SensitivityItem& item : table_.items) {
      if (item.matrix != name) continue;
      predicted_.push_back(item.Loss(error));
      hessian_.push_back(item.hessian_loss);
      true_.push_back(kl);
      fmt::print("{:<40} predicted {:.6f} true {:.6f}\n", name, predicted_.back(), kl);
    }
  }

  const Arguments& arguments_;
  Executor& executor_;
  QuantizeOptions options_;
  std::unique_ptr<ModelSource> source_;
  ModelOutline outline_;
  SensitivityTable table_;
  std::vector<double> predicted_, hessian_, true_;
};

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  if (argc < 5 || argc > 7) {
    fmt::print(stderr,
               "usage: swaps MODEL SENSITIVITY.json CALIBRATION.txt TEXT.txt [BITS [STEP]]\n");
    return 2;
  }
  tq::Arguments arguments{argv[1], argv[2], argv[3], argv[4]};
  if (argc > 5) arguments.bits = std::strtod(argv[5], nullptr);
  if (argc > 6) arguments.step = std::max(1ul, std::strtoul(argv[6], nullptr, 10));
  auto pool = tq::ThreadPool::Create(0);
  const tq::Status status = pool.ok() ? tq::Swaps(arguments, **pool).Run() : pool.status();
  if (status.ok()) return 0;
  fmt::print(stderr, "swaps: {}\n", status.message());
  return 1;
}
