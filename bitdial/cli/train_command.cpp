// bitdial train, eval, export.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

#include "bitdial/cli/command.h"
#include "bitdial/cli/measure_bar.h"
#include "bitdial/cli/profile_table.h"
#include "bitdial/cli/recipe_files.h"
#include "bitdial/cli/stop_signal.h"
#include "bitdial/cli/table.h"
#include "bitdial/core/error.h"
#include "bitdial/train/checkpoint.h"
#include "bitdial/train/checkpoint_folder.h"
#include "bitdial/train/evaluation.h"
#include "bitdial/train/quantized_network.h"
#include "bitdial/train/range_test.h"
#include "bitdial/train/recipe.h"
#include "bitdial/train/trainer.h"

namespace bitdial::cli {

namespace fs = std::filesystem;

namespace {

struct TrainArguments {
  std::string recipe;
  std::string resume;
  std::string out;
  std::string data_dir;
  std::string init;
  std::string fold;
  std::string policy;
  std::string gradient_policy;
  std::string arithmetic;
  std::vector<std::string> settings;
  std::optional<int64_t> epochs;
  std::optional<int64_t> seed;
  std::optional<int64_t> threads;
  bool profiles = false;
  bool tests_range = false;
  train::RangeTestOptions range_test;
};

train::Recipe resolve_recipe(const TrainArguments& arguments) {
  train::Recipe recipe = train::load_recipe(find_recipe(arguments.recipe));
  if (!arguments.policy.empty()) train::set_recipe_value(recipe, "precision.policy=" + arguments.policy);
  if (!arguments.gradient_policy.empty())
    train::set_recipe_value(recipe, "precision.gradient_policy=" + arguments.gradient_policy);
  if (!arguments.arithmetic.empty())
    train::set_recipe_value(recipe, "precision.arithmetic=" + arguments.arithmetic);
  if (!arguments.data_dir.empty()) recipe.data.directory = arguments.data_dir;
  if (!arguments.init.empty()) recipe.model.init = arguments.init;
  if (!arguments.fold.empty()) {
    recipe.data.validation = 0.0;  // the fold is held out in its place
    recipe.data.fold = arguments.fold;
  }
  if (arguments.epochs) train::set_recipe_value(recipe, fmt::format("train.epochs={}", *arguments.epochs));
  if (arguments.seed) train::set_recipe_value(recipe, fmt::format("train.seed={}", *arguments.seed));
  if (arguments.threads) train::set_recipe_value(recipe, fmt::format("train.threads={}", *arguments.threads));
  for (const std::string& setting : arguments.settings) train::set_recipe_value(recipe, setting);
  train::check_recipe(recipe);
  return recipe;
}

void print_summary(const train::TrainSummary& summary) {
  if (summary.validation) {
    fmt::print("validation accuracy {:.2f} %, validation loss {:.4f} on {} images held out\n",
               100 * summary.validation->accuracy, summary.validation->loss, summary.validation->images);
  }
  if (summary.evaluation) {
    fmt::print("test accuracy {:.2f} % (best {:.2f} %), test loss {:.4f}\n",
               100 * summary.evaluation->accuracy, 100 * summary.best_accuracy, summary.evaluation->loss);
  }
  if (summary.final_evaluation) {
    fmt::print("in the policy's final precision: test accuracy {:.2f} %, test loss {:.4f}\n",
               100 * summary.final_evaluation->accuracy, summary.final_evaluation->loss);
  }
  if (summary.quantized_network) {
    fmt::print("quantised network in {}: {:.1f} % of its weights are zero\n",
               summary.quantized_network->string(), 100 * summary.zero_fraction.value_or(0.0));
  }
  fmt::print("{} epochs, {} steps in {}; run directory {}\n", summary.epochs, summary.steps,
             train::format_duration(summary.seconds), summary.directory.string());
}

// CPT's precision range test, in place of a run.
void run_range_test(const TrainArguments& arguments) {
  const StopSignal signal;
  train::RangeTestOptions options = arguments.range_test;
  options.stop = StopSignal::requested;
  const train::RangeTestResult result = train::range_test(resolve_recipe(arguments), options);
  Table table({"bits", "accuracy %, first half", "last half", "gain"});
  for (const train::RangeTestLevel& level : result.levels) {
    table.add({fmt::format("{}", level.bits), fmt::format("{:.2f}", 100 * level.first_half),
               fmt::format("{:.2f}", 100 * level.last_half), fmt::format("{:.2f}", 100 * level.gain())});
  }
  fmt::print("{}\n", table.text());
  if (result.stopped) throw CLI::RuntimeError(kInterrupted);
  if (!result.minimum) {
    fmt::print("no precision up to {} bits gains more than {:.2f} points in {} iterations\n", result.maximum,
               100 * options.threshold, options.window);
    return;
  }
  fmt::print(
      "Bmin = {}, the first that gains more than {:.2f} points. To train with it:\n"
      "  --set precision.policy=cpt:{}-{}/{}\n",
      *result.minimum, 100 * options.threshold, *result.minimum, result.maximum, result.gradient);
}

void run_train(const TrainArguments& arguments) {
  const StopSignal signal;
  train::TrainOptions options;
  options.stop = StopSignal::requested;
  options.profiles = arguments.profiles;
  MeasureBar measuring(stderr);
  options.measuring = [&](int64_t done, int64_t all) {
    measuring.show(done, all);
    if (StopSignal::requested()) throw CLI::RuntimeError(kInterrupted);  // nothing is trained yet
  };
  train::TrainSummary summary;
  if (arguments.resume.empty()) {
    const train::Recipe recipe = resolve_recipe(arguments);
    const std::string name = fs::path(arguments.recipe).stem().string() + "-" + recipe.precision.policy;
    const fs::path directory =
        arguments.out.empty() ? free_run_directory("runs", name) : fs::path(arguments.out);
    summary = train::train(recipe, directory, options);
  } else {
    summary = train::resume(arguments.resume, options, arguments.epochs);
  }
  if (summary.finished && !summary.evaluation) {
    fmt::print(
        "{} was finished already: {} epochs, best accuracy {:.2f} %. To train on:\n"
        "  bitdial train --resume {} --epochs {}\n",
        summary.directory.string(), summary.epochs, 100 * summary.best_accuracy, summary.directory.string(),
        2 * summary.epochs);
    return;
  }
  if (summary.profile) fmt::print("{}", profile_table(*summary.profile));
  if (!summary.finished) {
    fmt::print("stopped after {} steps; everything is saved. Go on with:\n  bitdial train --resume {}\n",
               summary.steps, summary.directory.string());
    std::fflush(stdout);
    throw CLI::RuntimeError(kInterrupted);
  }
  print_summary(summary);
}

void print_evaluation(const train::EvaluationReport& report) {
  fmt::print("{} after {} epochs on the {} test images of {}\n\n", report.checkpoint.string(), report.epochs,
             report.quantized.images, report.data);
  Table table({"precision", "accuracy %", "loss"});
  const auto add = [&](const std::string& name, const train::Evaluation& result) {
    table.add({name, fmt::format("{:.2f}", 100 * result.accuracy), fmt::format("{:.4f}", result.loss)});
  };
  add(fmt::format("{} ({})", report.policy, report.arithmetic), report.quantized);
  if (report.final) add(fmt::format("{}, final precision", report.policy), *report.final);
  add("float32, same weights", report.float32);
  fmt::print("{}", table.text());
}

void run_export(const std::string& from, const std::string& to, bool best) {
  const fs::path source = train::find_checkpoint(from, best);
  const train::Checkpoint checkpoint = train::read_trained_network(source).checkpoint;
  const train::TensorFile weights = checkpoint.tensors_under("model.");
  require(!weights.tensors.empty(), "export", "{} holds no weights", source.string());
  train::write_weights(to, weights);
  fmt::print("{} tensors of {} written to {}\n", weights.tensors.size(), checkpoint.network.model, to);
}

}  // namespace

namespace {

void add_range_test_options(CLI::App& command, TrainArguments& arguments, CLI::Option& resume) {
  CLI::Option* const flag =
      command.add_flag("--range-test", arguments.tests_range,
                       "Policy cpt: do not train, but find the lowest precision that learns (its Bmin)");
  flag->excludes(&resume);
  command.add_option("--range-test-start", arguments.range_test.start, "First precision in bits; default: 2")
      ->needs(flag);
  command
      .add_option("--range-test-window", arguments.range_test.window,
                  "Iterations at each precision; default: 100")
      ->needs(flag);
  command
      .add_option("--range-test-threshold", arguments.range_test.threshold,
                  "Rise of the training accuracy (0 .. 1) that counts as learning; default: 0.01")
      ->needs(flag);
}

}  // namespace

void add_train_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("train", "Train a network as a recipe says, or go on with a run");
  const auto arguments = std::make_shared<TrainArguments>();
  auto* recipe =
      command->add_option("RECIPE", arguments->recipe, "A TOML file, or the name of a shipped recipe");
  auto* resume = command->add_option("--resume", arguments->resume, "Go on with the run in this directory");
  resume->excludes(recipe);
  const auto add = [&](const char* name, auto& value, const char* help) {
    command->add_option(name, value, help)->excludes(resume);
  };
  add("--policy", arguments->policy,
      "Precision policy: apt, static:8/8/8, float32, ... (`bitdial policies`)");
  add("--gradient-policy", arguments->gradient_policy,
      "Another policy for the gradients dY (apt, static:8/8/16, ...)");
  add("--arithmetic", arguments->arithmetic, "integer (real int8/int16 GEMMs) or simulated");
  command->add_option("--epochs", arguments->epochs,
                      "Short for --set train.epochs=N; with --resume: epochs in all, earlier ones included");
  add("--seed", arguments->seed, "Of initial weights, data order and stochastic rounding");
  add("--threads", arguments->threads, "Threads of the computation; default: all");
  add("--data-dir", arguments->data_dir, "Folder of the data set");
  add("--out", arguments->out, "Run directory; default: runs/<recipe>-<policy>-<n>");
  add("--fold", arguments->fold,
      "k/K: hold out the k-th (from 1) of K stratified folds of the training images as validation");
  add("--init", arguments->init, "Start from a PyTorch state dict (.pt, .pth) or safetensors");
  command->add_flag("--profile", arguments->profiles,
                    "At the end, show where the time of a step went by layer and phase");
  add_range_test_options(*command, *arguments, *resume);
  command
      ->add_option("--set", arguments->settings,
                   "Change a key of the recipe, e.g. --set optimizer.momentum=0.8")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false)
      ->excludes(resume);
  command->callback([arguments, command] {
    if (arguments->recipe.empty() && arguments->resume.empty()) {
      throw CLI::RequiredError("RECIPE or --resume DIR");
    }
    arguments->tests_range ? run_range_test(*arguments) : run_train(*arguments);
  });
}

void add_eval_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("eval", "Evaluate a run or checkpoint in its stored precision, float32 beside it");
  struct Arguments {
    std::string path;
    std::string data_dir;
    train::EvaluateOptions options;
  };
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("RUN", arguments->path, "Run directory, checkpoint or quantised network")->required();
  command->add_option("--data-dir", arguments->data_dir, "Folder of the data set; default: the recipe's");
  command->add_option("--threads", arguments->options.threads, "Threads; default: the recipe's");
  command->add_flag("--best", arguments->options.best, "The best checkpoint of a run, not the newest");
  command->callback([arguments] {
    if (!arguments->data_dir.empty()) arguments->options.data_directory = arguments->data_dir;
    print_evaluation(train::evaluate_checkpoint(arguments->path, arguments->options));
  });
}

void add_export_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("export", "Write weights that PyTorch reads");
  struct Arguments {
    std::string from, to;
    bool best = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("RUN", arguments->from, "Run directory, checkpoint or quantised network")->required();
  command->add_option("FILE", arguments->to, "To write: .pt or .pth (state dict), or .safetensors")
      ->required();
  command->add_flag("--best", arguments->best, "The best checkpoint of a run, not the newest");
  command->callback([arguments] { run_export(arguments->from, arguments->to, arguments->best); });
}

}  // namespace bitdial::cli
