// For tests: a llama's forward pass in double, written from the equations alone
// (Touvron et al., "LLaMA", 2023; Su et al., "RoFormer", 2021; Ainslie et al., "GQA",
// 2023), sharing no code with the library but the conversion to half, which models the
// rounding of the KV cache. Quadratic and slow: it recomputes nothing cleverly.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "model/memory_source_for_test.h"
#include "tensor/dtype.h"

namespace tq {

class ReferenceForward {
 public:
  using Vector = std::vector<double>;

  explicit ReferenceForward(const MemorySource& source) : source_(source), c_(source.config()) {}

  // Logits behind every token.
  std::vector<Vector> Run(const std::vector<int32_t>& tokens) const {
    std::vector<Vector> x;
    for (const int32_t token : tokens) x.push_back(Row("model.embed_tokens.weight", token));
    for (uint32_t layer = 0; layer < c_.num_layers; ++layer) {
      const std::string p = "model.layers." + std::to_string(layer) + ".";
      AddAttention(p, x);
      for (Vector& h : x) AddMlp(p, h);
    }
    std::vector<Vector> logits;
    for (const Vector& h : x) {
      logits.push_back(Times(c_.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight",
                             Norm("model.norm.weight", h)));
    }
    return logits;
  }

 private:
  Vector Row(const std::string& name, uint64_t row) const {
    const Tensor& w = source_.Get(name);
    const float* from = w.as<float>() + row * w.shape()[1];
    return Vector(from, from + w.shape()[1]);
  }
  Vector Times(const std::string& name, const Vector& x) const {
    const Tensor& w = source_.Get(name);
    Vector y(w.shape()[0]);
    for (size_t r = 0; r < y.size(); ++r) {
      for (size_t i = 0; i < x.size(); ++i) y[r] += w.as<float>()[r * x.size() + i] * x[i];
    }
    return y;
  }
  Vector Norm(const std::string& name, const Vector& x) const {
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double rms = std::sqrt(squares / static_cast<double>(x.size()) + c_.rms_norm_eps);
    Vector y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] / rms * source_.Get(name).as<float>()[i];
    return y;
  }
  // Pairs (i, i + d/2) as complex numbers, turned by position * theta^(-2i/d).
  void Rotate(Vector& heads, uint64_t position) const {
    const uint32_t d = c_.head_dim;
    for (size_t at = 0; at < heads.size(); at += d) {
      for (uint32_t i = 0; i < d / 2; ++i) {
        const double angle = static_cast<double>(position) / std::pow(c_.rope_theta, 2.0 * i / d);
        const double re = heads[at + i], im = heads[at + i + d / 2];
        heads[at + i] = re * std::cos(angle) - im * std::sin(angle);
        heads[at + i + d / 2] = re * std::sin(angle) + im * std::cos(angle);
      }
    }
  }
  static void RoundToHalf(Vector& x) {
    for (double& v : x) v = HalfToFloat(FloatToHalf(static_cast<float>(v)));
  }

  void AddAttention(const std::string& p, std::vector<Vector>& x) const {
    const uint32_t d = c_.head_dim, group = c_.num_heads / c_.num_kv_heads;
    std::vector<Vector> keys, values;
    for (size_t t = 0; t < x.size(); ++t) {
      const Vector normed = Norm(p + "input_layernorm.weight", x[t]);
      Vector q = Times(p + "self_attn.q_proj.weight", normed);
      keys.push_back(Times(p + "self_attn.k_proj.weight", normed));
      values.push_back(Times(p + "self_attn.v_proj.weight", normed));
      Rotate(q, t);
      Rotate(keys.back(), t);
      RoundToHalf(keys.back());
      RoundToHalf(values.back());
      Vector out(q.size());
      for (uint32_t h = 0; h < c_.num_heads; ++h) {
        const uint32_t kv = h / group;
        Vector weights(t + 1);
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          double dot = 0;
          for (uint32_t i = 0; i < d; ++i) dot += q[h * d + i] * keys[s][kv * d + i];
          sum += weights[s] = std::exp(dot / std::sqrt(static_cast<double>(d)));
        }
        for (size_t s = 0; s <= t; ++s) {
          for (uint32_t i = 0; i < d; ++i) {
            out[h * d + i] += weights[s] / sum * values[s][kv * d + i];
          }
        }
      }
      const Vector o = Times(p + "self_attn.o_proj.weight", out);
      for (size_t i = 0; i < o.size(); ++i) x[t][i] += o[i];
    }
  }
  void AddMlp(const std::string& p, Vector& x) const {
    const Vector normed = Norm(p + "post_attention_layernorm.weight", x);
    Vector gate = Times(p + "mlp.gate_proj.weight", normed);
    const Vector up = Times(p + "mlp.up_proj.weight", normed);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
    const Vector down = Times(p + "mlp.down_proj.weight", gate);
    for (size_t i = 0; i < down.size(); ++i) x[i] += down[i];
  }

  const MemorySource& source_;
  const ModelConfig& c_;
};

}  // namespace tq
