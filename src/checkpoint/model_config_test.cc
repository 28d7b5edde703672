#include "checkpoint/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "../../tests/support/tiny_model.h"
#include "checkpoint/gguf.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

using nlohmann::json;
using namespace tq::testing;  // NOLINT: the test support
constexpr auto kInvalid = StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = StatusCode::kUnimplemented;
constexpr auto kNotFound = StatusCode::kNotFound;

json Sound() { return json::parse(ModelConfigToJson(MakeTinyModel().config)); }

StatusOr<ModelConfig> With(const std::string& field, const json& value) {
  json config = Sound();
  config[field] = value;
  return ModelConfigFromJson(config.dump(), "dir/config.json");
}

TEST(ModelConfig, JsonKeepsEveryField) {
  ModelConfig config = MakeTinyModel({.hidden = 96, .tied = false}).config;
  config.rms_norm_eps = 1e-6f;
  config.rope_theta = 130000.5f;
  config.head_dim = 32;  // not hidden / heads
  config.bos_id = -1;
  const auto read = ModelConfigFromJson(ModelConfigToJson(config));
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(ModelConfigToJson(*read), ModelConfigToJson(config));
  EXPECT_EQ(read->rms_norm_eps, config.rms_norm_eps);
  EXPECT_EQ(read->rope_theta, config.rope_theta);
  EXPECT_EQ(read->head_dim, 32u);
  EXPECT_EQ(read->bos_id, -1);
  EXPECT_FALSE(read->tie_embeddings);
}

TEST(ModelConfig, DefaultsAreTransformers) {
  json config = Sound();
  for (const char* field : {"head_dim", "num_key_value_heads", "rope_theta", "rms_norm_eps",
                            "tie_word_embeddings", "max_position_embeddings", "architectures"}) {
    config.erase(field);
  }
  config["eos_token_id"] = {1, 7};
  const auto read = ModelConfigFromJson(config.dump());
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->head_dim, 16u);
  EXPECT_EQ(read->num_kv_heads, 4u);
  EXPECT_EQ(read->rope_theta, 10000.0f);
  EXPECT_EQ(read->rms_norm_eps, 1e-6f);
  EXPECT_FALSE(read->tie_embeddings);
  EXPECT_EQ(read->max_position, 2048u);
  EXPECT_EQ(read->eos_id, 1);
}

TEST(ModelConfig, RopeParametersOfNewerReleases) {
  EXPECT_TRUE(With("rope_scaling", {{"rope_type", "default"}}).ok());
  EXPECT_TRUE(With("rope_scaling", nullptr).ok());
  const auto read = With("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5000.0}});
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->rope_theta, 5000.0f);
  EXPECT_THAT(With("rope_scaling", {{"rope_type", "yarn"}, {"factor", 8.0}}),
              Fails(kUnimplemented, "rope_scaling", "yarn"));
  EXPECT_THAT(With("rope_parameters", {{"factor", 2.0}}), Fails(kUnimplemented, "factor"));
  EXPECT_THAT(With("rope_scaling", "linear"), Fails(kInvalid, "rope_scaling"));
}

TEST(ModelConfig, ScaledRotaryEmbeddings) {
  const auto linear = With("rope_scaling", {{"type", "linear"}, {"factor", 2.5}});
  ASSERT_TRUE(linear.ok()) << linear.status().message();
  EXPECT_EQ(linear->rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(linear->rope_scaling.factor, 2.5f);
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 32.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  const auto scaled = With("rope_scaling", llama3);
  ASSERT_TRUE(scaled.ok()) << scaled.status().message();
  EXPECT_EQ(scaled->rope_scaling.kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(ModelConfigToJson(*ModelConfigFromJson(ModelConfigToJson(*scaled))),
            ModelConfigToJson(*scaled));
  for (const char* field : {"factor", "low_freq_factor", "original_max_position_embeddings"}) {
    json broken = llama3;
    broken.erase(field);
    EXPECT_THAT(With("rope_scaling", broken), Fails(kNotFound, "rope_scaling", field));
    broken[field] = 0;
    EXPECT_THAT(With("rope_scaling", broken), Fails(kInvalid, field));
  }
  EXPECT_THAT(With("rope_scaling", {{"type", "linear"}, {"factor", 2.0}, {"attention_factor", 1}}),
              Fails(kUnimplemented, "attention_factor"));
  EXPECT_THAT(With("rope_scaling", {{"type", "linear"}, {"factor", -2.0}}),
              Fails(kInvalid, "factor is -2"));
}

// Frequencies of Llama 3.1's rule: short wavelengths stay, long ones are stretched.
TEST(ModelConfig, RopeFrequencies) {
  const RopeScaling llama3 = {RopeScaling::Kind::kLlama3, 8, 1, 4, 8192};
  const auto plain = RopeFrequencies(128, 500000.0f, {});
  const auto scaled = RopeFrequencies(128, 500000.0f, llama3);
  ASSERT_EQ(plain.size(), 64u);
  EXPECT_EQ(plain[0], 1.0);
  EXPECT_NEAR(plain[32], std::pow(500000.0, -0.5), 1e-15);
  EXPECT_EQ(scaled[0], plain[0]);
  EXPECT_EQ(scaled[63], plain[63] / 8);
  // 2 pi / plain[30] is 2950 positions: 2.777 turns in 8192, 0.5922 of the way from 1 to 4.
  const double kept = (8192 * plain[30] / (2 * 3.14159265358979323846) - 1) / 3;
  EXPECT_GT(kept, 0.5);
  EXPECT_LT(kept, 0.7);
  EXPECT_NEAR(scaled[30], plain[30] * (kept + (1 - kept) / 8), 1e-12 * plain[30]);
  EXPECT_EQ(RopeFrequencies(128, 500000.0f, {RopeScaling::Kind::kLinear, 4})[5], plain[5] / 4);
}

// What Hugging Face's files of these models say, but for sizes.
json ConfigOf(const char* model_type, const char* model_class) {
  return {{"model_type", model_type}, {"architectures", {model_class}},
          {"vocab_size", 300},        {"hidden_size", 64},
          {"intermediate_size", 128}, {"num_hidden_layers", 6},
          {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"rms_norm_eps", 1e-06},    {"max_position_embeddings", 512}};
}

TEST(ModelConfig, Qwen) {
  json config = ConfigOf("qwen2", "Qwen2ForCausalLM");
  config.update({{"hidden_act", "silu"},
                 {"use_sliding_window", false},
                 {"sliding_window", 131072},
                 {"max_window_layers", 28},
                 {"tie_word_embeddings", true},
                 {"rope_theta", 1e6}});
  const auto qwen2 = ModelConfigFromJson(config.dump());
  ASSERT_TRUE(qwen2.ok()) << qwen2.status().message();
  EXPECT_TRUE(qwen2->qkv_bias);
  EXPECT_EQ(qwen2->head_dim, 16u);
  EXPECT_EQ(qwen2->sliding_window, 0u);
  config["use_sliding_window"] = true;
  EXPECT_THAT(ModelConfigFromJson(config.dump()), Fails(kUnimplemented, "use_sliding_window"));
  config = ConfigOf("qwen3", "Qwen3ForCausalLM");
  config.update(
      {{"attention_bias", false}, {"layer_types", std::vector<std::string>(6, "full_attention")}});
  const auto qwen3 = ModelConfigFromJson(config.dump());
  ASSERT_TRUE(qwen3.ok()) << qwen3.status().message();
  EXPECT_TRUE(qwen3->qk_norm);
  EXPECT_FALSE(qwen3->qkv_bias);
  EXPECT_EQ(qwen3->head_dim, 128u);  // not hidden / heads
  config["attention_bias"] = true;
  EXPECT_THAT(ModelConfigFromJson(config.dump()), Fails(kUnimplemented, "attention_bias"));
}

TEST(ModelConfig, Mistral) {
  json config = ConfigOf("mistral", "MistralForCausalLM");
  EXPECT_EQ(ModelConfigFromJson(config.dump())->sliding_window, 4096u);
  config["sliding_window"] = nullptr;
  config["head_dim"] = nullptr;
  const auto full = ModelConfigFromJson(config.dump());
  ASSERT_TRUE(full.ok()) << full.status().message();
  EXPECT_EQ(full->sliding_window, 0u);
  EXPECT_EQ(full->head_dim, 16u);
  config["sliding_window"] = 100;
  const auto sliding = ModelConfigFromJson(config.dump());
  ASSERT_TRUE(sliding.ok());
  EXPECT_TRUE(sliding->IsSliding(0) && sliding->IsSliding(5));
  EXPECT_EQ(ModelConfigFromJson(ModelConfigToJson(*sliding))->sliding_window, 100u);
  EXPECT_EQ(ModelConfigFromJson(ModelConfigToJson(*full))->sliding_window, 0u);
}

// The published config.json of Mixtral 8x7B, but for sizes.
TEST(ModelConfig, Mixtral) {
  json config = ConfigOf("mixtral", "MixtralForCausalLM");
  const auto absent = ModelConfigFromJson(config.dump());
  ASSERT_TRUE(absent.ok()) << absent.status().message();
  EXPECT_EQ(absent->num_experts, 8u);
  EXPECT_EQ(absent->experts_per_token, 2u);
  config.update({{"num_local_experts", 6},
                 {"num_experts_per_tok", 3},
                 {"sliding_window", nullptr},
                 {"hidden_act", "silu"},
                 {"output_router_logits", false},
                 {"router_aux_loss_coef", 0.02},
                 {"rope_theta", 1e6},
                 {"tie_word_embeddings", false}});
  const auto mixtral = ModelConfigFromJson(config.dump());
  ASSERT_TRUE(mixtral.ok()) << mixtral.status().message();
  EXPECT_EQ(mixtral->num_experts, 6u);
  EXPECT_EQ(mixtral->experts_per_token, 3u);
  EXPECT_EQ(mixtral->mlp_size(), 128u);
  EXPECT_EQ(mixtral->sliding_window, 0u);
  EXPECT_TRUE(mixtral->renormalise_experts);
  EXPECT_EQ(ModelConfigToJson(*ModelConfigFromJson(ModelConfigToJson(*mixtral))),
            ModelConfigToJson(*mixtral));
}

TEST(ModelConfig, Qwen3Moe) {
  json config = ConfigOf("qwen3_moe", "Qwen3MoeForCausalLM");
  config.update({{"num_experts", 16},
                 {"num_experts_per_tok", 4},
                 {"moe_intermediate_size", 96},
                 {"norm_topk_prob", true},
                 {"decoder_sparse_step", 1},
                 {"mlp_only_layers", json::array()},
                 {"head_dim", 32},
                 {"attention_bias", false},
                 {"output_router_logits", false},
                 {"router_aux_loss_coef", 0.001},
                 {"max_window_layers", 6},
                 {"use_sliding_window", false},
                 {"sliding_window", nullptr}});
  const auto qwen = ModelConfigFromJson(config.dump());
  ASSERT_TRUE(qwen.ok()) << qwen.status().message();
  EXPECT_EQ(qwen->num_experts, 16u);
  EXPECT_EQ(qwen->experts_per_token, 4u);
  EXPECT_EQ(qwen->mlp_size(), 96u);
  EXPECT_TRUE(qwen->renormalise_experts && qwen->qk_norm);
  EXPECT_EQ(ModelConfigToJson(*ModelConfigFromJson(ModelConfigToJson(*qwen))),
            ModelConfigToJson(*qwen));
  // The class' defaults.
  for (const char* field : {"num_experts", "num_experts_per_tok", "moe_intermediate_size",
                            "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"}) {
    config.erase(field);
  }
  const auto absent = ModelConfigFromJson(config.dump());
  ASSERT_TRUE(absent.ok()) << absent.status().message();
  EXPECT_EQ(absent->num_experts, 128u);
  EXPECT_EQ(absent->experts_per_token, 8u);
  EXPECT_EQ(absent->mlp_size(), 768u);
  EXPECT_FALSE(absent->renormalise_experts);
  // Layers without experts among those with them.
  config["decoder_sparse_step"] = 2;
  EXPECT_THAT(ModelConfigFromJson(config.dump()), Fails(kUnimplemented, "decoder_sparse_step"));
  config["decoder_sparse_step"] = 1;
  config["mlp_only_layers"] = {0};
  EXPECT_THAT(ModelConfigFromJson(config.dump()), Fails(kUnimplemented, "mlp_only_layers"));
}

// Robustness case 34.
TEST(ModelConfig, BrokenExperts) {
  const auto with = [](const char* field, const json& value) {
    json config = ConfigOf("mixtral", "MixtralForCausalLM");
    config[field] = value;
    return ModelConfigFromJson(config.dump(), "dir/config.json");
  };
  EXPECT_THAT(with("num_local_experts", 0), Fails(kInvalid, "dir/config.json", "experts is 0"));
  EXPECT_THAT(with("num_local_experts", nullptr), Fails(kInvalid, "experts is 0"));
  EXPECT_THAT(with("num_local_experts", 1025), Fails(kInvalid, "experts is 1025", "1024"));
  EXPECT_THAT(with("num_local_experts", 4'000'000'000u), Fails(kInvalid, "experts is 4000000000"));
  EXPECT_THAT(with("num_local_experts", -1), Fails(kInvalid, "num_local_experts"));
  EXPECT_THAT(with("num_experts_per_tok", 9), Fails(kInvalid, "experts per token is 9", "1 to 8"));
  EXPECT_THAT(with("num_experts_per_tok", 0), Fails(kInvalid, "experts per token is 0"));
  // Newer releases of transformers have two names for one field.
  EXPECT_EQ(with("num_experts", 5)->num_experts, 5u);
  json config = ConfigOf("mixtral", "MixtralForCausalLM");
  config.update({{"num_hidden_layers", 4096}, {"num_local_experts", 1024}});
  EXPECT_THAT(ModelConfigFromJson(config.dump()),
              Fails(kInvalid, "1024 experts in 4096 layers are 4194304", "65536"));
  config = ConfigOf("mixtral", "MixtralForCausalLM");
  config.update({{"num_experts", 8}, {"num_local_experts", 8}});
  EXPECT_TRUE(ModelConfigFromJson(config.dump()).ok());
  config["num_experts"] = 6;
  EXPECT_THAT(ModelConfigFromJson(config.dump()), Fails(kInvalid, "num_local_experts", "differ"));
  config = ConfigOf("llama", "LlamaForCausalLM");
  config["num_experts"] = 8;
  EXPECT_THAT(ModelConfigFromJson(config.dump()), Fails(kUnimplemented, "num_experts"));
  config = ConfigOf("qwen3_moe", "Qwen3MoeForCausalLM");
  config["moe_intermediate_size"] = 2'000'000;
  EXPECT_THAT(ModelConfigFromJson(config.dump()), Fails(kInvalid, "experts is 2000000"));
  config["moe_intermediate_size"] = 768;
  config["norm_topk_prob"] = 1;
  EXPECT_THAT(ModelConfigFromJson(config.dump()), Fails(kInvalid, "norm_topk_prob"));
  ModelConfig dense = MakeTinyModel().config;
  dense.num_experts = 4;
  EXPECT_THAT(CheckModelConfig(dense, "x"), Fails(kInvalid, "4 experts", "llama"));
}

TEST(ModelConfig, NamesSayWhatAMatrixIs) {
  EXPECT_EQ(MatrixRole("model.layers.0.self_attn.q_proj"), "q");
  EXPECT_EQ(MatrixRole("model.layers.0.mlp.down_proj.weight"), "down");
  EXPECT_EQ(MatrixRole("model.layers.0.block_sparse_moe.experts.1.w1"), "gate");
  EXPECT_EQ(MatrixRole("model.layers.0.block_sparse_moe.experts.1.w2.weight"), "down");
  EXPECT_EQ(MatrixRole("model.layers.0.block_sparse_moe.experts.1.w3"), "up");
  EXPECT_EQ(MatrixRole("lm_head"), "lm_head");
  EXPECT_EQ(ExpertOf("model.layers.7.mlp.experts.12.gate_up"), 12u);
  EXPECT_EQ(ExpertOf("model.layers.7.mlp.gate.weight"), std::nullopt);
  EXPECT_EQ(ExpertOf("model.layers.7.mlp.experts.x.w1"), std::nullopt);
}

TEST(ModelConfig, Gemma) {
  json config = ConfigOf("gemma2", "Gemma2ForCausalLM");
  config.update({{"hidden_act", "gelu_pytorch_tanh"},
                 {"hidden_activation", "gelu_pytorch_tanh"},
                 {"head_dim", 16},
                 {"query_pre_attn_scalar", 224},
                 {"attn_logit_softcapping", 50.0},
                 {"final_logit_softcapping", nullptr},
                 {"sliding_window", 128}});
  const auto gemma2 = ModelConfigFromJson(config.dump());
  ASSERT_TRUE(gemma2.ok()) << gemma2.status().message();
  EXPECT_TRUE(gemma2->tie_embeddings);  // which its files do not say
  EXPECT_EQ(gemma2->query_scalar, 224.0f);
  EXPECT_EQ(gemma2->attention_softcap, 50.0f);
  EXPECT_EQ(gemma2->logit_softcap, 0.0f);
  EXPECT_TRUE(gemma2->IsSliding(0));
  EXPECT_FALSE(gemma2->IsSliding(1));
  config["hidden_activation"] = "gelu";
  EXPECT_THAT(ModelConfigFromJson(config.dump()), Fails(kUnimplemented, "hidden_activation"));

  config = ConfigOf("gemma3_text", "Gemma3ForCausalLM");
  config.update({{"rope_theta", 1e6}, {"rope_local_base_freq", 10000}, {"sliding_window", 128}});
  const auto gemma3 = ModelConfigFromJson(config.dump());
  ASSERT_TRUE(gemma3.ok()) << gemma3.status().message();
  EXPECT_EQ(gemma3->head_dim, 256u);
  for (uint32_t layer = 0; layer < 6; ++layer) EXPECT_EQ(gemma3->IsSliding(layer), layer != 5);
  EXPECT_EQ(ModelConfigToJson(*ModelConfigFromJson(ModelConfigToJson(*gemma3))),
            ModelConfigToJson(*gemma3));

  // The newer form: each kind of layer has its rotary embeddings.
  config.erase("rope_theta");
  config.erase("rope_local_base_freq");
  config["layer_types"] = {"sliding_attention", "sliding_attention", "full_attention",
                           "sliding_attention", "sliding_attention", "full_attention"};
  config["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 2e6}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 5000.0}}}};
  const auto newer = ModelConfigFromJson(config.dump());
  ASSERT_TRUE(newer.ok()) << newer.status().message();
  EXPECT_EQ(newer->rope_theta, 2e6f);
  EXPECT_EQ(newer->rope_local_theta, 5000.0f);
  EXPECT_EQ(newer->rope_scaling.factor, 8.0f);
  EXPECT_EQ(newer->full_attention_every, 3u);
  config["layer_types"][1] = "full_attention";
  EXPECT_THAT(ModelConfigFromJson(config.dump()), Fails(kUnimplemented, "layer_types", "layer 2"));
  config["layer_types"] = {"full_attention"};
  EXPECT_THAT(ModelConfigFromJson(config.dump()), Fails(kInvalid, "layer_types"));
}

TEST(ModelConfig, RefusesWhatItDoesNotHonour) {
  const std::pair<const char*, json> cases[] = {{"attention_bias", true},
                                                {"mlp_bias", true},
                                                {"hidden_act", "gelu"},
                                                {"sliding_window", 4096},
                                                {"partial_rotary_factor", 0.5},
                                                {"rope_interleaved", true},
                                                {"final_logit_softcapping", 30.},
                                                {"num_local_experts", 8},
                                                {"auto_map", {{"AutoModel", "x"}}},
                                                {"quantization_config", {{"quant_method", "gptq"}}},
                                                {"residual_multiplier", 0.2},
                                                {"use_qk_norm", true}};
  for (const auto& [field, value] : cases) {
    EXPECT_THAT(With(field, value), Fails(kUnimplemented, "dir/config.json", field)) << field;
  }
  // Their neutral values, and fields without effect on the result.
  EXPECT_TRUE(With("sliding_window", nullptr).ok());
  EXPECT_TRUE(With("attention_bias", false).ok());
  EXPECT_TRUE(With("pretraining_tp", 1).ok());
  EXPECT_TRUE(With("torch_dtype", "bfloat16").ok());
}

// Robustness case 34.
TEST(ModelConfig, BrokenConfigs) {
  for (const char* field : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                            "num_attention_heads"}) {
    json config = Sound();
    config.erase(field);
    EXPECT_THAT(ModelConfigFromJson(config.dump()), Fails(kNotFound, field));
    EXPECT_THAT(With(field, nullptr), Fails(kNotFound, field));
    EXPECT_THAT(With(field, "64"), Fails(kInvalid, field));
    EXPECT_THAT(With(field, -1), Fails(kInvalid, field));
    EXPECT_THAT(With(field, 64.5), Fails(kInvalid, field));
    EXPECT_THAT(With(field, json::array({64})), Fails(kInvalid, field));
    EXPECT_FALSE(With(field, 0).ok()) << field;
    EXPECT_THAT(With(field, 1'000'000'000'000'000'000), Fails(kInvalid, field));
    EXPECT_FALSE(With(field, 4'000'000'000u).ok()) << field;
  }
  EXPECT_THAT(With("num_hidden_layers", 5000), Fails(kInvalid, "layers is 5000", "4096"));
  EXPECT_THAT(With("num_key_value_heads", 3), Fails(kInvalid, "4 heads", "3 key-value"));
  EXPECT_THAT(With("num_key_value_heads", 0), Fails(kInvalid, "key-value heads is 0"));
  EXPECT_THAT(With("head_dim", 15), Fails(kInvalid, "head_dim 15 is odd"));
  EXPECT_THAT(With("head_dim", 4096), Fails(kInvalid, "head_dim is 4096"));
  EXPECT_THAT(With("rope_theta", 0), Fails(kInvalid, "rope_theta is 0"));
  EXPECT_THAT(With("rope_theta", -10), Fails(kInvalid, "rope_theta is -10"));
  EXPECT_THAT(With("rope_theta", 1e300), Fails(kInvalid, "rope_theta"));
  EXPECT_THAT(With("rope_theta", "NaN"), Fails(kInvalid, "rope_theta"));
  EXPECT_THAT(ModelConfigFromJson(R"({"rope_theta": NaN})"), Fails(kInvalid, "not JSON"));
  EXPECT_THAT(ModelConfigFromJson(R"({"rope_theta": 1e400})"), Fails(kInvalid, "1e400"));
  EXPECT_THAT(With("rms_norm_eps", -1), Fails(kInvalid, "rms_norm_eps"));
  EXPECT_THAT(With("rms_norm_eps", 1e300), Fails(kInvalid, "rms_norm_eps"));
  EXPECT_THAT(With("tie_word_embeddings", 1), Fails(kInvalid, "tie_word_embeddings"));
  EXPECT_THAT(With("bos_token_id", 300), Fails(kInvalid, "bos", "300"));
  EXPECT_THAT(With("eos_token_id", 1'000'000'000'000), Fails(kInvalid, "eos_token_id"));
  EXPECT_THAT(With("eos_token_id", -2), Fails(kInvalid, "eos_token_id"));
  EXPECT_THAT(With("eos_token_id", json::array({300})), Fails(kInvalid, "300"));
  EXPECT_THAT(With("eos_token_id", "</s>"), Fails(kInvalid, "eos_token_id"));
  EXPECT_THAT(With("model_type", "gpt2"), Fails(kUnimplemented, "model_type", "gpt2"));
  EXPECT_THAT(With("model_type", nullptr), Fails(kNotFound, "model_type"));
  EXPECT_THAT(With("architectures", {"MistralForCausalLM"}), Fails(kUnimplemented, "Mistral"));
  EXPECT_THAT(With("model_type", "gemma2"), Fails(kUnimplemented, "LlamaForCausalLM"));
  EXPECT_THAT(With("architectures", {1}), Fails(kUnimplemented, "architecture"));
  EXPECT_THAT(With("architectures", 1), Fails(kInvalid, "architectures"));
  EXPECT_THAT(ModelConfigFromJson("null"), Fails(kInvalid, "config.json", "null"));
  EXPECT_THAT(ModelConfigFromJson("[]"), Fails(kInvalid, "array"));
  EXPECT_THAT(ModelConfigFromJson(""), Fails(kInvalid));
  EXPECT_THAT(ModelConfigFromJson("{}"), Fails(kNotFound, "model_type"));
  EXPECT_THAT(ModelConfigFromJson(std::string(1'000'000, '{')), Fails(kInvalid));
}

class GgufConfig : public ::testing::Test {
 protected:
  // The tiny model's metadata with one key replaced, dropped or added.
  StatusOr<ModelConfig> With(std::string_view key, const std::function<void(GgufBuilder&)>& put) {
    std::vector<std::pair<std::string, uint32_t>> numbers = {
        {"llama.context_length", 512},      {"llama.embedding_length", 64},
        {"llama.feed_forward_length", 128}, {"llama.block_count", 2},
        {"llama.attention.head_count", 4},  {"llama.attention.head_count_kv", 2}};
    GgufBuilder builder;
    if (key != "general.architecture") builder.String("general.architecture", "llama");
    for (const auto& [name, value] : numbers) {
      if (name != key) builder.Uint(name, value);
    }
    if (key != "llama.attention.layer_norm_rms_epsilon") {
      builder.Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    }
    put(builder);
    builder.Tensor("token_embd.weight", kPackF32, {64, 300}, std::string(64 * 300 * 4, '\0'));
    WriteText(folder_ / "x.gguf", builder.Build());
    auto file = GgufFile::Open(folder_ / "x.gguf");
    if (!file.ok()) return file.status();
    return ModelConfigFromGguf(**file);
  }
  StatusOr<ModelConfig> WithUint(std::string_view key, uint32_t value) {
    return With(key, [&](GgufBuilder& builder) { builder.Uint(key, value); });
  }
  TempFolder folder_;
};

TEST_F(GgufConfig, Defaults) {
  const auto config = With("", [](GgufBuilder&) {});
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->vocab_size, 300u);
  EXPECT_EQ(config->rope_theta, 10000.0f);
  EXPECT_TRUE(config->tie_embeddings);
  EXPECT_EQ(config->bos_id, -1);
}

// Robustness case 24.
TEST_F(GgufConfig, Sizes) {
  EXPECT_THAT(WithUint("llama.block_count", 0), Fails(kInvalid, "layers is 0"));
  EXPECT_THAT(WithUint("llama.block_count", 1u << 31), Fails(kInvalid, "2147483648"));
  EXPECT_THAT(WithUint("llama.attention.head_count", 0), Fails(kInvalid, "head_count is 0"));
  EXPECT_THAT(WithUint("llama.attention.head_count", 5), Fails(kInvalid, "64", "head_count 5"));
  EXPECT_THAT(WithUint("llama.attention.head_count_kv", 0), Fails(kInvalid, "heads is 0"));
  EXPECT_THAT(WithUint("llama.attention.head_count_kv", 3), Fails(kInvalid, "3"));
  EXPECT_THAT(WithUint("llama.embedding_length", 0), Fails(kInvalid, "hidden_size is 0"));
  EXPECT_THAT(WithUint("llama.vocab_size", 299), Fails(kInvalid, "299", "300 rows"));
  EXPECT_THAT(With("llama.block_count", [](GgufBuilder&) {}), Fails(kNotFound, "block_count"));
  EXPECT_THAT(With("llama.block_count", [](GgufBuilder& b) { b.String("llama.block_count", "2"); }),
              Fails(kInvalid, "block_count"));
  EXPECT_THAT(With("llama.attention.head_count_kv",
                   [](GgufBuilder& b) {
                     b.Ints("llama.attention.head_count_kv", {2, 2});
                   }),
              Fails(kInvalid, "head_count_kv"));
  EXPECT_THAT(With("llama.attention.layer_norm_rms_epsilon",
                   [](GgufBuilder& b) { b.Float("llama.attention.layer_norm_rms_epsilon", NAN); }),
              Fails(kInvalid, "rms_norm_eps"));
  for (const float theta : {0.0f, -1.0f, NAN, INFINITY}) {
    EXPECT_THAT(With("", [&](GgufBuilder& b) { b.Float("llama.rope.freq_base", theta); }),
                Fails(kInvalid, "rope_theta"));
  }
}

// Robustness case 25.
TEST_F(GgufConfig, SpecialTokens) {
  EXPECT_THAT(WithUint("tokenizer.ggml.bos_token_id", 300), Fails(kInvalid, "bos", "300"));
  EXPECT_THAT(WithUint("tokenizer.ggml.eos_token_id", 0xfffffffe), Fails(kInvalid, "eos_token_id"));
  EXPECT_TRUE(WithUint("tokenizer.ggml.eos_token_id", 0xffffffff).ok());
  EXPECT_THAT(With("",
                   [](GgufBuilder& b) {
                     b.Strings("tokenizer.ggml.tokens", std::vector<std::string>(301, "x"));
                   }),
              Fails(kInvalid, "301 tokens", "300 rows"));
}

TEST_F(GgufConfig, RefusesWhatItDoesNotHonour) {
  EXPECT_THAT(WithUint("llama.attention.sliding_window", 128),
              Fails(kUnimplemented, "llama.attention.sliding_window"));
  EXPECT_TRUE(WithUint("llama.expert_count", 0).ok());
  EXPECT_THAT(WithUint("llama.rope.dimension_count", 8), Fails(kUnimplemented, "dimension_count"));
  EXPECT_THAT(With("", [](GgufBuilder& b) { b.Float("llama.rope.scaling.factor", 8); }),
              Fails(kUnimplemented, "llama.rope.scaling.factor"));
  EXPECT_THAT(With("", [](GgufBuilder& b) { b.String("llama.rope.scaling.type", "yarn"); }),
              Fails(kUnimplemented, "llama.rope.scaling.type", "yarn"));
  EXPECT_TRUE(With("", [](GgufBuilder& b) { b.String("llama.rope.scaling.type", "none"); }).ok());
  EXPECT_THAT(With("general.architecture",
                   [](GgufBuilder& b) { b.String("general.architecture", "mamba"); }),
              Fails(kUnimplemented, "mamba", "'llama'"));
}

// A llama that has experts is a Mixtral; other architectures have them by another name.
TEST_F(GgufConfig, Experts) {
  const auto with = [&](uint32_t experts, uint32_t used) {
    return With("", [&](GgufBuilder& b) {
      b.Uint("llama.expert_count", experts).Uint("llama.expert_used_count", used);
    });
  };
  const auto mixtral = with(4, 2);
  ASSERT_TRUE(mixtral.ok()) << mixtral.status().message();
  EXPECT_EQ(mixtral->architecture, "mixtral");
  EXPECT_EQ(mixtral->num_experts, 4u);
  EXPECT_EQ(mixtral->experts_per_token, 2u);
  EXPECT_EQ(mixtral->mlp_size(), 128u);
  EXPECT_TRUE(mixtral->renormalise_experts);
  EXPECT_EQ(with(0, 0)->architecture, "llama");
  EXPECT_THAT(with(4, 5), Fails(kInvalid, "experts per token is 5", "1 to 4"));
  EXPECT_THAT(with(4, 0), Fails(kInvalid, "experts per token is 0"));
  EXPECT_THAT(with(0xffffffff, 2), Fails(kInvalid, "experts is 4294967295"));
  EXPECT_THAT(WithUint("llama.expert_count", 8), Fails(kNotFound, "llama.expert_used_count"));
  EXPECT_THAT(With("", [](GgufBuilder& b) { b.String("llama.expert_count", "8"); }),
              Fails(kInvalid, "llama.expert_count"));
  for (const auto& [name, experts, error] :
       {std::tuple{"qwen2", 8u, StatusCode::kUnimplemented}, {"qwen3moe", 0u, kInvalid}}) {
    GgufBuilder builder;
    const std::string p = std::string(name) + ".";
    builder.String("general.architecture", name)
        .Uint(p + "expert_count", experts)
        .Uint(p + "expert_used_count", 2)
        .Uint(p + "expert_feed_forward_length", 64);
    for (const auto& [key, value] : {std::pair{"context_length", 512},
                                     {"embedding_length", 64},
                                     {"feed_forward_length", 128},
                                     {"block_count", 2},
                                     {"attention.head_count", 4}}) {
      builder.Uint(p + key, static_cast<uint32_t>(value));
    }
    builder.Float(p + "attention.layer_norm_rms_epsilon", 1e-5f)
        .Tensor("token_embd.weight", kPackF32, {64, 300}, std::string(64 * 300 * 4, '\0'));
    WriteText(folder_ / "y.gguf", builder.Build());
    EXPECT_THAT(ModelConfigFromGguf(**GgufFile::Open(folder_ / "y.gguf")), Fails(error, "expert"))
        << name;
  }
}

}  // namespace
}  // namespace tq
