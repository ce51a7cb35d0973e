// bitdial replay: the decisions of a run, taken again from their logged numbers.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "bitdial/cli/command.h"
#include "bitdial/cli/table.h"
#include "bitdial/core/error.h"
#include "bitdial/train/replay.h"

namespace bitdial::cli {

namespace {

constexpr size_t kShown = 20;

void print_differences(const train::ReplayReport& report) {
  Table table({"line", "step", "layer", "tensor", "what", "logged", "replayed"});
  const size_t shown = std::min(report.differences.size(), kShown);
  for (size_t i = 0; i < shown; ++i) {
    const train::ReplayDifference& difference = report.differences[i];
    table.add({std::to_string(difference.line), std::to_string(difference.step), difference.layer,
               difference.tensor, difference.what, difference.logged, difference.replayed});
  }
  fmt::print("{}", table.text());
  if (shown < report.differences.size()) fmt::print("and {} more\n", report.differences.size() - shown);
}

void run_replay(const std::string& run) {
  const train::ReplayReport report = train::replay_run(run);
  require(report.decisions == 0 || report.replayed > 0, "replay",
          "policy {} cannot decide again from what it logs: none of its {} decisions was replayed",
          report.policy, report.decisions);
  if (!report.differences.empty()) print_differences(report);
  fmt::print("policy {}: {} decisions, {} replayed from their numbers, {} differences\n", report.policy,
             report.decisions, report.replayed, report.differences.size());
  if (report.differences.empty()) return;
  std::fflush(stdout);
  throw CLI::RuntimeError(1);
}

}  // namespace

void add_replay_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "replay", "Let the policy of a run decide again from the numbers in its log, and compare");
  const auto run = std::make_shared<std::string>();
  command->add_option("RUN", *run, "Run directory")->required();
  command->callback([run] { run_replay(*run); });
}

}  // namespace bitdial::cli
