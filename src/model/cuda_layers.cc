#include "model/cuda_layers.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>
#include <variant>

#include "base/checked.h"
#include "base/format.h"
#include "model/cuda_sampler.h"

namespace tq {
namespace {

// What an allocation on a device is rounded up to.
constexpr uint64_t kGranule = uint64_t{2} << 20;
// Of the free memory, for kernels' code, recorded graphs and what else the driver takes.
constexpr uint64_t kReserve = uint64_t{128} << 20;

// Trellis-coded matrices with one input transform; an error names the group.
StatusOr<std::vector<const PackedMatrix*>> MembersOf(const PackedGroup& group) {
  std::vector<const PackedMatrix*> members;
  for (const StoredMatrix* stored : group.matrices) {
    const auto* matrix = std::get_if<PackedMatrix>(stored);
    if (matrix == nullptr) {
      return Unimplemented("{}: only trellis-coded matrices run on a CUDA device", group.name);
    }
    if (matrix->input == nullptr || (!members.empty() && matrix->input != members[0]->input)) {
      return InvalidArgument("{}: its matrices do not share one input transform", group.name);
    }
    members.push_back(matrix);
  }
  return members;
}

}  // namespace

StatusOr<std::unique_ptr<CudaLayers>> CudaLayers::Load(std::shared_ptr<CudaDevice> device,
                                                       const PackedModel& model,
                                                       const PackedDecoder& decoder,
                                                       const CudaOptions& options) {
  std::unique_ptr<CudaLayers> layers(new CudaLayers(std::move(device), model.config()));
  TQ_ASSIGN_OR_RETURN(const Fitting fitting, layers->Plan(model, decoder, options));
  TQ_RETURN_IF_ERROR(layers->LoadWeights(decoder, fitting));
  if (options.fuse != CudaOptions::Fuse::kNever) {
    layers->fuse_ = layers->CanFuseAll();
    if (!layers->fuse_ && options.fuse == CudaOptions::Fuse::kMust) {
      return Unimplemented("{}: steps cannot be fused on {}", model.path().string(),
                           layers->device_->name());
    }
  }
  if (fitting.head) {
    TQ_ASSIGN_OR_RETURN(layers->prefill_,
                        CudaPrefill::Create(layers->device_, layers->config_, layers->weights_,
                                            fitting.room, options));
  }
  return layers;
}

Status CudaLayers::LoadWeights(const PackedDecoder& decoder, const Fitting& fitting) {
  TQ_RETURN_IF_ERROR(LoadNorms(decoder, fitting));
  for (uint32_t i = 0; i < fitting.layers; ++i) {
    CudaLayerWeights& layer = weights_.layers[i];
    TQ_ASSIGN_OR_RETURN(layer.qkv, LoadGroup(decoder.layers[i].qkv));
    TQ_ASSIGN_OR_RETURN(layer.o, LoadGroup(decoder.layers[i].o));
    TQ_ASSIGN_OR_RETURN(layer.gate_up, LoadGroup(decoder.layers[i].gate_up));
    TQ_ASSIGN_OR_RETURN(layer.down, LoadGroup(decoder.layers[i].down));
  }
  if (fitting.head) {
    TQ_ASSIGN_OR_RETURN(weights_.head, LoadGroup(decoder.head));
  }
  TQ_ASSIGN_OR_RETURN(scratch_, CudaMatmulScratch::Create(*device_, scratch_sizes_));
  return AllocateBuffers();
}

StatusOr<CudaLayers::Fitting> CudaLayers::Plan(const PackedModel& model,
                                               const PackedDecoder& decoder,
                                               const CudaOptions& options) const {
  // Layers, then the head; scratch grows to the largest of them.
  std::vector<uint64_t> needed;
  CudaMatmulScratch::Sizes scratch;
  const auto add = [&](const PackedGroup& group) -> Status {
    TQ_ASSIGN_OR_RETURN(const auto members, MembersOf(group));
    needed.back() += RoundUp(CudaMatmul::NumBytes(members), kGranule);
    scratch.Include(CudaMatmul::ScratchSizes(members));
    return OkStatus();
  };
  uint64_t positions = config_.max_position;
  if (options.positions != 0) positions = std::min(positions, options.positions);
  TQ_ASSIGN_OR_RETURN(const uint64_t cache, KvCache::NumBytes(config_, 1, positions));
  for (const PackedLayer& layer : decoder.layers) {
    needed.push_back(cache);
    for (const PackedGroup* group : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      TQ_RETURN_IF_ERROR(add(*group));
    }
  }
  needed.push_back(RoundUp(CudaSampler::NumBytes(config_.vocab_size), kGranule));
  TQ_RETURN_IF_ERROR(add(decoder.head));
  const uint64_t norms = config_.hidden_size * (2 * uint64_t{config_.num_layers} + 1);
  uint64_t fixed = 0;
  for (const uint64_t floats : {BufferFloats(), norms, AttentionFloats(positions)}) {
    fixed += RoundUp(floats * sizeof(float), kGranule);
  }
  fixed += RoundUp(scratch.num_bytes(), kGranule);
  TQ_ASSIGN_OR_RETURN(const uint64_t all_free, device_->FreeBytes());
  const uint64_t free = all_free - std::min(all_free, kReserve);
  const uint64_t most = options.memory_bytes == 0 ? free : std::min(free, options.memory_bytes);
  uint64_t sum = fixed;
  size_t fit = 0;
  while (fit < needed.size() && sum + needed[fit] <= most) sum += needed[fit++];
  const uint64_t room = most - std::min(sum, most);
  if (fit == needed.size()) return Fitting{config_.num_layers, true, room};
  if (options.memory_bytes == 0) {
    return ResourceExhausted(
        "{}: its weights, activations and a KV cache of {} positions take {} of device memory, {} "
        "has {} to spare; with --gpu-memory SIZE the layers that fit into SIZE run there and the "
        "others on the processor",
        model.path().string(), positions,
        FormatBytes(std::accumulate(needed.begin(), needed.end(), fixed)), device_->name(),
        FormatBytes(free));
  }
  if (fit == 0) {
    return ResourceExhausted(
        "--gpu-memory {}: a layer of {} with {} positions takes {} of device memory; {} has {} to "
        "spare",
        FormatBytes(options.memory_bytes), model.path().string(), positions,
        FormatBytes(fixed + needed[0]), device_->name(), FormatBytes(free));
  }
  return Fitting{static_cast<uint32_t>(fit), false, room};
}

StatusOr<std::unique_ptr<CudaMatmul>> CudaLayers::LoadGroup(const PackedGroup& group) {
  TQ_ASSIGN_OR_RETURN(const auto members, MembersOf(group));
  for (const PackedMatrix* matrix : members) bytes_per_token_ += matrix->num_bytes();
  bytes_per_token_ += members[0]->input->in_scale.num_bytes();
  auto matmul = CudaMatmul::Create(*device_, members);
  if (!matmul.ok()) return matmul.status().WithContext(group.name);
  scratch_sizes_.Include((*matmul)->scratch_sizes());
  return matmul;
}

Status CudaLayers::LoadNorms(const PackedDecoder& decoder, const Fitting& fitting) {
  const uint64_t hidden = config_.hidden_size;
  std::vector<float> host;
  const auto add = [&](const Tensor& norm) {
    host.insert(host.end(), norm.as<float>(), norm.as<float>() + hidden);
  };
  for (uint32_t i = 0; i < fitting.layers; ++i) {
    add(decoder.layers[i].attention.norm);
    add(decoder.layers[i].mlp.norm);
  }
  add(decoder.norm);
  // Without the head the last norm is not used.
  bytes_per_token_ += (host.size() - (fitting.head ? 0 : hidden)) * sizeof(float);
  TQ_ASSIGN_OR_RETURN(weights_.norm_memory,
                      device_->Allocate(host.size() * sizeof(float), "norms"));
  TQ_RETURN_IF_ERROR(
      device_->Upload(host.data(), host.size() * sizeof(float), weights_.norm_memory.get()));
  const auto* norms = static_cast<const float*>(weights_.norm_memory.get());
  weights_.layers.resize(fitting.layers);
  for (CudaLayerWeights& layer : weights_.layers) {
    layer.attention_norm = norms;
    layer.mlp_norm = norms + hidden;
    norms += 2 * hidden;
  }
  weights_.norm = norms;
  const uint64_t half = config_.head_dim / 2;
  const std::vector<double> frequencies =
      RopeFrequencies(config_.head_dim, config_.rope_theta, config_.rope_scaling);
  TQ_ASSIGN_OR_RETURN(weights_.frequency_memory,
                      device_->Allocate(half * sizeof(double), "frequencies"));
  TQ_RETURN_IF_ERROR(
      device_->Upload(frequencies.data(), half * sizeof(double), weights_.frequency_memory.get()));
  weights_.frequencies = static_cast<const double*>(weights_.frequency_memory.get());
  return device_->Synchronize();
}

uint64_t CudaLayers::BufferFloats() const {
  return FloatsOfRows(Parts(), kChunk) + (sizeof(CudaOutcome) + sizeof(uint32_t)) / sizeof(float);
}

BufferParts<CudaLayers::Buffers, 12> CudaLayers::Parts() const {
  const uint64_t hidden = config_.hidden_size, q = config_.q_size(), kv = config_.kv_size();
  const uint64_t wide = config_.intermediate_size, half = config_.head_dim / 2;
  return {{{&Buffers::hidden, hidden},
           {&Buffers::normed, hidden},
           {&Buffers::q, q},
           {&Buffers::k, kv},
           {&Buffers::v, kv},
           {&Buffers::attended, q},
           {&Buffers::gate, wide},
           {&Buffers::up, wide},
           {&Buffers::narrow, hidden},
           {&Buffers::logits, config_.vocab_size},
           {&Buffers::cosines, half},
           {&Buffers::sines, half}}};
}

Status CudaLayers::AllocateBuffers() {
  TQ_ASSIGN_OR_RETURN(buffer_memory_,
                      device_->Allocate(BufferFloats() * sizeof(float), "activations"));
  float* end = PlaceRows(Parts(), kChunk, static_cast<float*>(buffer_memory_.get()), buffers_);
  buffers_.outcome = reinterpret_cast<CudaOutcome*>(end);
  buffers_.base = reinterpret_cast<uint32_t*>(buffers_.outcome + 1);
  return OkStatus();
}

uint64_t CudaLayers::AttentionFloats(uint64_t positions) const {
  const auto blocks = static_cast<uint32_t>(CeilDiv<uint64_t>(positions, cuda::kAttentionBlock));
  return cuda::AttentionScratchFloats(kChunk, config_.num_heads, config_.head_dim, blocks);
}

StatusOr<bool> CudaLayers::ReserveAttention(uint64_t capacity) {
  const uint64_t floats = AttentionFloats(capacity);
  if (floats <= attention_floats_) return false;
  // The old one is freed only when there is a new one: recorded work holds its address.
  TQ_ASSIGN_OR_RETURN(attention_scratch_,
                      device_->Allocate(floats * sizeof(float), "scratch of attention"));
  attention_floats_ = floats;
  return true;
}

cuda::NormArgs CudaLayers::Norm(const float* weight, uint64_t n, uint32_t place) const {
  cuda::NormArgs args;
  args.x = buffers_.hidden, args.weight = weight;
  args.n = n, args.size = config_.hidden_size, args.eps = config_.rms_norm_eps;
  args.first_bad = &buffers_.outcome->first_bad, args.place = place;
  return args;
}

cuda::RopeArgs CudaLayers::Rope(uint32_t index, KvCache& cache, uint64_t n) const {
  cuda::RopeArgs args;
  args.queries = buffers_.q, args.keys = buffers_.k, args.values = buffers_.v;
  args.cosines = buffers_.cosines, args.sines = buffers_.sines, args.base = buffers_.base;
  args.n = n, args.heads = config_.num_heads, args.kv_heads = config_.num_kv_heads;
  args.head_dim = config_.head_dim;
  args.cache = {cache.Keys(index, 0), cache.Values(index, 0), cache.head_stride()};
  return args;
}

cuda::AttentionArgs CudaLayers::Attention(uint32_t index, KvCache& cache, uint64_t n,
                                          uint32_t blocks) const {
  cuda::AttentionArgs args;
  args.queries = buffers_.q, args.base = buffers_.base, args.n = n;
  args.heads = config_.num_heads, args.kv_heads = config_.num_kv_heads;
  args.head_dim = config_.head_dim;
  args.cache = {cache.Keys(index, 0), cache.Values(index, 0), cache.head_stride()};
  args.blocks = blocks, args.scratch = static_cast<float*>(attention_scratch_.get());
  args.out = buffers_.attended;
  return args;
}

Status CudaLayers::StartNorm(const float* added, const float* weight, uint64_t n, uint32_t place) {
  cuda::NormArgs args = Norm(weight, n, place);
  args.added = added, args.y = buffers_.normed;
  return Check(cuda::LaunchNorm(args, device_->stream()), "a norm");
}

Status CudaLayers::StartLayer(uint32_t index, KvCache& cache, uint64_t n, uint32_t blocks) {
  const CudaLayerWeights& layer = weights_.layers[index];
  const Buffers& b = buffers_;
  void* stream = device_->stream();
  const float* before = index == 0 ? nullptr : b.narrow;
  TQ_RETURN_IF_ERROR(StartNorm(before, layer.attention_norm, n, 2 * index));
  TQ_RETURN_IF_ERROR(Run(*layer.qkv, b.normed, n, std::array{b.q, b.k, b.v}));
  TQ_RETURN_IF_ERROR(Check(cuda::LaunchRope(Rope(index, cache, n), stream), "RoPE"));
  TQ_RETURN_IF_ERROR(
      Check(cuda::LaunchAttention(Attention(index, cache, n, blocks), stream), "attention"));
  TQ_RETURN_IF_ERROR(Run(*layer.o, b.attended, n, std::array{b.narrow}));

  TQ_RETURN_IF_ERROR(StartNorm(b.narrow, layer.mlp_norm, n, 2 * index + 1));
  TQ_RETURN_IF_ERROR(Run(*layer.gate_up, b.normed, n, std::array{b.gate, b.up}));
  TQ_RETURN_IF_ERROR(
      Check(cuda::LaunchSiluMultiply(b.gate, b.up, n * config_.intermediate_size, stream), "SiLU"));
  return Run(*layer.down, b.gate, n, std::array{b.narrow});
}

bool CudaLayers::CanFuseAll() const {
  const auto inputs = [&](const CudaMatmul& group) { return cuda::CanFuse(group.Input(scratch_)); };
  const auto outputs = [&](const CudaMatmul& group) {
    for (size_t i = 0; i < group.size(); ++i) {
      if (!cuda::CanFuse(group.Output(scratch_, i).hadamard)) return false;
    }
    return true;
  };
  bool can = cuda::CanFuseRope(config_.head_dim) && cuda::DeviceCanFuse();
  ForEachGroup(weights_,
               [&](const CudaMatmul& group) { can = can && inputs(group) && outputs(group); });
  return can;
}

Status CudaLayers::StartFusedNorm(const CudaMatmul* added, const float* weight, uint32_t place,
                                  uint64_t n, const CudaMatmul& to) {
  cuda::FusedNormArgs args;
  if (added != nullptr) {
    args.sums = added->Sums(scratch_);
    args.added = added->Output(scratch_, 0);
  }
  args.norm = Norm(weight, n, place);
  args.to = to.Input(scratch_);
  TQ_RETURN_IF_ERROR(Check(cuda::LaunchFusedNorm(args, device_->stream()), "a fused norm"));
  return to.StartProducts(*device_, scratch_, n);
}

// Leaves the output of its last product in the sums: the next layer, or FinishLast, adds it.
Status CudaLayers::StartFusedLayer(uint32_t index, KvCache& cache, uint64_t n, uint32_t blocks) {
  const CudaLayerWeights& layer = weights_.layers[index];
  void* stream = device_->stream();
  const CudaMatmul* before = index == 0 ? nullptr : weights_.layers[index - 1].down.get();
  TQ_RETURN_IF_ERROR(StartFusedNorm(before, layer.attention_norm, 2 * index, n, *layer.qkv));

  cuda::FusedRopeArgs rope;
  rope.sums = layer.qkv->Sums(scratch_);
  rope.q = layer.qkv->Output(scratch_, 0), rope.k = layer.qkv->Output(scratch_, 1);
  rope.v = layer.qkv->Output(scratch_, 2), rope.rope = Rope(index, cache, n);
  TQ_RETURN_IF_ERROR(Check(cuda::LaunchFusedRope(rope, stream), "fused RoPE"));
  cuda::FusedAttentionArgs attention;
  attention.attention = Attention(index, cache, n, blocks);
  attention.to = layer.o->Input(scratch_);
  TQ_RETURN_IF_ERROR(Check(cuda::LaunchAttentionBlocks(attention.attention, stream), "attention"));
  TQ_RETURN_IF_ERROR(Check(cuda::LaunchFusedAttention(attention, stream), "fused attention"));
  TQ_RETURN_IF_ERROR(layer.o->StartProducts(*device_, scratch_, n));

  TQ_RETURN_IF_ERROR(
      StartFusedNorm(layer.o.get(), layer.mlp_norm, 2 * index + 1, n, *layer.gate_up));
  cuda::FusedSiluArgs silu;
  silu.sums = layer.gate_up->Sums(scratch_);
  silu.gate = layer.gate_up->Output(scratch_, 0), silu.up = layer.gate_up->Output(scratch_, 1);
  silu.n = n, silu.to = layer.down->Input(scratch_);
  TQ_RETURN_IF_ERROR(Check(cuda::LaunchFusedSilu(silu, stream), "fused SiLU"));
  return layer.down->StartProducts(*device_, scratch_, n);
}

Status CudaLayers::FinishLast(uint64_t n) {
  const CudaMatmul& last = *weights_.layers.back().down;
  cuda::FinishArgs finish;
  finish.sums = last.Sums(scratch_).sums, finish.sum_stride = last.Sums(scratch_).stride;
  finish.n = n, finish.num_matrices = 1;
  finish.matrices[0] = last.Output(scratch_, 0);
  finish.matrices[0].y = buffers_.narrow;
  return Check(cuda::LaunchFinish(finish, device_->stream()), "finishing a product");
}

Status CudaLayers::Start(KvCache& cache, uint64_t n, uint32_t blocks) {
  TQ_RETURN_IF_ERROR(device_->Fill(buffers_.outcome, 0xff, sizeof(CudaOutcome)));
  if (n > kChunk) return prefill_->Start(cache, n, buffers_.base, &buffers_.outcome->first_bad);
  const cuda::RopeTableArgs table{weights_.frequencies, buffers_.base,    n,
                                  config_.head_dim / 2, buffers_.cosines, buffers_.sines};
  TQ_RETURN_IF_ERROR(Check(cuda::LaunchRopeTable(table, device_->stream()), "angles"));
  for (uint32_t i = 0; i < layers(); ++i) {
    TQ_RETURN_IF_ERROR(fuse_ ? StartFusedLayer(i, cache, n, blocks)
                             : StartLayer(i, cache, n, blocks));
  }
  if (fuse_) TQ_RETURN_IF_ERROR(FinishLast(n));
  return StartNorm(buffers_.narrow, weights_.norm, n, 2 * layers());
}

Status CudaLayers::StartHead(uint64_t rows, uint64_t first, uint64_t n) {
  const float* normed = rows > kChunk ? prefill_->normed() : buffers_.normed;
  const float* x = normed + first * config_.hidden_size;
  return Run(*weights_.head, x, n, std::array{buffers_.logits});
}

}  // namespace tq
