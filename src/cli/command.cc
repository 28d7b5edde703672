#include "cli/command.h"

#include <cerrno>
#include <chrono>
#include <cstdio>

#include "base/file_io.h"

namespace tq::cli {

CLI::App* Command::Register(CLI::App& app, const std::string& name, const std::string& description,
                            const std::string& examples) {
  subcommand_ = app.add_subcommand(name, description);
  subcommand_->footer("Examples:\n" + examples);
  return subcommand_;
}

void ComputeOptions::AddTo(CLI::App& app) {
  app.add_option("--threads", threads, "Threads (0: all processors this process may use)")
      ->check(CLI::Range(size_t{0}, ThreadPool::kMaxThreads))
      ->capture_default_str();
  app.add_option("--device", device, "Where the model runs: cpu, or cuda (models of tq quantize)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--gpu-memory", gpu_memory,
                 "Memory of the CUDA device for weights, activations and KV cache, as 6GiB: layers "
                 "that do not fit run on the processor (default: all must fit)")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 60));
  app.add_option("--compute", compute,
                 "fast: integer activations; reference: float activations, plain code, slow")
      ->check(CLI::IsMember({"fast", "reference"}))
      ->capture_default_str();
}

StatusOr<std::unique_ptr<ThreadPool>> ComputeOptions::MakePool() const {
  return ThreadPool::Create(threads);
}

StatusOr<std::unique_ptr<Transformer>> ComputeOptions::LoadModel(const std::filesystem::path& path,
                                                                 uint64_t positions) const {
  if (device == "cpu") {
    if (gpu_memory != 0) return InvalidArgument("--gpu-memory: only with --device cuda");
    return Transformer::Load(path);
  }
  if (this->path() == MatmulPath::kReference) {
    return Unimplemented("--compute reference: only with --device cpu");
  }
  return Transformer::Load(path, {DeviceKind::kCuda, gpu_memory, positions});
}

void AddModelArgument(CLI::App& app, std::filesystem::path& model) {
  app.add_option("MODEL", model, "Hugging Face directory, GGUF file or TurboQuant directory")
      ->required();
}

void AddJsonOption(CLI::App& app, std::string& file) {
  app.add_option("--json", file, "Write the results as one JSON object (-: standard output)")
      ->type_name("FILE");
}

Status WriteJson(const std::string& file, const nlohmann::ordered_json& object) {
  if (file.empty()) return OkStatus();
  const std::string text =
      object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  if (file == "-") {
    const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
    if (written && std::fflush(stdout) == 0) return OkStatus();
    return IoError("writing to standard output", errno);
  }
  return WriteFileAtomically(file, text);
}

Status CheckOutputFiles(const std::vector<std::filesystem::path>& files) {
  for (const std::filesystem::path& file : files) {
    if (!file.empty() && file != "-") TQ_RETURN_IF_ERROR(CheckWritable(file));
  }
  return OkStatus();
}

std::unique_ptr<Progress> MakeProgress(bool quiet) {
  if (quiet) return std::make_unique<NullProgress>();
  return std::make_unique<ConsoleProgress>();
}

std::FILE* HumanOutput(const std::string& json_file) { return json_file == "-" ? stderr : stdout; }

double NowSeconds() {
  static const auto start = std::chrono::steady_clock::now();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace tq::cli
