// The program `tq`. Exit codes: 0 done, 1 failed (one line on standard error), 2 usage.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "cli/command.h"
#include "kernels/isa.h"

namespace {

constexpr int kExitDone = 0, kExitFailed = 1, kExitUsage = 2;

// Results that did not arrive (on a full disk behind a redirection, say) are no success.
tq::Status FlushOutput() {
  if (std::fflush(stdout) != 0) return tq::IoError("writing to standard output", errno);
  if (std::ferror(stdout) == 0) return tq::OkStatus();
  return tq::Status(tq::StatusCode::kIo, "writing to standard output failed");
}

// Weights are read where the file is mapped. If somebody cuts the file in the middle of a
// pass, the missing pages raise SIGBUS: an error of the file, not a crash of ours.
void ExitOnLostPages(int) {
  constexpr std::string_view kLine = "tq: a model file was cut off while it was in use\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, kLine.data(), kLine.size());
  _exit(kExitFailed);
}

int Main(int argc, char** argv) {
  CLI::App app{
      "TurboQuant compresses language models to 0.5 to 8 bits per weight and runs them packed."};
  app.name("tq");
  app.set_version_flag("--version", std::string("tq ") + TQ_VERSION);
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::simple);

  const std::vector<std::string> words(argv, argv + argc);
  std::vector<std::unique_ptr<tq::cli::Command>> commands;
  commands.push_back(tq::cli::MakeQuantizeCommand(words));
  commands.push_back(tq::cli::MakeCompareCommand(words));
  commands.push_back(tq::cli::MakeEvalCommand());
  commands.push_back(tq::cli::MakeGenerateCommand());
  commands.push_back(tq::cli::MakeChatCommand());
  commands.push_back(tq::cli::MakeInspectCommand());
  commands.push_back(tq::cli::MakeBenchCommand());
  commands.push_back(tq::cli::MakeExportCommand());
  for (auto& command : commands) command->AddTo(app);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // --help and --version arrive here too, with code 0.
    return app.exit(error) == 0 ? kExitDone : kExitUsage;
  }

  tq::Status status = tq::CheckIsa();
  if (status.ok()) {
    tq::InstallCancelHandlers();
    // A write above the file size limit then fails like one on a full disk.
    std::signal(SIGXFSZ, SIG_IGN);
    std::signal(SIGBUS, ExitOnLostPages);
    for (auto& command : commands) {
      if (command->subcommand()->parsed()) status = command->Run();
    }
  }
  if (status.ok()) status = FlushOutput();
  if (status.ok()) return kExitDone;
  fmt::print(stderr, "tq: {}\n", status.message());
  return kExitFailed;
}

}  // namespace

int main(int argc, char** argv) {
  // The libraries report by Status; what the standard library throws (memory) ends here.
  try {
    return Main(argc, argv);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "tq: out of memory\n");
  } catch (const std::exception& error) {
    fmt::print(stderr, "tq: {}\n", error.what());
  }
  return kExitFailed;
}
