// tq eval: perplexity, KL divergence against a reference model, and accuracy on questions.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/file_io.h"
#include "cli/command.h"
#include "evaluate/evaluate.h"
#include "evaluate/task_file.h"
#include "evaluate/task_tokens.h"
#include "evaluate/tasks.h"
#include "tokenizer/tokenizer.h"

namespace tq::cli {
namespace {

// A text of evaluation is a few MB; this only keeps a mistyped path from filling memory.
constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;

class EvalCommand final : public Command {
 public:
  void AddTo(CLI::App& app) override {
    CLI::App* sub = Register(
        app, "eval",
        "Measure perplexity, KL divergence against a reference, and accuracy on questions",
        "  tq eval SmolLM2-2bit --text wiki.test.txt\n"
        "  tq eval SmolLM2-2bit --reference SmolLM2-135M --text wiki.test.txt --windows 128\n"
        "  tq eval SmolLM2-2bit --tasks hellaswag.txt --tasks piqa.jsonl --tasks-limit 400\n"
        "The text is cut into windows; the second half of each is scored, as llama.cpp does. Of\n"
        "questions the likeliest choice is taken, as lm-evaluation-harness does.");
    AddModelArgument(*sub, model_);
    CLI::Option_group* measured = sub->add_option_group("Measured, one or both");
    measured->require_option(1, 2);
    CLI::Option* text = measured->add_option("--text", text_, "Text file: perplexity");
    CLI::Option* tasks = measured->add_option(
        "--tasks", tasks_, "File of multiple-choice questions, JSONL or HellaSwag's text; repeat");
    tasks->allow_extra_args(false)->type_name("FILE");
    sub->add_option("--context", options_.context, "Tokens per window")
        ->check(CLI::Range(4, 1 << 20))
        ->capture_default_str()
        ->needs(text);
    sub->add_option("--windows", options_.max_windows, "At most this many windows (0: all)")
        ->capture_default_str()
        ->needs(text);
    sub->add_option("--tasks-limit", tasks_limit_, "The first N questions of each file (0: all)")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str()
        ->needs(tasks);
    sub->add_option("--reference", reference_,
                    "Unquantised model to take KL divergence from, and choices to agree with");
    sub->add_flag("--single-tokens", options_.single_tokens,
                  "Run the text token by token, as generation does (slow)")
        ->needs(text);
    sub->add_flag("--quiet", quiet_, "No progress");
    compute_.AddTo(*sub);
    AddJsonOption(*sub, json_);
  }

  Status Run() override {
    TQ_RETURN_IF_ERROR(CheckOutputFiles({json_}));
    TQ_ASSIGN_OR_RETURN(auto pool, compute_.MakePool());
    TQ_ASSIGN_OR_RETURN(const Files files, Read());
    TQ_ASSIGN_OR_RETURN(const Inputs inputs, Tokenize(files, model_));
    TQ_ASSIGN_OR_RETURN(auto model, compute_.LoadModel(model_, inputs.positions));
    TQ_RETURN_IF_ERROR(CheckTaskPositions(inputs.tasks, model->config()));
    Inputs reference_inputs;
    std::unique_ptr<Transformer> reference;
    if (!reference_.empty()) {
      TQ_ASSIGN_OR_RETURN(reference_inputs, Tokenize(files, reference_));
      // A KL divergence between models that number their tokens differently means nothing.
      if (reference_inputs.text != inputs.text) {
        return InvalidArgument("--reference {}: its tokenizer cuts the text differently from {}'s",
                               reference_.string(), model_.string());
      }
      TQ_ASSIGN_OR_RETURN(reference, Transformer::Load(reference_));
      TQ_RETURN_IF_ERROR(CheckTaskPositions(reference_inputs.tasks, reference->config())
                             .WithContext("--reference " + reference_.string()));
    }

    const std::unique_ptr<Progress> progress = MakeProgress(quiet_);
    const ForwardContext context{pool.get(), compute_.path()};
    std::optional<EvaluateResult> text;
    if (!text_.empty()) {
      options_.bos = inputs.bos;
      TQ_ASSIGN_OR_RETURN(
          text, Evaluate(*model, reference.get(), inputs.text, options_, context, *progress));
    }
    Answers answers, reference_answers;
    if (!tasks_.empty()) {
      TQ_ASSIGN_OR_RETURN(answers,
                          AnswerTasks(*model, inputs.tasks, context, "questions", *progress));
    }
    if (!tasks_.empty() && reference != nullptr) {
      // On the path that Evaluate runs it on.
      TQ_ASSIGN_OR_RETURN(reference_answers, AnswerTasks(*reference, reference_inputs.tasks,
                                                         {pool.get(), MatmulPath::kReference},
                                                         "questions to the reference", *progress));
    }

    nlohmann::ordered_json object = {{"model", model_.string()},
                                     {"parameters", model->num_parameters()},
                                     {"file_bytes", model->file_bytes()},
                                     {"bits_per_weight", model->bits_per_weight()}};
    fmt::print(HumanOutput(json_), "{}: {} parameters, {}, {:.4f} bits per weight\n",
               model_.string(), model->num_parameters(), FormatBytes(model->file_bytes()),
               model->bits_per_weight());
    if (reference != nullptr) object["reference"] = reference_.string();
    if (text) AddText(*text, object);
    if (!tasks_.empty()) AddTasks(inputs.tasks, answers, reference_answers, object);
    return WriteJson(json_, object);
  }

 private:
  using Answers = std::vector<std::vector<TaskAnswer>>;

  // What is measured.
  struct Files {
    std::string text;
    std::vector<TaskFile> tasks;
  };
  // The same in a model's tokens.
  struct Inputs {
    std::vector<int32_t> text;
    std::vector<TaskTokens> tasks;
    int32_t bos = -1;        // of windows of the text
    uint64_t positions = 0;  // that the longest window or question takes
  };

  StatusOr<Files> Read() const {
    Files files;
    if (!text_.empty()) {
      TQ_ASSIGN_OR_RETURN(files.text, ReadFile(text_, kMaxTextBytes));
    }
    for (const std::filesystem::path& file : tasks_) {
      TQ_ASSIGN_OR_RETURN(TaskFile tasks, ReadTasks(file, tasks_limit_));
      files.tasks.push_back(std::move(tasks));
    }
    return files;
  }

  StatusOr<Inputs> Tokenize(const Files& files, const std::filesystem::path& model) const {
    TQ_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromModel(model));
    Inputs inputs;
    inputs.bos = tokenizer->window_bos();
    inputs.text = tokenizer->Encode(files.text);
    if (!text_.empty()) inputs.positions = options_.context;
    for (const TaskFile& tasks : files.tasks) {
      TQ_ASSIGN_OR_RETURN(TaskTokens tokens, TokenizeTasks(tasks, *tokenizer));
      inputs.positions = std::max(inputs.positions, tokens.positions());
      inputs.tasks.push_back(std::move(tokens));
    }
    return inputs;
  }

  // Prints what was measured on the text, and adds it to the results.
  void AddText(const EvaluateResult& result, nlohmann::ordered_json& object) const {
    std::FILE* out = HumanOutput(json_);
    fmt::print(out, "perplexity {:.4f} +- {:.4f} (context {}, {} windows, {} tokens)\n",
               result.perplexity, result.perplexity_stderr, options_.context, result.windows,
               result.tokens);
    object["tokens"] = result.tokens;
    object["context"] = options_.context;
    object["windows"] = result.windows;
    object["perplexity"] = result.perplexity;
    object["perplexity_stderr"] = result.perplexity_stderr;
    if (!result.kl) return;
    fmt::print(out, "KL divergence {:.5f} +- {:.5f}, 99 % {:.4f}, same first token {:.2f} %\n",
               result.kl->mean, result.kl->stderr_, result.kl->p99,
               100 * result.kl->top1_agreement);
    object["kl_mean"] = result.kl->mean;
    object["kl_stderr"] = result.kl->stderr_;
    object["kl_p99"] = result.kl->p99;
    object["top1_agreement"] = result.kl->top1_agreement;
    object["reference_perplexity"] = result.kl->reference_perplexity;
  }

  // The same of questions; `reference` is empty without one.
  void AddTasks(const std::vector<TaskTokens>& tasks, const Answers& answers,
                const Answers& reference, nlohmann::ordered_json& object) const {
    std::FILE* out = HumanOutput(json_);
    TaskScore all;
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (size_t i = 0; i < tasks.size(); ++i) {
      const TaskScore score = ScoreTask(tasks[i], answers[i]);
      all.right.Add(score.right);
      all.right_norm.Add(score.right_norm);
      fmt::print(out, "{}: accuracy {}, by characters {} ({} questions)\n", tasks[i].name,
                 Percent(score.right), Percent(score.right_norm), score.right.questions);
      nlohmann::ordered_json entry = {{"file", tasks[i].name}};
      AddScore(score, entry);
      if (!reference.empty()) {
        const TaskScore theirs = ScoreTask(tasks[i], reference[i]);
        const TaskShare same = SameChoices(answers[i], reference[i]);
        fmt::print(out, "  reference {}, by characters {}; same choice {}\n", Percent(theirs.right),
                   Percent(theirs.right_norm), Percent(same));
        entry["reference_accuracy"] = theirs.right.value();
        entry["reference_accuracy_norm"] = theirs.right_norm.value();
        entry["choice_agreement"] = same.value();
      }
      list.push_back(std::move(entry));
    }
    AddScore(all, object);
    object["tasks"] = std::move(list);
  }

  static std::string Percent(const TaskShare& share) {
    return fmt::format("{:.2f} +- {:.2f} %", 100 * share.value(), 100 * share.error());
  }

  static void AddScore(const TaskScore& score, nlohmann::ordered_json& object) {
    object["questions"] = score.right.questions;
    object["accuracy"] = score.right.value();
    object["accuracy_stderr"] = score.right.error();
    object["accuracy_norm"] = score.right_norm.value();
    object["accuracy_norm_stderr"] = score.right_norm.error();
  }

  std::filesystem::path model_, text_, reference_;
  std::vector<std::filesystem::path> tasks_;
  uint64_t tasks_limit_ = 0;
  EvaluateOptions options_;
  ComputeOptions compute_;
  std::string json_;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeEvalCommand() { return std::make_unique<EvalCommand>(); }

}  // namespace tq::cli
