// Writes text with a model, using the public headers only.
#include <cstdio>
#include <cstring>
#include <string_view>

#include "turboquant/model.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: generate_example MODEL PROMPT\n");
    return 2;
  }
  turboquant::Result<turboquant::Model> model = turboquant::Model::Load(argv[1]);
  if (!model) {
    std::fprintf(stderr, "%s\n", model.error().message.c_str());
    return 1;
  }
  const turboquant::ModelInfo info = model->info();
  std::printf("%.1f M parameters at %.2f bits per weight\n%s",
              static_cast<double>(info.parameters) / 1e6, info.bits_per_weight, argv[2]);
  const auto text = model->Generate(argv[2], {.max_tokens = 48}, [](std::string_view piece) {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
    return true;
  });
  std::printf("\n");
  if (!text) {
    std::fprintf(stderr, "%s\n", text.error().message.c_str());
    return 1;
  }
  return 0;
}
