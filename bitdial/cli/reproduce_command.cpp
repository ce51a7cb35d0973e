// bitdial reproduce: published costs beside ours.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "bitdial/cli/command.h"
#include "bitdial/cli/json_file.h"
#include "bitdial/cli/table.h"
#include "bitdial/core/error.h"
#include "bitdial/train/reproduce.h"

namespace bitdial::cli {

namespace {

struct ReproduceArguments {
  std::string name;
  bool lists = false;
  bool cost_only = false;
  std::string json_file;
};

std::string number_text(double value) {
  const bool is_whole = value == std::floor(value) && std::fabs(value) < 1e12;
  return is_whole ? fmt::format("{:.0f}", value) : fmt::format("{:.6g}", value);
}

std::string relative_text(const train::ReproducedCell& cell) {
  return cell.paper == 0.0 ? "" : fmt::format("{:+.2f} %", 100.0 * cell.difference() / cell.paper);
}

void print_groups() {
  Table table({"group", "compares", "tolerance"});
  for (const train::ReproducedGroup& group : train::reproduced_groups())
    table.add({std::string(group.name), std::string(group.title), std::string(group.within)});
  fmt::print("{}\nbitdial reproduce NAME --cost-only, or all\n", table.text());
}

/// Prints one group and appends its cells; the number of those that are out.
int64_t compare(const train::ReproducedGroup& group, nlohmann::ordered_json& json) {
  int64_t out = 0;
  Table table({std::string(group.name), "paper", "ours", "difference", "relative", "tolerance", ""});
  for (const train::ReproducedCell& cell : group.cells()) {
    out += cell.ok() ? 0 : 1;
    table.add({cell.name, number_text(cell.paper), number_text(cell.ours),
               fmt::format("{:+.3g}", cell.difference()), relative_text(cell),
               fmt::format("{:.3g}", cell.tolerance), cell.ok() ? "ok" : "OUT"});
    json.push_back(to_json(group, cell));
  }
  fmt::print("{} (within {})\n\n{}\n", group.title, group.within, table.text());
  return out;
}

void run_reproduce(const ReproduceArguments& arguments) {
  if (arguments.lists) return print_groups();
  const bool is_all = arguments.name == "all";
  if (!is_all) train::reproduced_group(arguments.name);
  require(
      arguments.cost_only, "reproduce",
      "costs are what this command reproduces: add --cost-only; trainings are `bitdial train` with a recipe "
      "of the paper");
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  int64_t out = 0;
  for (const train::ReproducedGroup& group : train::reproduced_groups())
    if (is_all || group.name == arguments.name) out += compare(group, json);
  if (!arguments.json_file.empty()) write_json_file(arguments.json_file, json, "reproduce");
  fmt::print("{} cells, {} out of their tolerance\n", json.size(), out);
  if (out == 0) return;
  std::fflush(stdout);
  throw CLI::RuntimeError(1);
}

}  // namespace

void add_reproduce_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("reproduce", "Published costs beside what bitdial computes");
  const auto arguments = std::make_shared<ReproduceArguments>();
  auto* name = command->add_option("NAME", arguments->name, "A group of --list, or all");
  command->add_flag("--list", arguments->lists, "Name the groups")->excludes(name);
  command->add_flag("--cost-only", arguments->cost_only, "Compare costs; nothing is trained");
  command->add_option("--json", arguments->json_file,
                      "Write every cell (name, paper, ours, difference, tolerance, ok) to this file");
  command->callback([arguments] {
    if (arguments->name.empty() && !arguments->lists) throw CLI::RequiredError("NAME or --list");
    run_reproduce(*arguments);
  });
}

}  // namespace bitdial::cli
