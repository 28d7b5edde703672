// Runs a program as a user would: arguments in; exit code, output and peak memory out.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace tq::testing {

struct ProcessResult {
  int exit_code = -1;  // -signal when a signal ended it
  std::string out, err;
  uint64_t peak_rss_bytes = 0;
};

struct ProcessOptions {
  std::string input;                     // standard input
  std::string output = "out";            // standard output: a path, or "out" to have it back
  std::vector<std::string> environment;  // "NAME=value", added to ours
  // Sends `signal` after so many milliseconds (0: never).
  int signal = SIGKILL;
  int signal_after_ms = 0;
  uint64_t address_space_limit = 0;  // RLIMIT_AS, bytes; 0: none
  uint64_t file_size_limit = 0;      // RLIMIT_FSIZE, bytes, as a disk that fills up; 0: none
};

inline std::string ReadWhole(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline ProcessResult RunProcess(const std::vector<std::string>& arguments,
                                const ProcessOptions& options = {}) {
  std::string pattern = (std::filesystem::temp_directory_path() / "tq_process.XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) std::abort();
  const std::filesystem::path folder = pattern;
  std::ofstream(folder / "in") << options.input;

  const pid_t child = fork();
  if (child == 0) {
    const auto redirect = [&](const char* name, int flags, int to) {
      const int fd = open((folder / name).c_str(), flags, 0600);
      if (fd < 0 || dup2(fd, to) < 0) _exit(127);
    };
    redirect("in", O_RDONLY, STDIN_FILENO);
    redirect(options.output.c_str(), O_WRONLY | O_CREAT, STDOUT_FILENO);
    redirect("err", O_WRONLY | O_CREAT, STDERR_FILENO);
    if (options.address_space_limit > 0) {
      const rlimit limit = {options.address_space_limit, options.address_space_limit};
      setrlimit(RLIMIT_AS, &limit);
    }
    if (options.file_size_limit > 0) {
      const rlimit limit = {options.file_size_limit, options.file_size_limit};
      setrlimit(RLIMIT_FSIZE, &limit);
    }
    for (const std::string& variable : options.environment) putenv(strdup(variable.c_str()));
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(strdup(argument.c_str()));
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  std::thread killer;
  if (options.signal_after_ms > 0) {
    killer = std::thread([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(options.signal_after_ms));
      // The child is reaped only after this thread is joined, so the number is still its own.
      kill(child, options.signal);
    });
    killer.join();
  }
  int status = 0;
  struct rusage usage = {};
  wait4(child, &status, 0, &usage);

  ProcessResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  result.out = ReadWhole(folder / "out");
  result.err = ReadWhole(folder / "err");
  result.peak_rss_bytes = static_cast<uint64_t>(usage.ru_maxrss) * 1024;
  std::filesystem::remove_all(folder);
  return result;
}

}  // namespace tq::testing
