// For tests: a decoder's forward pass in double, written from the equations alone
// (Touvron et al., "LLaMA", 2023; Su et al., "RoFormer", 2021; Ainslie et al., "GQA",
// 2023; Gemma Team, "Gemma 2", 2024; Jiang et al., "Mixtral of Experts", 2024), sharing no code
// with the library but the conversion to half, which models the rounding of the KV cache. Quadratic
// and slow: it recomputes nothing cleverly.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/memory_source_for_test.h"
#include "tensor/dtype.h"

namespace tq {

class ReferenceForward {
 public:
  using Vector = std::vector<double>;

  // `rounds`: of which matrices, by name, the input is rounded by BitNet b1.58's rule (arXiv
  // 2402.17764, section 2): to integers of magnitudes up to 127 with one scale.
  using Names = std::function<bool(std::string_view name)>;

  explicit ReferenceForward(const MemorySource& source, Names rounds = nullptr)
      : source_(source), c_(source.config()), rounds_(std::move(rounds)) {}

  // The smallest distance of a value from one that is rounded the other way, in steps of the
  // integers: where it is large, errors of float do not turn a rounding.
  double smallest_margin() const { return smallest_margin_; }

  // Logits behind every token.
  std::vector<Vector> Run(const std::vector<int32_t>& tokens) const {
    std::vector<Vector> x;
    for (const int32_t token : tokens) {
      x.push_back(Row("model.embed_tokens.weight", token));
      for (double& v : x.back()) v *= c_.scaled_embedding ? std::sqrt(c_.hidden_size) : 1;
    }
    for (uint32_t layer = 0; layer < c_.num_layers; ++layer) {
      const std::string p = "model.layers." + std::to_string(layer) + ".";
      AddAttention(p, layer, x);
      for (Vector& h : x) AddMlp(p, h);
    }
    std::vector<Vector> logits;
    for (const Vector& h : x) {
      logits.push_back(Times(c_.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight",
                             Norm("model.norm.weight", h)));
      for (double& v : logits.back()) v = Capped(v, c_.logit_softcap);
    }
    return logits;
  }

 private:
  Vector Row(const std::string& name, uint64_t row) const {
    const Tensor& w = source_.Get(name);
    const float* from = w.as<float>() + row * w.shape()[1];
    return Vector(from, from + w.shape()[1]);
  }
  Vector RoundTo8Bits(Vector x) const {
    double largest = 1e-5;
    for (const double v : x) largest = std::max(largest, std::fabs(v));
    for (double& v : x) {
      const double steps = v / largest * 127, below = std::floor(steps);
      smallest_margin_ = std::min(smallest_margin_, std::fabs(steps - below - 0.5));
      v = (steps - below > 0.5 ? below + 1 : below) * largest / 127;
    }
    return x;
  }
  Vector Times(const std::string& name, Vector x) const {
    const Tensor& w = source_.Get(name);
    if (rounds_ && rounds_(name)) x = RoundTo8Bits(std::move(x));
    Vector y(w.shape()[0]);
    for (size_t r = 0; r < y.size(); ++r) {
      for (size_t i = 0; i < x.size(); ++i) y[r] += w.as<float>()[r * x.size() + i] * x[i];
    }
    return y;
  }
  static double Capped(double x, double cap) { return cap == 0 ? x : cap * std::tanh(x / cap); }
  Vector Norm(const std::string& name, const Vector& x) const {
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double rms = std::sqrt(squares / static_cast<double>(x.size()) + c_.rms_norm_eps);
    Vector y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const double weight = source_.Get(name).as<float>()[i];
      y[i] = x[i] / rms * (c_.norm_plus_one ? 1 + weight : weight);
    }
    return y;
  }
  void NormHeads(const std::string& name, Vector& x) const {
    for (size_t at = 0; at < x.size(); at += c_.head_dim) {
      const auto head = x.begin() + static_cast<ptrdiff_t>(at);
      const Vector normed = Norm(name, Vector(head, head + c_.head_dim));
      std::copy(normed.begin(), normed.end(), head);
    }
  }
  // A projection to heads, with what comes before rotary embeddings.
  Vector Heads(const std::string& p, const std::string& which, const Vector& normed) const {
    Vector y = Times(p + "self_attn." + which + "_proj.weight", normed);
    if (c_.qkv_bias) {
      const float* bias = source_.Get(p + "self_attn." + which + "_proj.bias").as<float>();
      for (size_t i = 0; i < y.size(); ++i) y[i] += bias[i];
    }
    if (c_.qk_norm && which != "v") NormHeads(p + "self_attn." + which + "_norm.weight", y);
    return y;
  }
  // How fast pair i turns: Llama 3's rule is by wavelength, as its authors' code has it.
  double Frequency(uint32_t i, bool sliding) const {
    const bool local = sliding && c_.rope_local_theta != 0;
    const double theta = local ? c_.rope_local_theta : c_.rope_theta;
    const double frequency = std::pow(theta, -2.0 * i / c_.head_dim);
    const RopeScaling& s = c_.rope_scaling;
    if (local || s.kind == RopeScaling::Kind::kNone) return frequency;
    if (s.kind == RopeScaling::Kind::kLinear) return frequency / s.factor;
    const double wavelength = 2 * M_PI / frequency, original = s.original_max_position;
    if (wavelength < original / s.high_freq_factor) return frequency;
    if (wavelength > original / s.low_freq_factor) return frequency / s.factor;
    const double smooth =
        (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
    return (1 - smooth) * frequency / s.factor + smooth * frequency;
  }
  // Pairs (i, i + d/2) as complex numbers, turned by position * frequency.
  void Rotate(Vector& heads, uint64_t position, bool sliding) const {
    const uint32_t d = c_.head_dim;
    for (size_t at = 0; at < heads.size(); at += d) {
      for (uint32_t i = 0; i < d / 2; ++i) {
        const double angle = static_cast<double>(position) * Frequency(i, sliding);
        const double re = heads[at + i], im = heads[at + i + d / 2];
        heads[at + i] = re * std::cos(angle) - im * std::sin(angle);
        heads[at + i + d / 2] = re * std::sin(angle) + im * std::cos(angle);
      }
    }
  }
  static void RoundToHalf(Vector& x) {
    for (double& v : x) v = HalfToFloat(FloatToHalf(static_cast<float>(v)));
  }

  void AddAttention(const std::string& p, uint32_t layer, std::vector<Vector>& x) const {
    const uint32_t d = c_.head_dim, group = c_.num_heads / c_.num_kv_heads;
    const bool sliding =
        c_.sliding_window != 0 && (c_.full_attention_every == 0 ||
                                   layer % c_.full_attention_every != c_.full_attention_every - 1);
    const double divisor = std::sqrt(c_.query_scalar != 0 ? c_.query_scalar : 1.0 * d);
    std::vector<Vector> keys, values;
    for (size_t t = 0; t < x.size(); ++t) {
      const Vector normed = Norm(p + "input_layernorm.weight", x[t]);
      Vector q = Heads(p, "q", normed);
      keys.push_back(Heads(p, "k", normed));
      values.push_back(Heads(p, "v", normed));
      Rotate(q, t, sliding);
      Rotate(keys.back(), t, sliding);
      RoundToHalf(keys.back());
      RoundToHalf(values.back());
      Vector out(q.size());
      for (uint32_t h = 0; h < c_.num_heads; ++h) {
        const uint32_t kv = h / group;
        Vector weights(t + 1);
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          if (sliding && t - s >= c_.sliding_window) continue;
          double dot = 0;
          for (uint32_t i = 0; i < d; ++i) dot += q[h * d + i] * keys[s][kv * d + i];
          sum += weights[s] = std::exp(Capped(dot / divisor, c_.attention_softcap));
        }
        for (size_t s = 0; s <= t; ++s) {
          for (uint32_t i = 0; i < d; ++i) {
            out[h * d + i] += weights[s] / sum * values[s][kv * d + i];
          }
        }
      }
      if (c_.sub_norms) out = Norm(p + "self_attn.attn_sub_norm.weight", out);
      Vector o = Times(p + "self_attn.o_proj.weight", out);
      if (c_.sandwich_norms) o = Norm(p + "post_attention_layernorm.weight", o);
      for (size_t i = 0; i < o.size(); ++i) x[t][i] += o[i];
    }
  }
  double Activated(double x) const {
    if (c_.activation == Activation::kRelu2) return x > 0 ? x * x : 0;
    if (c_.activation == Activation::kSilu) return x / (1 + std::exp(-x));
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  void AddMlp(const std::string& p, Vector& x) const {
    const Vector normed = Norm(p + (c_.sandwich_norms ? "pre_feedforward_layernorm.weight"
                                                      : "post_attention_layernorm.weight"),
                               x);
    Vector down;
    if (c_.num_experts != 0) {
      down = OfExperts(p, normed);
    } else {
      down = Gated(p, {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}, normed);
    }
    if (c_.sandwich_norms) down = Norm(p + "post_feedforward_layernorm.weight", down);
    for (size_t i = 0; i < down.size(); ++i) x[i] += down[i];
  }
  Vector Gated(const std::string& p, const std::array<std::string, 3>& names,
               const Vector& normed) const {
    Vector gate = Times(p + names[0] + ".weight", normed);
    const Vector up = Times(p + names[1] + ".weight", normed);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = Activated(gate[i]) * up[i];
    if (c_.sub_norms) gate = Norm(p + "mlp.ffn_sub_norm.weight", gate);
    return Times(p + names[2] + ".weight", gate);
  }
  // Mixtral's equation: sum_i Softmax(TopK(x W_g))_i E_i(x), where a softmax over the chosen logits
  // alone is one over all, renormalised.
  Vector OfExperts(const std::string& p, const Vector& normed) const {
    const bool mixtral = c_.architecture == "mixtral";
    const std::string block = p + (mixtral ? "block_sparse_moe" : "mlp");
    const Vector logits = Times(block + ".gate.weight", normed);
    std::vector<size_t> order(logits.size());
    for (size_t e = 0; e < order.size(); ++e) order[e] = e;
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    double all = 0, chosen = 0;
    for (size_t i = 0; i < order.size(); ++i) {
      all += std::exp(logits[order[i]]);
      if (i + 1 == c_.experts_per_token) chosen = all;
    }
    Vector sum(normed.size());
    for (size_t i = 0; i < c_.experts_per_token; ++i) {
      const std::string expert = block.substr(p.size()) + ".experts." + std::to_string(order[i]);
      std::array<std::string, 3> names = {expert + ".gate_proj", expert + ".up_proj",
                                          expert + ".down_proj"};
      if (mixtral) names = {expert + ".w1", expert + ".w3", expert + ".w2"};
      const Vector out = Gated(p, names, normed);
      const double weight = std::exp(logits[order[i]]) / (c_.renormalise_experts ? chosen : all);
      for (size_t j = 0; j < sum.size(); ++j) sum[j] += weight * out[j];
    }
    return sum;
  }

  const MemorySource& source_;
  const ModelConfig& c_;
  const Names rounds_;
  mutable double smallest_margin_ = 0.5;
};

}  // namespace tq
