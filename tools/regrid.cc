// regrid MODEL OUT [--seed 1] [--sigma 0.2]: writes a float32 Hugging Face directory that
// computes exactly what MODEL does, with weights that lie on no quantisation grid.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "checkpoint/model_directory.h"
#include "checkpoint/model_source.h"
#include "regrid_lib.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

StatusOr<std::map<std::string, std::string>> TokenizerFiles(const ModelSource& source) {
  if (source.gguf() == nullptr) return ReadTokenizerFiles(source.path());
  TQ_ASSIGN_OR_RETURN(const TokenizerData data, TokenizerDataFromGguf(*source.gguf()));
  return std::map<std::string, std::string>{{"tokenizer.json", TokenizerDataToJson(data)},
                                            {"tokenizer_config.json", TokenizerConfigToJson(data)}};
}

Status Run(const std::filesystem::path& model, const std::filesystem::path& output,
           const RegridOptions& options) {
  TQ_RETURN_IF_ERROR(CheckOutputDirectory(output, model));
  TQ_ASSIGN_OR_RETURN(const auto source, ModelSource::Open(model));
  ModelDirectory directory;
  directory.config_json = ModelConfigToJson(source->config());
  TQ_ASSIGN_OR_RETURN(directory.files, TokenizerFiles(*source));
  TQ_ASSIGN_OR_RETURN(directory.tensors, RegridTensors(*source, options));
  return WriteModelDirectory(output, model, directory);
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  CLI::App app("Rewrites a model with other channel scales and the same function, in float32.");
  std::string model, output;
  tq::RegridOptions options;
  app.add_option("MODEL", model, "Hugging Face directory or GGUF file")->required();
  app.add_option("OUT", output, "folder to write")->required();
  app.add_option("--seed", options.seed, "of the random factors")->capture_default_str();
  app.add_option("--sigma", options.sigma, "of the factors' logarithm")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const tq::Status status = tq::Run(model, output, options);
  if (!status.ok()) std::fprintf(stderr, "regrid: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
