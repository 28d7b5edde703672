// Writes reports of made-up runs, to look at and for tools/check_report.sh:
// sample_report FOLDER
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <filesystem>

#include "base/file_io.h"
#include "evaluate/report_samples_for_test.h"

namespace tq {
namespace {

Status WriteAll(const std::filesystem::path& folder) {
  const std::pair<const char*, CompressionReport> reports[] = {
      {"quantize", SampleQuantizeReport(30)},
      {"small", SampleQuantizeReport(2)},
      {"large", SampleQuantizeReport(126)},
      {"compare", SampleCompareReport()}};
  for (const auto& [name, report] : reports) {
    TQ_RETURN_IF_ERROR(
        WriteFileAtomically(folder / fmt::format("{}.html", name), ReportToHtml(report)));
  }
  return OkStatus();
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: sample_report FOLDER\n");
    return 2;
  }
  const tq::Status status = tq::WriteAll(argv[1]);
  if (!status.ok()) fmt::print(stderr, "sample_report: {}\n", status.message());
  return status.ok() ? 0 : 1;
}
