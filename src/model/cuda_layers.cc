#include "model/cuda_layers.h"

#include <array>
#include <cmath>
#include <utility>
#include <variant>

#include "base/checked.h"
#include "base/format.h"

namespace tq {
namespace {

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
  TQ_RETURN_IF_ERROR(layers->CheckMemory(model, decoder));
  TQ_RETURN_IF_ERROR(layers->LoadWeights(decoder));
  if (options.fuse != CudaOptions::Fuse::kNever) {
    layers->fuse_ = layers->CanFuseAll();
    if (!layers->fuse_ && options.fuse == CudaOptions::Fuse::kMust) {
      return Unimplemented("{}: steps cannot be fused on {}", model.path().string(),
                           layers->device_->name());
    }
  }
  TQ_ASSIGN_OR_RETURN(layers->prefill_, CudaPrefill::Create(layers->device_, layers->config_,
                                                            layers->weights_, options));
  return layers;
}

Status CudaLayers::LoadWeights(const PackedDecoder& decoder) {
  TQ_RETURN_IF_ERROR(LoadNorms(decoder));
  for (size_t i = 0; i < decoder.layers.size(); ++i) {
    CudaLayerWeights& layer = weights_.layers[i];
    TQ_ASSIGN_OR_RETURN(layer.qkv, LoadGroup(decoder.layers[i].qkv));
    TQ_ASSIGN_OR_RETURN(layer.o, LoadGroup(decoder.layers[i].o));
    TQ_ASSIGN_OR_RETURN(layer.gate_up, LoadGroup(decoder.layers[i].gate_up));
    TQ_ASSIGN_OR_RETURN(layer.down, LoadGroup(decoder.layers[i].down));
  }
  TQ_ASSIGN_OR_RETURN(weights_.head, LoadGroup(decoder.head));
  TQ_ASSIGN_OR_RETURN(scratch_, CudaMatmulScratch::Create(*device_, scratch_sizes_));
  return AllocateBuffers();
}

Status CudaLayers::CheckMemory(const PackedModel& model, const PackedDecoder& decoder) const {
  uint64_t needed = 0;
  const auto add = [&](const PackedGroup& group) -> Status {
    TQ_ASSIGN_OR_RETURN(const auto members, MembersOf(group));
    needed += CudaMatmul::NumBytes(members);
    return OkStatus();
  };
  for (const PackedLayer& layer : decoder.layers) {
    for (const PackedGroup* group : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      TQ_RETURN_IF_ERROR(add(*group));
    }
  }
  TQ_RETURN_IF_ERROR(add(decoder.head));
  TQ_ASSIGN_OR_RETURN(const uint64_t free, device_->FreeBytes());
  if (needed <= free) return OkStatus();
  return ResourceExhausted("{}: its weights take {} of device memory, {} has {} free",
                           model.path().string(), FormatBytes(needed), device_->name(),
                           FormatBytes(free));
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

Status CudaLayers::LoadNorms(const PackedDecoder& decoder) {
  const uint64_t hidden = config_.hidden_size;
  std::vector<float> host;
  const auto add = [&](const Tensor& norm) {
    host.insert(host.end(), norm.as<float>(), norm.as<float>() + hidden);
  };
  for (const PackedLayer& layer : decoder.layers) {
    add(layer.attention_norm);
    add(layer.mlp_norm);
  }
  add(decoder.norm);
  bytes_per_token_ += host.size() * sizeof(float);
  TQ_ASSIGN_OR_RETURN(weights_.norm_memory,
                      device_->Allocate(host.size() * sizeof(float), "norms"));
  TQ_RETURN_IF_ERROR(
      device_->Upload(host.data(), host.size() * sizeof(float), weights_.norm_memory.get()));
  const auto* norms = static_cast<const float*>(weights_.norm_memory.get());
  weights_.layers.resize(decoder.layers.size());
  for (CudaLayerWeights& layer : weights_.layers) {
    layer.attention_norm = norms;
    layer.mlp_norm = norms + hidden;
    norms += 2 * hidden;
  }
  weights_.norm = norms;
  const uint64_t half = config_.head_dim / 2;
  std::vector<double> frequencies(half);
  for (uint64_t i = 0; i < half; ++i) {
    frequencies[i] = std::pow(static_cast<double>(config_.rope_theta),
                              -static_cast<double>(i) / static_cast<double>(half));
  }
  TQ_ASSIGN_OR_RETURN(weights_.frequency_memory,
                      device_->Allocate(half * sizeof(double), "frequencies"));
  TQ_RETURN_IF_ERROR(
      device_->Upload(frequencies.data(), half * sizeof(double), weights_.frequency_memory.get()));
  weights_.frequencies = static_cast<const double*>(weights_.frequency_memory.get());
  return device_->Synchronize();
}

Status CudaLayers::AllocateBuffers() {
  const uint64_t hidden = config_.hidden_size, q = config_.q_size(), kv = config_.kv_size();
  const uint64_t wide = config_.intermediate_size, vocab = config_.vocab_size;
  const uint64_t half = config_.head_dim / 2;
  const std::pair<float**, uint64_t> parts[] = {
      {&buffers_.hidden, hidden}, {&buffers_.normed, hidden}, {&buffers_.q, q},
      {&buffers_.k, kv},          {&buffers_.v, kv},          {&buffers_.attended, q},
      {&buffers_.gate, wide},     {&buffers_.up, wide},       {&buffers_.narrow, hidden},
      {&buffers_.logits, vocab},  {&buffers_.cosines, half},  {&buffers_.sines, half}};
  uint64_t floats = 0;
  for (const auto& [pointer, size] : parts) floats += kChunk * size;
  TQ_ASSIGN_OR_RETURN(buffer_memory_, device_->Allocate(floats * sizeof(float) +
                                                            sizeof(CudaOutcome) + sizeof(uint32_t),
                                                        "activations"));
  auto* at = static_cast<float*>(buffer_memory_.get());
  for (const auto& [pointer, size] : parts) {
    *pointer = at;
    at += kChunk * size;
  }
  buffers_.outcome = reinterpret_cast<CudaOutcome*>(at);
  buffers_.base = reinterpret_cast<uint32_t*>(buffers_.outcome + 1);
  return OkStatus();
}

StatusOr<bool> CudaLayers::ReserveAttention(uint64_t capacity) {
  const auto blocks = static_cast<uint32_t>(CeilDiv<uint64_t>(capacity, cuda::kAttentionBlock));
  const uint64_t floats =
      cuda::AttentionScratchFloats(kChunk, config_.num_heads, config_.head_dim, blocks);
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
  args.cache = {cache.Keys(index, 0), cache.Values(index, 0), cache.capacity() * config_.head_dim};
  return args;
}

cuda::AttentionArgs CudaLayers::Attention(uint32_t index, KvCache& cache, uint64_t n,
                                          uint32_t blocks) const {
  cuda::AttentionArgs args;
  args.queries = buffers_.q, args.base = buffers_.base, args.n = n;
  args.heads = config_.num_heads, args.kv_heads = config_.num_kv_heads;
  args.head_dim = config_.head_dim;
  args.cache = {cache.Keys(index, 0), cache.Values(index, 0), cache.capacity() * config_.head_dim};
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
  for (const CudaLayerWeights& layer : weights_.layers) {
    for (const auto* group : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      if (!inputs(**group) || !outputs(**group)) return false;
    }
  }
  return cuda::CanFuseRope(config_.head_dim) && cuda::DeviceCanFuse();
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
  for (uint32_t i = 0; i < config_.num_layers; ++i) {
    TQ_RETURN_IF_ERROR(fuse_ ? StartFusedLayer(i, cache, n, blocks)
                             : StartLayer(i, cache, n, blocks));
  }
  if (fuse_) TQ_RETURN_IF_ERROR(FinishLast(n));
  return StartNorm(buffers_.narrow, weights_.norm, n, 2 * config_.num_layers);
}

Status CudaLayers::StartHead(uint64_t rows, uint64_t first, uint64_t n) {
  const float* normed = rows > kChunk ? prefill_->normed() : buffers_.normed;
  const float* x = normed + first * config_.hidden_size;
  return Run(*weights_.head, x, n, std::array{buffers_.logits});
}

}  // namespace tq
