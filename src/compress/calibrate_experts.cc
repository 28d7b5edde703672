#include "compress/calibrate_experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "base/cancel.h"
#include "checkpoint/packed_model.h"
#include "model/transformer_ops.h"

namespace tq {
namespace {

double SquaredNorm(const float* x, uint64_t n, double factor = 1) {
  double sum = 0;
  for (uint64_t i = 0; i < n; ++i) sum += (factor * x[i]) * (factor * x[i]);
  return sum;
}

}  // namespace

Status ExpertCalibration::Run(const std::set<std::string>& wanted, const TakeSum& take) {
  TQ_CHECK(!config_.sandwich_norms && !config_.sub_norms);  // no architecture has both
  TQ_ASSIGN_OR_RETURN(vectors_, LoadMlpVectors(config_, layer_, VectorsOf(source_)));
  TQ_ASSIGN_OR_RETURN(outputs_,
                      StateStore::Create(Tokens() * config_.hidden_size, memory_limit_, folder_));
  TQ_RETURN_IF_ERROR(Route());
  if (!wanted.empty()) GatherPool();
  for (uint32_t e = 0; e < config_.num_experts; ++e) {
    TQ_RETURN_IF_ERROR(RunExpert(e, wanted, take));
  }
  return AddOutputs();
}

std::string ExpertCalibration::GroupOf(const std::string& matrix) const {
  return GroupName(fmt::format("model.layers.{}.{}", layer_, matrix));
}

Status ExpertCalibration::WithPlace(Status status, uint64_t window) const {
  return status.WithContext(fmt::format("calibration, layer {}, window {}", layer_, window));
}

float* ExpertCalibration::NormedRows(std::span<const RoutedToken> tokens) {
  workspace_.Resize(tokens.size());
  float* rows = workspace_.narrow.data();
  GatherRows(states_.store->data(), config_.hidden_size, tokens, executor_, rows);
  RmsNormRows(rows, vectors_.norm.as<float>(), tokens.size(), config_.hidden_size,
              config_.rms_norm_eps, executor_, rows);
  return rows;
}

Status ExpertCalibration::Route() {
  std::vector<RoutedToken> tokens;
  for (uint64_t window = 0; window < states_.windows; ++window) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    for (uint64_t done = 0; done < states_.context; done += tokens.size()) {
      tokens.resize(std::min(states_.context - done, workspace_.chunk()));
      for (size_t i = 0; i < tokens.size(); ++i) {
        tokens[i].token = static_cast<uint32_t>(window * states_.context + done + i);
      }
      routing_.Add(vectors_.router, NormedRows(tokens), tokens.size(), executor_);
    }
    states_.store->Release(window * WindowSize(), WindowSize());
    std::fill_n(outputs_.data() + window * WindowSize(), WindowSize(), 0.0f);
    outputs_.Release(window * WindowSize(), WindowSize());
  }
  return OkStatus();
}

void ExpertCalibration::GatherPool() {
  const uint64_t rows = std::min(kPoolRows, Tokens()), hidden = config_.hidden_size;
  pool_.resize(rows * hidden);
  for (uint64_t i = 0; i < rows; ++i) {
    const RoutedToken token[] = {{static_cast<uint32_t>(i * Tokens() / rows), 0}};
    std::copy_n(NormedRows(token), hidden, pool_.data() + i * hidden);
  }
  states_.store->Release(0, Tokens() * hidden);
}

Status ExpertCalibration::RunExpert(uint32_t expert, const std::set<std::string>& wanted,
                                    const TakeSum& take) {
  const MlpNames names = NamesOfMlp(config_, expert);
  GroupSums sums(executor_, device_);
  TQ_RETURN_IF_ERROR(
      sums.Add(wanted, GroupRole::kGateUp, GroupOf(names.gate), config_.hidden_size));
  TQ_RETURN_IF_ERROR(sums.Add(wanted, GroupRole::kDown, GroupOf(names.down), config_.mlp_size()));
  use_[expert].rows = routing_.Of(expert).size();
  if (sums.empty() && use_[expert].rows == 0) return OkStatus();
  {
    TQ_ASSIGN_OR_RETURN(MlpTensors tensors, LoadMlpTensors(source_, layer_, expert));
    TQ_ASSIGN_OR_RETURN(const GatedMlp mlp, MakeFloatMlp(std::move(tensors), device_));
    const InputObserver observer = sums.Observer();
    const Status ran = RunOnTokens(expert, mlp, observer);
    TQ_RETURN_IF_ERROR(sums.observed());
    TQ_RETURN_IF_ERROR(ran);
    const uint64_t hidden = config_.hidden_size, rows = pool_.size() / hidden;
    ForwardContext context;
    context.executor = &executor_;
    for (uint64_t done = 0; done < rows && !sums.empty(); done += workspace_.chunk()) {
      const uint64_t n = std::min(rows - done, workspace_.chunk());
      workspace_.Resize(n);
      TQ_RETURN_IF_ERROR(mlp.Run(context, config_, {}, pool_.data() + done * hidden, n,
                                 workspace_.wide.data(), workspace_.narrow.data(), observer));
      TQ_RETURN_IF_ERROR(sums.observed());
    }
  }
  return sums.Give(take);
}

Status ExpertCalibration::RunOnTokens(uint32_t expert, const GatedMlp& mlp,
                                      const InputObserver& observer) {
  const std::span<const RoutedToken> all = routing_.Of(expert);
  const uint64_t hidden = config_.hidden_size;
  ForwardContext context;
  context.executor = &executor_;
  for (size_t done = 0; done < all.size();) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    // Tokens of one window at a time: of spilled states no more are in use.
    const uint64_t window = all[done].token / states_.context;
    size_t end = done;
    while (end < all.size() && end - done < workspace_.chunk() &&
           all[end].token / states_.context == window) {
      ++end;
    }
    const std::span<const RoutedToken> tokens = all.subspan(done, end - done);
    float* rows = NormedRows(tokens);
    TQ_RETURN_IF_ERROR(WithPlace(
        mlp.Run(context, config_, {}, rows, tokens.size(), workspace_.wide.data(), rows, observer),
        window));
    for (size_t i = 0; i < tokens.size(); ++i) {
      squares_[expert].push_back(SquaredNorm(rows + i * hidden, hidden, tokens[i].weight));
    }
    AddWeightedRows(rows, hidden, tokens, executor_, outputs_.data());
    done = end;
    if (done < all.size() && all[done].token / states_.context == window) continue;
    states_.store->Release(window * WindowSize(), WindowSize());
    outputs_.Release(window * WindowSize(), WindowSize());
  }
  return OkStatus();
}

Status ExpertCalibration::AddOutputs() {
  const uint64_t hidden = config_.hidden_size;
  std::vector<double> whole(Tokens());
  for (uint64_t window = 0; window < states_.windows; ++window) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    float* states = states_.store->data() + window * WindowSize();
    const float* outputs = outputs_.data() + window * WindowSize();
    AddTo(states, outputs, WindowSize(), executor_);
    const uint64_t bad = FirstNonFinite(states, WindowSize());
    if (bad < WindowSize()) {
      return WithPlace(DataLoss("after its MLP the hidden state of position {} has {} at {} of {}",
                                bad / hidden, states[bad], bad % hidden, hidden),
                       window);
    }
    for (uint64_t i = 0; i < states_.context; ++i) {
      double& of_token = whole[window * states_.context + i];
      of_token = SquaredNorm(states + i * hidden, hidden);
      if (of_token > 0) share_ += SquaredNorm(outputs + i * hidden, hidden) / of_token;
    }
    states_.store->Release(window * WindowSize(), WindowSize());
    outputs_.Release(window * WindowSize(), WindowSize());
  }
  const auto tokens = static_cast<double>(Tokens());
  share_ /= tokens;
  for (uint32_t e = 0; e < config_.num_experts; ++e) {
    const std::span<const RoutedToken> seen = routing_.Of(e);
    for (size_t i = 0; i < seen.size(); ++i) {
      if (whole[seen[i].token] > 0) use_[e].share += squares_[e][i] / whole[seen[i].token];
    }
    use_[e].share /= tokens;
  }
  return OkStatus();
}

}  // namespace tq
