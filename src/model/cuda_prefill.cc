#include "model/cuda_prefill.h"

#include <algorithm>

#include "base/format.h"
#include "base/log.h"
#include "kernels/cuda/dense_steps.h"

namespace tq {
namespace {

// Of the memory that is left: the rest is for more caches.
constexpr uint64_t kShareOfRoom = 2;
// Decoded at once, where memory is short.
constexpr uint64_t kMinWeightBytes = uint64_t{32} << 20;

}  // namespace

StatusOr<std::unique_ptr<CudaPrefill>> CudaPrefill::Create(std::shared_ptr<CudaDevice> device,
                                                           const ModelConfig& config,
                                                           const CudaWeights& weights,
                                                           uint64_t room,
                                                           const CudaOptions& options) {
  if (options.prefill_rows < kMinRows || !cuda::CanAttendMany(config.head_dim)) {
    return std::unique_ptr<CudaPrefill>();
  }
  const auto one_by_one = [&](std::string_view why) {
    Warn("{}; prompts run {} positions at a time", why, cuda::kMaxGemvRows);
    return std::unique_ptr<CudaPrefill>();
  };
  std::unique_ptr<CudaPrefill> prefill(new CudaPrefill(device, config, weights));
  const uint64_t most = room / kShareOfRoom;
  uint64_t rows = std::min(options.prefill_rows, cuda::kMaxTransformerRows);
  uint64_t weight_bytes = options.prefill_weight_bytes;
  while (rows >= kMinRows && prefill->NumBytes(rows, weight_bytes) > most) {
    rows /= 2;
    weight_bytes = std::min(weight_bytes, std::max(weight_bytes / 2, kMinWeightBytes));
  }
  if (rows < kMinRows) {
    return one_by_one(fmt::format(
        "{}: {} positions at a time take {}, more than half of the {} left", device->name(),
        kMinRows, FormatBytes(prefill->NumBytes(kMinRows, weight_bytes)), FormatBytes(room)));
  }
  auto blas = Cublas::Load(*device);
  if (!blas.ok()) return one_by_one(blas.status().message());
  prefill->blas_ = *std::move(blas);
  TQ_RETURN_IF_ERROR(prefill->Allocate(rows, weight_bytes));
  return prefill;
}

bool CudaPrefill::CanKeepRows() const {
  bool can = cuda::CanKeepRope(config_.head_dim);
  ForEachGroup(weights_, [&](const CudaMatmul& group) {
    can = can && cuda::CanKeepRow(group.DenseInput(scratch_));
    for (size_t i = 0; i < group.size(); ++i) {
      can = can && cuda::CanKeepRow(group.DenseOutput(scratch_, i));
    }
  });
  return can;
}

BufferParts<CudaPrefill::Buffers, 11> CudaPrefill::Parts() const {
  const uint64_t hidden = config_.hidden_size, q = config_.q_size(), kv = config_.kv_size();
  // What stays in registers needs no room.
  const uint64_t wide = keep_rows_ ? 0 : config_.intermediate_size;
  const uint64_t k = keep_rows_ ? 0 : kv;
  const uint64_t half = config_.head_dim / 2;
  return {{{&Buffers::hidden, hidden},
           {&Buffers::normed, hidden},
           {&Buffers::q, q},
           {&Buffers::k, k},
           {&Buffers::v, k},
           {&Buffers::attended, q},
           {&Buffers::gate, wide},
           {&Buffers::up, wide},
           {&Buffers::narrow, hidden},
           {&Buffers::cosines, half},
           {&Buffers::sines, half}}};
}

CudaDenseScratch::Sizes CudaPrefill::ScratchSizes(uint64_t rows, uint64_t weight_bytes) const {
  CudaDenseScratch::Sizes sizes;
  sizes.rows = rows, sizes.weight_bytes = weight_bytes;
  ForEachGroup(weights_, [&](const CudaMatmul& group) {
    sizes.x_stride = std::max(sizes.x_stride, group.dense_x_stride());
    sizes.sums_stride = std::max(sizes.sums_stride, group.dense_sums_stride());
  });
  const uint64_t least = CudaMatmul::kMinDenseRows * sizes.x_stride * sizeof(uint16_t);
  sizes.weight_bytes = std::max(sizes.weight_bytes, least);
  return sizes;
}

uint64_t CudaPrefill::NumBytes(uint64_t rows, uint64_t weight_bytes) const {
  return FloatsOfRows(Parts(), rows) * sizeof(float) +
         ScratchSizes(rows, weight_bytes).num_bytes() + Cublas::kWorkspaceBytes;
}

Status CudaPrefill::Allocate(uint64_t rows, uint64_t weight_bytes) {
  TQ_ASSIGN_OR_RETURN(scratch_,
                      CudaDenseScratch::Create(*device_, ScratchSizes(rows, weight_bytes)));
  keep_rows_ = CanKeepRows();
  const auto parts = Parts();
  TQ_ASSIGN_OR_RETURN(buffer_memory_, device_->Allocate(FloatsOfRows(parts, rows) * sizeof(float),
                                                        "activations of prompts"));
  PlaceRows(parts, rows, static_cast<float*>(buffer_memory_.get()), buffers_);
  rows_ = rows;
  return OkStatus();
}

cuda::NormArgs CudaPrefill::Norm(const float* weight, uint32_t place) const {
  cuda::NormArgs args;
  args.x = buffers_.hidden, args.weight = weight, args.y = buffers_.normed;
  args.n = n_, args.size = config_.hidden_size, args.eps = config_.rms_norm_eps;
  args.first_bad = first_bad_, args.place = place;
  return args;
}

Status CudaPrefill::Finish(const CudaMatmul& from, size_t i, float* y) {
  return Check(cuda::LaunchDenseFinish(from.DenseOutput(scratch_, i), n_, y, device_->stream()),
               "finishing a product");
}

Status CudaPrefill::StartFrom(float* x, const CudaMatmul& to) {
  TQ_RETURN_IF_ERROR(
      Check(cuda::LaunchDensePrepare(x, n_, to.DenseInput(scratch_), device_->stream()),
            "preparing a product"));
  return StartProducts(to);
}

Status CudaPrefill::StartNorm(const CudaMatmul* added, const float* weight, uint32_t place,
                              const CudaMatmul& to) {
  if (keep_rows_) {
    cuda::DenseNormArgs args;
    if (added != nullptr) args.added = added->DenseOutput(scratch_, 0);
    args.norm = Norm(weight, place);
    args.to = to.DenseInput(scratch_);
    TQ_RETURN_IF_ERROR(Check(cuda::LaunchDenseNorm(args, device_->stream()), "a norm"));
    return StartProducts(to);
  }
  cuda::NormArgs args = Norm(weight, place);
  if (added != nullptr) {
    TQ_RETURN_IF_ERROR(Finish(*added, 0, buffers_.narrow));
    args.added = buffers_.narrow;
  }
  TQ_RETURN_IF_ERROR(Check(cuda::LaunchNorm(args, device_->stream()), "a norm"));
  return StartFrom(buffers_.normed, to);
}

Status CudaPrefill::StartAttention(uint32_t index, KvCache& cache) {
  const Buffers& b = buffers_;
  const CudaMatmul& qkv = *weights_.layers[index].qkv;
  const cuda::CacheLayer layer{cache.Keys(index, 0), cache.Values(index, 0), cache.head_stride()};
  cuda::RopeArgs rope;
  rope.queries = b.q, rope.keys = b.k, rope.values = b.v;
  rope.cosines = b.cosines, rope.sines = b.sines, rope.base = base_;
  rope.n = n_, rope.heads = config_.num_heads, rope.kv_heads = config_.num_kv_heads;
  rope.head_dim = config_.head_dim, rope.cache = layer;
  if (keep_rows_) {
    const cuda::DenseRopeArgs args{qkv.DenseOutput(scratch_, 0), qkv.DenseOutput(scratch_, 1),
                                   qkv.DenseOutput(scratch_, 2), rope};
    TQ_RETURN_IF_ERROR(Check(cuda::LaunchDenseRope(args, device_->stream()), "RoPE"));
  } else {
    size_t i = 0;
    for (float* y : {b.q, b.k, b.v}) TQ_RETURN_IF_ERROR(Finish(qkv, i++, y));
    TQ_RETURN_IF_ERROR(Check(cuda::LaunchRope(rope, device_->stream()), "RoPE"));
  }
  cuda::AttentionArgs attention;
  attention.queries = b.q, attention.base = base_, attention.n = n_;
  attention.heads = config_.num_heads, attention.kv_heads = config_.num_kv_heads;
  attention.head_dim = config_.head_dim, attention.cache = layer, attention.out = b.attended;
  return Check(cuda::LaunchManyAttention(attention, device_->stream()), "attention");
}

Status CudaPrefill::StartSilu(const CudaMatmul& gate_up, const CudaMatmul& to) {
  if (keep_rows_) {
    const cuda::DenseSiluArgs args{gate_up.DenseOutput(scratch_, 0),
                                   gate_up.DenseOutput(scratch_, 1), n_, to.DenseInput(scratch_)};
    TQ_RETURN_IF_ERROR(Check(cuda::LaunchDenseSilu(args, device_->stream()), "SiLU"));
    return StartProducts(to);
  }
  TQ_RETURN_IF_ERROR(Finish(gate_up, 0, buffers_.gate));
  TQ_RETURN_IF_ERROR(Finish(gate_up, 1, buffers_.up));
  TQ_RETURN_IF_ERROR(
      Check(cuda::LaunchSiluMultiply(buffers_.gate, buffers_.up, n_ * config_.intermediate_size,
                                     device_->stream()),
            "SiLU"));
  return StartFrom(buffers_.gate, to);
}

// Leaves the output of its last product in the sums: the next layer, or Start, adds it.
Status CudaPrefill::StartLayer(uint32_t index, KvCache& cache) {
  const CudaLayerWeights& layer = weights_.layers[index];
  const CudaMatmul* before = index == 0 ? nullptr : weights_.layers[index - 1].down.get();
  TQ_RETURN_IF_ERROR(StartNorm(before, layer.attention_norm, 2 * index, *layer.qkv));
  TQ_RETURN_IF_ERROR(StartAttention(index, cache));
  TQ_RETURN_IF_ERROR(StartFrom(buffers_.attended, *layer.o));
  TQ_RETURN_IF_ERROR(StartNorm(layer.o.get(), layer.mlp_norm, 2 * index + 1, *layer.gate_up));
  return StartSilu(*layer.gate_up, *layer.down);
}

Status CudaPrefill::Start(KvCache& cache, uint64_t n, const uint32_t* base, uint32_t* first_bad) {
  TQ_CHECK(n >= 1 && n <= rows_);
  n_ = n, base_ = base, first_bad_ = first_bad;
  const cuda::RopeTableArgs table{weights_.frequencies, base,          n, config_.head_dim / 2,
                                  buffers_.cosines,     buffers_.sines};
  TQ_RETURN_IF_ERROR(Check(cuda::LaunchRopeTable(table, device_->stream()), "angles"));
  for (uint32_t i = 0; i < weights_.layers.size(); ++i) TQ_RETURN_IF_ERROR(StartLayer(i, cache));
  TQ_RETURN_IF_ERROR(Finish(*weights_.layers.back().down, 0, buffers_.narrow));
  cuda::NormArgs last = Norm(weights_.norm, 2 * static_cast<uint32_t>(weights_.layers.size()));
  last.added = buffers_.narrow;
  return Check(cuda::LaunchNorm(last, device_->stream()), "a norm");
}

}  // namespace tq
