// bitdial reproduce: published costs, and on request published accuracies, beside ours.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "bitdial/cli/background.h"
#include "bitdial/cli/command.h"
#include "bitdial/cli/json_file.h"
#include "bitdial/cli/recipe_files.h"
#include "bitdial/cli/stop_signal.h"
#include "bitdial/cli/table.h"
#include "bitdial/core/error.h"
#include "bitdial/train/reproduce.h"
#include "bitdial/train/reproduce_training.h"

namespace bitdial::cli {

namespace fs = std::filesystem;

namespace {

struct ReproduceArguments {
  std::string name;
  bool lists = false;
  bool cost_only = false;
  bool in_background = false;
  std::optional<int64_t> epochs;
  int64_t seeds = 1;
  std::string only;
  std::string out = "runs/reproduce";
  std::string data_dir;
  std::vector<std::string> settings;
  std::string json_file;
  double tolerance = 1.0;
};

std::string number_text(double value) {
  const bool is_whole = value == std::floor(value) && std::fabs(value) < 1e12;
  return is_whole ? fmt::format("{:.0f}", value) : fmt::format("{:.6g}", value);
}

std::string relative_text(const train::ReproducedCell& cell) {
  return cell.paper == 0.0 ? "" : fmt::format("{:+.2f} %", 100.0 * cell.difference() / cell.paper);
}

void print_groups() {
  Table table({"group", "compares", "tolerance", "trainings"});
  for (const train::ReproducedGroup& group : train::reproduced_groups()) {
    const size_t trainings = train::reproduced_trainings(group.name).size();
    table.add({std::string(group.name), std::string(group.title), std::string(group.within),
               trainings == 0 ? "" : std::to_string(trainings)});
  }
  fmt::print("{}\nbitdial reproduce NAME --cost-only, or all; without --cost-only the trainings run, too\n",
             table.text());
}

/// Prints one group and appends its cells; the number of those that are out.
int64_t compare(const train::ReproducedGroup& group, double tolerance, nlohmann::ordered_json& json) {
  int64_t out = 0;
  Table table({std::string(group.name), "paper", "ours", "difference", "relative", "tolerance", ""});
  for (train::ReproducedCell cell : group.cells()) {
    cell.tolerance *= tolerance;
    out += cell.ok() ? 0 : 1;
    table.add({cell.name, number_text(cell.paper), number_text(cell.ours),
               fmt::format("{:+.3g}", cell.difference()), relative_text(cell),
               fmt::format("{:.3g}", cell.tolerance), cell.ok() ? "ok" : "OUT"});
    json.push_back(to_json(group, cell));
  }
  fmt::print("{} (within {})\n\n{}\n", group.title, group.within, table.text());
  return out;
}

train::Recipe recipe_of(const train::ReproducedTraining& training, const ReproduceArguments& arguments) {
  train::Recipe recipe = train::load_recipe(find_recipe(training.recipe));
  for (const std::string& setting : training.settings) train::set_recipe_value(recipe, setting);
  for (const std::string& setting : arguments.settings) train::set_recipe_value(recipe, setting);
  if (!arguments.data_dir.empty()) recipe.data.directory = arguments.data_dir;
  train::check_recipe(recipe);
  return recipe;
}

void print_scaling(const std::vector<train::ScaledConstant>& changes) {
  for (const train::ScaledConstant& change : changes)
    fmt::print("  {}: {} instead of {}\n", change.key, change.scaled, change.published);
}

std::string file_name(std::string text) {
  for (char& c : text)
    if (c == ' ' || c == '/' || c == ',') c = '-';
  return text;
}

train::TrainedRow train_row(const train::ReproducedGroup& group, const train::ReproducedTraining& training,
                            const ReproduceArguments& arguments, int64_t& epochs) {
  train::Recipe recipe = recipe_of(training, arguments);
  fmt::print("{}: {}, recipe {}\n", group.name, training.name, training.recipe);
  if (arguments.epochs)
    print_scaling(train::scale_recipe(recipe, *arguments.epochs, train::steps_per_epoch(recipe)));
  epochs = recipe.train.epochs;
  std::fflush(stdout);
  train::TrainOptions options;
  options.stop = StopSignal::requested;
  train::TrainedRow row;
  const int64_t first = recipe.train.seed;
  for (recipe.train.seed = first; recipe.train.seed < first + arguments.seeds; ++recipe.train.seed) {
    const fs::path directory = fs::path(arguments.out) / group.name / file_name(training.name) /
                               fmt::format("seed-{}", recipe.train.seed);
    if (!train::train_or_resume(recipe, directory, options).finished) {
      fmt::print("stopped; everything is saved. The same command goes on.\n");
      std::fflush(stdout);
      throw CLI::RuntimeError(kInterrupted);
    }
    row.add(directory);
  }
  return row;
}

/// Trains the rows of a group and appends their accuracies.
void compare_accuracies(const train::ReproducedGroup& group, const ReproduceArguments& arguments,
                        nlohmann::ordered_json& json) {
  Table table({std::string(group.name), "paper %", "ours, best %", "difference", "last %",
               "BitOPs to FW8/BW8", "epochs", "measured images/s"});
  int64_t rows = 0;
  for (const train::ReproducedTraining& training : train::reproduced_trainings(group.name)) {
    if (training.name.find(arguments.only) == std::string::npos) continue;
    int64_t epochs = 0;
    const train::TrainedRow row = train_row(group, training, arguments, epochs);
    const double ours = row.mean_best();
    table.add({training.name, fmt::format("{:.2f}", training.accuracy), fmt::format("{:.2f}", ours),
               fmt::format("{:+.2f}", ours - training.accuracy), fmt::format("{:.2f}", row.mean_last()),
               fmt::format("{:.4f}", row.ratio_fw8bw8), std::to_string(epochs),
               fmt::format("{:.1f}", row.images_per_s)});
    json.push_back(to_json(group.name, training, row, epochs));
    ++rows;
  }
  if (rows == 0) return fmt::print("{}: nothing to train\n\n", group.name);
  fmt::print("Accuracies of {} (seeds of each row: {}); reported, not judged\n\n{}\n", group.name,
             arguments.seeds, table.text());
}

void run_reproduce(const ReproduceArguments& arguments) {
  if (arguments.lists) return print_groups();
  const bool is_all = arguments.name == "all";
  if (!is_all) train::reproduced_group(arguments.name);
  require(!arguments.in_background || !arguments.cost_only, "reproduce",
          "--background is for trainings, not for --cost-only");
  if (arguments.in_background)
    return run_in_background(fs::path(arguments.out) / (arguments.name + ".log"), "--background");
  const StopSignal signal;
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  int64_t out = 0;
  for (const train::ReproducedGroup& group : train::reproduced_groups())
    if (is_all || group.name == arguments.name) out += compare(group, arguments.tolerance, json);
  const size_t cells = json.size();
  const auto write = [&] {
    if (!arguments.json_file.empty()) write_json_file(arguments.json_file, json, "reproduce");
  };
  write();
  for (const train::ReproducedGroup& group : train::reproduced_groups()) {
    if (arguments.cost_only || !(is_all || group.name == arguments.name)) continue;
    compare_accuracies(group, arguments, json);
    write();
  }
  fmt::print("{} cells of costs, {} out of their tolerance\n", cells, out);
  if (out == 0) return;
  std::fflush(stdout);
  throw CLI::RuntimeError(1);
}

}  // namespace

void add_reproduce_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("reproduce", "Published costs and accuracies beside what bitdial comes to");
  const auto arguments = std::make_shared<ReproduceArguments>();
  auto* name = command->add_option("NAME", arguments->name, "A group of --list, or all");
  command->add_flag("--list", arguments->lists, "Name the groups")->excludes(name);
  auto* cost_only =
      command->add_flag("--cost-only", arguments->cost_only, "Compare costs; nothing is trained");
  const auto add = [&](const char* option, auto& value, const char* help) {
    return command->add_option(option, value, help)->excludes(cost_only);
  };
  add("--epochs", arguments->epochs,
      "Train so long instead of as published; constants that count steps shrink with it and are printed")
      ->check(CLI::PositiveNumber);
  add("--seeds", arguments->seeds, "Runs of each row, with seeds from the recipe's on")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  add("--only", arguments->only, "Train only rows whose names contain this, e.g. \"ResNet-38\"");
  add("--out", arguments->out, "Folder of the runs; a stopped training there goes on")->capture_default_str();
  add("--data-dir", arguments->data_dir, "Folder of the data, in place of the recipes'");
  add("--set", arguments->settings, "Change a key of the recipes, e.g. train.threads=2 (repeatable)");
  command->add_flag("--background", arguments->in_background,
                    "Train in a process of its own that outlives this terminal; its output goes to "
                    "<out>/NAME.log");
  command
      ->add_option("--tolerance", arguments->tolerance,
                   "Multiply the tolerances of all cells; 0: only equal numbers pass")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--json", arguments->json_file,
                      "Write every cell (name, paper, ours, difference, tolerance, ok) to this file");
  command->callback([arguments] {
    if (arguments->name.empty() && !arguments->lists) throw CLI::RequiredError("NAME or --list");
    run_reproduce(*arguments);
  });
}

}  // namespace bitdial::cli
