// Long jobs: stopped, killed, resumed, refused, and short of disk or memory.
#include <sys/file.h>

#include "program/program.h"

namespace tq::testing {
namespace {

TEST_F(ProgramTest, SameBytesForAnyNumberOfThreads) {
  TqJson(Quantize("one", "2.25", {"--threads", "1"}));
  TqJson(Quantize("three", "2.25", {"--threads", "3"}));
  EXPECT_EQ(FolderContents(folder_ / "one"), FolderContents(folder_ / "three"));
}

// Robustness case 64: killed at many moments, then resumed.
TEST_F(ProgramTest, KilledAndResumedGivesTheSameBytes) {
  const auto start = std::chrono::steady_clock::now();
  TqJson(Quantize("straight", "2.25"));
  const auto whole = std::chrono::duration_cast<std::chrono::milliseconds>(
                         std::chrono::steady_clock::now() - start)
                         .count();
  for (int part = 1; part <= 5 && !std::filesystem::exists(folder_ / "resumed"); ++part) {
    ProcessOptions kill;
    kill.signal_after_ms = static_cast<int>(std::max<int64_t>(1, whole * part / 6));
    kill.signal = part % 2 == 0 ? SIGTERM : SIGKILL;
    // A kill after the last rename leaves the output: whole, or the comparison below fails.
    Tq(Quantize("resumed", "2.25", {"--threads", "1"}), kill);
  }
  if (!std::filesystem::exists(folder_ / "resumed")) TqJson(Quantize("resumed", "2.25"));
  EXPECT_EQ(FolderContents(folder_ / "straight"), FolderContents(folder_ / "resumed"));
}

// Robustness case 67.
TEST_F(ProgramTest, ExistingOutputIsRefused) {
  TqJson(Quantize("out", "2", {"--uniform"}));
  const auto before = FolderContents(folder_ / "out");
  ExpectFailure(Tq(Quantize("out", "3", {"--quiet"})), {"out"});
  EXPECT_EQ(FolderContents(folder_ / "out"), before);
}

// Robustness case 67.
TEST_F(ProgramTest, OutputMayNotBeTheInput) {
  const auto before = FolderContents(folder_ / "hf");
  ExpectFailure(Tq(Quantize("hf", "2", {"--quiet"})), {"hf"});
  EXPECT_EQ(FolderContents(folder_ / "hf"), before);
}

// Robustness case 66: what another process holds is left alone.
TEST_F(ProgramTest, SecondWriterIsRefused) {
  std::filesystem::create_directory(folder_ / "out.work");
  const int lock = open((folder_ / "out.work/lock").c_str(), O_RDWR | O_CREAT, 0644);
  ASSERT_EQ(flock(lock, LOCK_EX), 0);
  ExpectFailure(Tq(Quantize("out", "2", {"--quiet", "--fresh"})), {"out.work", "another process"});
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
  close(lock);
  EXPECT_EQ(Tq(Quantize("out", "2", {"--quiet", "--uniform"})).exit_code, 0);
}

TEST_F(ProgramTest, MissingParentFolderIsNamed) {
  ExpectFailure(Tq(Quantize("absent/out", "2", {"--quiet"})), {"absent"});
}

// Robustness case 65: another job's work folder.
TEST_F(ProgramTest, WorkOfAnotherJobIsRefused) {
  // Stopped later and later, until a run leaves finished parts behind.
  ProcessOptions stop;
  stop.signal = SIGKILL;
  stop.signal_after_ms = 1;
  const auto parts = [&] {
    size_t count = 0;
    if (!std::filesystem::exists(folder_ / "out.work")) return count;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "out.work")) {
      count += entry.path().extension() == ".part";
    }
    return count;
  };
  while (parts() == 0) {
    std::filesystem::remove_all(folder_ / "out");
    Tq(Quantize("out", "2", {"--threads", "1"}), stop);
    stop.signal_after_ms += 5 + stop.signal_after_ms / 3;
    ASSERT_LT(stop.signal_after_ms, 60000);
  }
  WriteHuggingFace(MakeTinyModel({.seed = 9}), folder_ / "other");
  std::vector<std::string> arguments = Quantize("out", "2", {"--quiet"});
  arguments[1] = Path("other");
  ExpectFailure(Tq(arguments), {"--fresh"});
  arguments.push_back("--fresh");
  EXPECT_EQ(Tq(arguments).exit_code, 0);
}

// Robustness case 62, case 63: writes that fail, at the parts and at the file made of them, leave
// nothing at the final name, and what was done before is kept.
TEST_F(ProgramTest, FullDiskIsAnErrorThatCanBeResumed) {
  TqJson(Quantize("straight", "3"));
  const uint64_t size = std::filesystem::file_size(folder_ / "straight/model.safetensors");
  for (const uint64_t limit : {uint64_t{1000}, size / 20, size / 2, size - 1}) {
    ProcessOptions full;
    full.file_size_limit = limit;
    ExpectFailure(Tq(Quantize("out", "3", {"--quiet"}), full), {"out"});
    EXPECT_FALSE(std::filesystem::exists(folder_ / "out")) << limit;
  }
  TqJson(Quantize("out", "3"));
  EXPECT_EQ(FolderContents(folder_ / "straight"), FolderContents(folder_ / "out"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out.work"));
}

#if !defined(TQ_SANITIZED)  // the sanitizers reserve terabytes of address space
// MiB of addresses that the program takes to start: its code and libraries.
uint64_t MibToStart() {
  for (uint64_t mib = 8; mib < 4096; mib += 4) {
    ProcessOptions options;
    options.address_space_limit = mib << 20;
    if (Tq({"--version"}, options).exit_code == 0) return mib;
  }
  ADD_FAILURE() << "it does not start";
  return 4096;
}

// Robustness case 68: memory that runs out is one line and exit code 1.
TEST_F(ProgramTest, TooLittleMemoryIsAnError) {
  WriteHuggingFace(MakeTinyModel({.hidden = 256, .intermediate = 1024, .layers = 1}),
                   folder_ / "wide");
  std::vector<std::string> arguments = Quantize("out", "3", {"--quiet", "--threads", "1"});
  arguments[1] = Path("wide");
  ProcessOptions options;
  options.address_space_limit = (MibToStart() + 8) << 20;
  ExpectFailure(Tq(arguments, options), {});
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
}

// Robustness case 68: wherever memory runs out, in whatever thread.
TEST_F(ProgramTest, AnyAmountOfMemoryGivesAResultOrAnError) {
  TqJson(Quantize("packed", "2", {"--uniform"}));
  const uint64_t start = MibToStart();
  for (uint64_t more = 0; more <= 240; more += 4 + more / 6) {
    ProcessOptions options;
    options.address_space_limit = (start + more) << 20;
    for (const std::vector<std::string>& arguments :
         {Quantize("out", "2", {"--quiet", "--threads", "3"}),
          std::vector<std::string>{"generate", Path("packed"), "-p", "the", "-n", "4"}}) {
      const ProcessResult result = Tq(arguments, options);
      if (result.exit_code != 0) ExpectFailure(result, {});
      std::filesystem::remove_all(folder_ / "out");
    }
  }
}

// Robustness case 68: a stack of some MiB for each of them is more than there is.
TEST_F(ProgramTest, MoreThreadsThanMemoryIsAnError) {
  ProcessOptions options;
  options.address_space_limit = uint64_t{512} << 20;
  ExpectFailure(Tq({"bench", Path("hf"), "--threads", "1000"}, options), {"threads 1000"});
}
#endif

}  // namespace
}  // namespace tq::testing
