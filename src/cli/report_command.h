// What `tq quantize --report` and `tq compare` share.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"
#include "device/executor.h"
#include "evaluate/report.h"

namespace tq::cli {

// A command line as a shell would take it.
std::string CommandLine(const std::vector<std::string>& words);
// "tq 0.1.0, GCC 12.2.0, AVX-512".
std::string VersionLine();

// The same prompts continued by the original and by the compressed model, greedily. Nothing when
// the original does not fit in memory as float32.
StatusOr<std::vector<TextSample>> WriteSamples(const std::filesystem::path& original,
                                               const std::filesystem::path& compressed,
                                               Executor& executor);

// Renders and writes the HTML file; nothing when `file` is empty.
// Each file that is asked for: as JSON where its name ends so, else as HTML.
Status WriteReports(const std::vector<std::filesystem::path>& files,
                    const CompressionReport& report);

}  // namespace tq::cli
