// bitdial demo: one network trained twice on the embedded data set, in adaptive integer precision and in
// float32.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "bitdial/cli/command.h"
#include "bitdial/cli/recipe_files.h"
#include "bitdial/cli/stop_signal.h"
#include "bitdial/cli/table.h"
#include "bitdial/train/recipe.h"
#include "bitdial/train/trainer.h"

namespace bitdial::cli {

namespace {

struct DemoArguments {
  std::string out = "runs";
  std::optional<int64_t> epochs;
  std::optional<int64_t> train_images;
  std::optional<int64_t> threads;
};

train::Recipe demo_recipe(const DemoArguments& arguments, const std::string& policy) {
  train::Recipe recipe = train::load_recipe(find_recipe("shapes-resnet20"));
  train::set_recipe_value(recipe, "precision.policy=" + policy);
  recipe.train.epochs = arguments.epochs.value_or(recipe.train.epochs);
  recipe.train.threads = arguments.threads.value_or(recipe.train.threads);
  recipe.data.train_images = arguments.train_images.value_or(recipe.data.train_images);
  train::check_recipe(recipe);
  return recipe;
}

std::string percent(double share) { return fmt::format("{:.0f} %", 100 * share); }

void run_demo(const DemoArguments& arguments) {
  const StopSignal signal;
  Table table({"policy", "accuracy", "time", "bits W", "bits A", "bits dY", "int8", "int16", "float",
               "run directory"});
  for (const std::string policy : {"apt", "float32"}) {
    train::TrainOptions options;
    options.stop = StopSignal::requested;
    const auto summary = train::train(demo_recipe(arguments, policy),
                                      free_run_directory(arguments.out, "demo-" + policy), options);
    if (!summary.finished) {
      fmt::print("stopped; go on with:\n  bitdial train --resume {}\n", summary.directory.string());
      throw CLI::RuntimeError(kInterrupted);
    }
    const auto& precision = summary.precision;
    table.add({policy, fmt::format("{:.1f} %", 100 * summary.evaluation->accuracy),
               train::format_duration(summary.seconds), fmt::format("{:.1f}", precision.bits_w),
               fmt::format("{:.1f}", precision.bits_a), fmt::format("{:.1f}", precision.bits_dy),
               percent(precision.int8_layers), percent(precision.int16_layers),
               percent(precision.float_layers), summary.directory.string()});
  }
  fmt::print(
      "\nResNet-20 on the generated data set shapes; same recipe, same seed. Bits are means over layers\n"
      "of weights (W), activations (A) and gradients (dY) at the end; int8, int16 and float are\n"
      "shares of layers by their widest operand.\n\n{}",
      table.text());
}

}  // namespace

void add_demo_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("demo", "Train on the embedded data set in adaptive precision and in float32");
  const auto arguments = std::make_shared<DemoArguments>();
  command->add_option("--out", arguments->out, "Folder of the run directories")->capture_default_str();
  command->add_option("--epochs", arguments->epochs, "Epochs of each run; default: the recipe's");
  command->add_option("--train-images", arguments->train_images, "Training images; default: all");
  command->add_option("--threads", arguments->threads, "Threads; default: all");
  command->callback([arguments] { run_demo(*arguments); });
}

}  // namespace bitdial::cli
