// bitdial plan: what a training step costs on this machine, layer by layer.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "bitdial/cli/command.h"
#include "bitdial/cli/json_file.h"
#include "bitdial/cli/measure_bar.h"
#include "bitdial/cli/table.h"
#include "bitdial/train/plan.h"
#include "bitdial/train/setup.h"

namespace bitdial::cli {

namespace {

struct PlanArguments {
  std::string model;
  models::Options options;
  int64_t batch = 64;
  int64_t threads = 0;
  std::string json_file;
};

std::string milliseconds(double seconds) { return fmt::format("{:.3f}", 1e3 * seconds); }

void print_layers(const train::StepPlan& plan) {
  std::vector<std::string> head{"layer", "GEMM", "MACs", "kB"};
  for (const GemmArithmetic arithmetic : train::kPlanned)
    head.push_back(fmt::format("{} ms", to_string(arithmetic)));
  head.emplace_back("choice");
  Table table(head);
  for (const train::LayerPlan& layer : plan.layers) {
    for (size_t i = 0; i < layer.gemms.size(); ++i) {
      const train::GemmPlan& gemm = layer.gemms[i];
      const bool is_first = i == 0;
      std::vector<std::string> row{is_first ? layer.name : "", std::string(to_string(gemm.gemm)),
                                   is_first ? grouped(layer.macs) : "",
                                   is_first ? grouped((layer.bytes + 500) / 1000) : ""};
      for (const double seconds : gemm.seconds) row.push_back(milliseconds(seconds));
      row.emplace_back(to_string(gemm.choice));
      table.add(std::move(row));
    }
  }
  fmt::print("{}\n", table.text());
}

void print_totals(const train::StepPlan& plan) {
  Table table({"predicted", "ms"});
  table.add({"GEMMs as chosen, with the passes that make their operands", milliseconds(plan.layer_seconds)});
  for (size_t i = 0; i < train::kPlanned.size(); ++i) {
    table.add(
        {fmt::format("  all in {}", to_string(train::kPlanned[i])), milliseconds(plan.uniform_seconds[i])});
  }
  table.add({"normalisation, activations, optimiser (by memory traffic)", milliseconds(plan.other_seconds)});
  table.add({"training step", milliseconds(plan.step_seconds())});
  fmt::print("{}", table.text());
}

void run_plan(const PlanArguments& arguments) {
  const auto rows = models::layer_table(arguments.model, arguments.options);
  train::configure_threads(arguments.threads);
  auto table = cost::KernelTable::open();
  train::StepPlan plan;
  {
    MeasureBar bar(stderr);
    plan = train::plan_step(rows, arguments.batch, table,
                            [&](int64_t done, int64_t all) { bar.show(done, all); });
  }
  const cost::Machine& machine = table.machine();
  fmt::print("{}, batch {}, {} threads, kernels {}, {}\n\n", arguments.model, arguments.batch,
             machine.threads, machine.isa, machine.cpu);
  print_layers(plan);
  print_totals(plan);
  fmt::print(
      "\nMACs: of one GEMM, whole batch. kB: what the layer's GEMMs read and write as chosen.\n"
      "Times of this machine, kept in {}\n",
      table.cache().empty() ? "memory only" : table.cache().string());
  if (plan.uncertain > 0) {
    fmt::print(
        "{} of them were taken while other work ran on the cores: {}run the command again when it is quiet\n",
        plan.uncertain, table.cache().empty() ? "" : "delete the file and ");
  }
  if (!arguments.json_file.empty()) {
    write_json_file(arguments.json_file, to_json(plan, arguments.model, arguments.batch, machine), "plan");
  }
}

}  // namespace

void add_plan_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "plan", "Predict a training step: MACs, bytes and times per layer, GEMM and arithmetic");
  const auto arguments = std::make_shared<PlanArguments>();
  command->add_option("MODEL", arguments->model, "A network of `bitdial models`")->required();
  command->add_option("--batch", arguments->batch, "Images per step")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--classes", arguments->options.classes, "Classes")->capture_default_str();
  command->add_option("--threads", arguments->threads, "Threads; default: all");
  command->add_option("--json", arguments->json_file, "Write the plan to this file");
  command->callback([arguments] { run_plan(*arguments); });
}

}  // namespace bitdial::cli
