// tq eval: perplexity, and KL divergence against a reference model.
#include <fmt/format.h>

#include "base/file_io.h"
#include "cli/command.h"
#include "evaluate/evaluate.h"
#include "tokenizer/tokenizer.h"

namespace tq::cli {
namespace {

// A text of evaluation is a few MB; this only keeps a mistyped path from filling memory.
constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;

class EvalCommand final : public Command {
 public:
  void AddTo(CLI::App& app) override {
    CLI::App* sub = Register(
        app, "eval", "Measure perplexity, and KL divergence against a reference",
        "  tq eval SmolLM2-2bit --text wiki.test.txt\n"
        "  tq eval SmolLM2-2bit --reference SmolLM2-135M --text wiki.test.txt --windows 128\n"
        "The text is cut into windows; the second half of each is scored, as llama.cpp does.");
    AddModelArgument(*sub, model_);
    sub->add_option("--text", text_, "Text file")->required();
    sub->add_option("--context", options_.context, "Tokens per window")
        ->check(CLI::Range(4, 1 << 20))
        ->capture_default_str();
    sub->add_option("--windows", options_.max_windows, "At most this many windows (0: all)")
        ->capture_default_str();
    sub->add_option("--reference", reference_, "Unquantised model to take KL divergence from");
    sub->add_flag("--single-tokens", options_.single_tokens,
                  "Run token by token, as generation does (slow)");
    sub->add_flag("--quiet", quiet_, "No progress");
    compute_.AddTo(*sub);
    AddJsonOption(*sub, json_);
  }

  Status Run() override {
    TQ_ASSIGN_OR_RETURN(auto pool, compute_.MakePool());
    TQ_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromModel(model_));
    TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(text_, kMaxTextBytes));
    const std::vector<int32_t> tokens = tokenizer->Encode(text);
    TQ_ASSIGN_OR_RETURN(auto model, compute_.LoadModel(model_, options_.context));
    std::unique_ptr<Transformer> reference;
    if (!reference_.empty()) {
      TQ_RETURN_IF_ERROR(CheckSameTokens(text, tokens));
      TQ_ASSIGN_OR_RETURN(reference, Transformer::Load(reference_));
    }
    options_.bos = tokenizer->window_bos();

    const std::unique_ptr<Progress> progress = MakeProgress(quiet_);
    const ForwardContext context{pool.get(), compute_.path()};
    TQ_ASSIGN_OR_RETURN(const EvaluateResult result,
                        Evaluate(*model, reference.get(), tokens, options_, context, *progress));
    Print(*model, result);
    return WriteJson(json_, ToJson(*model, result));
  }

 private:
  // A KL divergence between models that number their tokens differently means nothing.
  Status CheckSameTokens(const std::string& text, const std::vector<int32_t>& tokens) const {
    TQ_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromModel(reference_));
    if (tokenizer->Encode(text) != tokens) {
      return InvalidArgument("--reference {}: its tokenizer cuts the text differently from {}'s",
                             reference_.string(), model_.string());
    }
    return OkStatus();
  }

  void Print(const Transformer& model, const EvaluateResult& result) const {
    std::FILE* out = HumanOutput(json_);
    fmt::print(out, "{}: {} parameters, {}, {:.4f} bits per weight\n", model_.string(),
               model.num_parameters(), FormatBytes(model.file_bytes()), model.bits_per_weight());
    fmt::print(out, "perplexity {:.4f} +- {:.4f} (context {}, {} windows, {} tokens)\n",
               result.perplexity, result.perplexity_stderr, options_.context, result.windows,
               result.tokens);
    if (result.kl) {
      fmt::print(out, "KL divergence {:.5f} +- {:.5f}, 99 % {:.4f}, same first token {:.2f} %\n",
                 result.kl->mean, result.kl->stderr_, result.kl->p99,
                 100 * result.kl->top1_agreement);
    }
  }

  nlohmann::ordered_json ToJson(const Transformer& model, const EvaluateResult& result) const {
    nlohmann::ordered_json object = {{"model", model_.string()},
                                     {"parameters", model.num_parameters()},
                                     {"file_bytes", model.file_bytes()},
                                     {"bits_per_weight", model.bits_per_weight()},
                                     {"tokens", result.tokens},
                                     {"context", options_.context},
                                     {"windows", result.windows},
                                     {"perplexity", result.perplexity},
                                     {"perplexity_stderr", result.perplexity_stderr}};
    if (result.kl) {
      object["reference"] = reference_.string();
      object["kl_mean"] = result.kl->mean;
      object["kl_stderr"] = result.kl->stderr_;
      object["kl_p99"] = result.kl->p99;
      object["top1_agreement"] = result.kl->top1_agreement;
      object["reference_perplexity"] = result.kl->reference_perplexity;
    }
    return object;
  }

  std::filesystem::path model_, text_, reference_;
  EvaluateOptions options_;
  ComputeOptions compute_;
  std::string json_;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeEvalCommand() { return std::make_unique<EvalCommand>(); }

}  // namespace tq::cli
