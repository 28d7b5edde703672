// What the commands of `tq` share: how a command is registered, how errors, numbers
// and JSON are shown.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/format.h"
#include "base/progress.h"
#include "base/status.h"
#include "device/thread_pool.h"
#include "model/transformer.h"

namespace tq::cli {

// A command adds its options to `app` and keeps what they fill; Run does the work.
class Command {
 public:
  virtual ~Command() = default;
  virtual void AddTo(CLI::App& app) = 0;
  virtual Status Run() = 0;

  CLI::App* subcommand() const { return subcommand_; }

 protected:
  // Makes the subcommand; `examples` follow the options in --help.
  CLI::App* Register(CLI::App& app, const std::string& name, const std::string& description,
                     const std::string& examples);

 private:
  CLI::App* subcommand_ = nullptr;
};

// `words`: the command line, for reports.
std::unique_ptr<Command> MakeQuantizeCommand(std::vector<std::string> words);
std::unique_ptr<Command> MakeCompareCommand(std::vector<std::string> words);
std::unique_ptr<Command> MakeEvalCommand();
std::unique_ptr<Command> MakeGenerateCommand();
std::unique_ptr<Command> MakeChatCommand();
std::unique_ptr<Command> MakeInspectCommand();
std::unique_ptr<Command> MakeBenchCommand();
std::unique_ptr<Command> MakeExportCommand();

// Where and how models run: --device, --gpu-memory, --threads, --compute.
struct ComputeOptions {
  size_t threads = 0;
  uint64_t gpu_memory = 0;  // bytes; 0: all that is free, and all layers must fit
  std::string compute = "fast", device = "cpu";

  void AddTo(CLI::App& app);
  StatusOr<std::unique_ptr<ThreadPool>> MakePool() const;
  // On the device, which --gpu-memory leaves room on for a cache of `positions` (0: as many as the
  // model was trained for).
  StatusOr<std::unique_ptr<Transformer>> LoadModel(const std::filesystem::path& path,
                                                   uint64_t positions) const;
  MatmulPath path() const {
    return compute == "reference" ? MatmulPath::kReference : MatmulPath::kFast;
  }
};

// The positional MODEL.
void AddModelArgument(CLI::App& app, std::filesystem::path& model);

// --json FILE ("-": standard output).
void AddJsonOption(CLI::App& app, std::string& file);
// Writes one object; nothing when `file` is empty.
Status WriteJson(const std::string& file, const nlohmann::ordered_json& object);
// Whether files that the end of a command writes can be made ("" and "-" can).
Status CheckOutputFiles(const std::vector<std::filesystem::path>& files);
// On the console, or with --quiet nowhere.
std::unique_ptr<Progress> MakeProgress(bool quiet);
// Where prose for people goes: standard error when JSON has standard output.
std::FILE* HumanOutput(const std::string& json_file);

// Seconds since the process' first call.
double NowSeconds();

}  // namespace tq::cli
