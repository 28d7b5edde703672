#include "cli/report_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <optional>

#include "base/file_io.h"
#include "base/memory_usage.h"
#include "checkpoint/model_source.h"
#include "generate/session.h"
#include "kernels/isa.h"
#include "model/transformer.h"
#include "tokenizer/tokenizer.h"

namespace tq::cli {
namespace {

constexpr uint64_t kSampleTokens = 48;
// Plain prose, a fact, and code: what people try first.
constexpr const char* kPrompts[] = {
    "The three most important things about a good library are",
    "The capital of France is",
    "def fibonacci(n):",
};

#if defined(__clang__)
constexpr const char* kCompiler = "Clang " __clang_version__;
#else
constexpr const char* kCompiler = "GCC " __VERSION__;
#endif

// Words with anything but these are quoted.
bool IsPlain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("-_./=:,+@%").find(c) != std::string_view::npos;
}

std::string Quote(const std::string& word) {
  if (!word.empty() && std::ranges::all_of(word, IsPlain)) return word;
  std::string quoted;
  quoted.push_back('\'');
  for (const char c : word) {
    if (c == '\'') quoted.append("'\\'");  // close, a quote, and the next one opens
    quoted.push_back(c);
  }
  quoted.push_back('\'');
  return quoted;
}

// What the model writes after each prompt; nothing where it has too few positions.
StatusOr<std::vector<std::optional<std::string>>> Continue(const std::filesystem::path& path,
                                                           Executor& executor) {
  TQ_ASSIGN_OR_RETURN(const auto model, Transformer::Load(path));
  TQ_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::FromModel(path));
  std::vector<std::optional<std::string>> texts;
  for (const char* prompt : kPrompts) {
    const std::vector<int32_t> ids = tokenizer->EncodePrompt(prompt);
    SessionOptions options;
    options.context = ids.size() + kSampleTokens;
    if (options.context > model->config().max_position) {
      texts.push_back(std::nullopt);
      continue;
    }
    ForwardContext context;
    context.executor = &executor;
    TQ_ASSIGN_OR_RETURN(const auto session, Session::Create(*model, *tokenizer, context, options));
    TQ_RETURN_IF_ERROR(session->Prompt(ids));
    std::string text;
    TQ_RETURN_IF_ERROR(session
                           ->Generate(kSampleTokens,
                                      [&](std::string_view piece) {
                                        text += piece;
                                        return true;
                                      })
                           .status());
    texts.push_back(std::move(text));
  }
  return texts;
}

}  // namespace

std::string CommandLine(const std::vector<std::string>& words) {
  std::vector<std::string> quoted;
  for (const std::string& word : words) quoted.push_back(Quote(word));
  return fmt::format("{}", fmt::join(quoted, " "));
}

std::string VersionLine() {
  return fmt::format("tq {}, {}, {}", TQ_VERSION, kCompiler, IsaName(CurrentIsa()));
}

StatusOr<std::vector<TextSample>> WriteSamples(const std::filesystem::path& original,
                                               const std::filesystem::path& compressed,
                                               Executor& executor) {
  std::vector<TextSample> samples;
  {
    TQ_ASSIGN_OR_RETURN(const auto source, ModelSource::Open(original));
    const uint64_t available = AvailableMemory();
    if (available > 0 && 4 * source->num_parameters() > available / 2) return samples;
  }
  TQ_ASSIGN_OR_RETURN(const auto before, Continue(original, executor));
  TQ_ASSIGN_OR_RETURN(const auto after, Continue(compressed, executor));
  for (size_t i = 0; i < std::size(kPrompts); ++i) {
    if (before[i] && after[i]) samples.push_back({kPrompts[i], *before[i], *after[i]});
  }
  return samples;
}

Status WriteReports(const std::vector<std::filesystem::path>& files,
                    const CompressionReport& report) {
  for (const std::filesystem::path& file : files) {
    TQ_RETURN_IF_ERROR(WriteFileAtomically(file, file.extension() == ".json"
                                                     ? ReportToJson(report).dump(1) + "\n"
                                                     : ReportToHtml(report)));
  }
  return OkStatus();
}

}  // namespace tq::cli
