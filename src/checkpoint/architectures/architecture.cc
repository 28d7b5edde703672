#include "checkpoint/architectures/architecture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tq {

std::span<const Architecture* const> Architectures() {
  static const Architecture* const all[] = {&Llama(),  &Mistral(), &Qwen2(),
                                            &Qwen3(),  &Gemma2(),  &Gemma3(),
                                            &BitNet(), &Mixtral(), &Qwen3Moe()};
  return all;
}

const Architecture* FindArchitecture(std::string_view model_type) {
  for (const Architecture* architecture : Architectures()) {
    if (architecture->model_type == model_type) return architecture;
  }
  return nullptr;
}

const Architecture* FindGgufArchitecture(std::string_view name, bool has_experts) {
  for (const Architecture* architecture : Architectures()) {
    if (architecture->gguf_name != nullptr && architecture->gguf_name == name &&
        architecture->experts.has_value() == has_experts) {
      return architecture;
    }
  }
  return nullptr;
}

std::string ListArchitectures() {
  std::vector<std::string> names;
  for (const Architecture* architecture : Architectures()) {
    names.push_back(fmt::format("'{}'", architecture->model_type));
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string_view ActivationName(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return "silu";
    case Activation::kGeluTanh:
      return "gelu_pytorch_tanh";
    case Activation::kRelu2:
      break;
  }
  return "relu2";
}

}  // namespace tq
