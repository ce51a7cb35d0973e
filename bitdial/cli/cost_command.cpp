// bitdial cost: the analytic cost of a training, without training or from a run's logs.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "bitdial/cli/command.h"
#include "bitdial/cli/json_file.h"
#include "bitdial/cli/table.h"
#include "bitdial/core/error.h"
#include "bitdial/train/cost_estimate.h"

namespace bitdial::cli {

namespace {

struct CostArguments {
  train::CostRequest request;
  std::string run;
  std::string convention = "paper";
  std::string json_file;
};

std::string mb_text(int64_t bytes) { return fmt::format("{:.2f} MB", static_cast<double>(bytes) / 1e6); }

void print_costs(const train::CostEstimate& estimate) {
  const cost::CostTotals& totals = estimate.totals;
  Table table({"convention", "GBitOPs", "to FW8/BW8", "to float32"});
  table.add({"paper", fmt::format("{:.4e}", totals.gbitops), fmt::format("{:.4f}", totals.ratio_fw8bw8),
             fmt::format("{:.4f}", totals.ratio_float32)});
  table.add({"actual", fmt::format("{:.4e}", totals.gbitops_actual),
             fmt::format("{:.4f}", totals.ratio_fw8bw8_actual),
             fmt::format("{:.4f}", totals.ratio_float32_actual)});
  fmt::print("{}\n", table.text());
}

void print_bits(const train::CostEstimate& estimate) {
  Table table({"mean bits", "w", "x", "dy"});
  const auto add = [&](const char* name, const cost::MeanBits& bits) {
    table.add(
        {name, fmt::format("{:.3f}", bits.w), fmt::format("{:.3f}", bits.x), fmt::format("{:.3f}", bits.dy)});
  };
  add("over layers", estimate.totals.mean_bits);
  add("weighted by MACs", estimate.totals.mean_bits_by_macs);
  fmt::print("{}\n", table.text());
}

void print_memory(const train::CostEstimate& estimate, const nlohmann::ordered_json& bytes) {
  const cost::CostTotals& totals = estimate.totals;
  Table table({"at the end", "as trained", "float32"});
  table.add({"weights in memory", mb_text(bytes.at("weights")), mb_text(bytes.at("weights_float32"))});
  table.add({fmt::format("inputs kept for WTGRAD, batch {}", estimate.batch),
             mb_text(bytes.at("activations")), mb_text(bytes.at("activations_float32"))});
  table.add({"model size, packed bits", fmt::format("{:.4f}", totals.size_ratio), "1"});
  table.add({"inference BitOPs to FW8", fmt::format("{:.4f}", inference_ratio(estimate)), "16"});
  fmt::print(
      "{}\nAdaPT's model, dense weights, free searches: training speedup {:.3f}, memory {:.3f} of "
      "float32's\n",
      table.text(), totals.training_speedup, totals.memory_ratio);
}

void run_cost(const CostArguments& arguments) {
  require(arguments.run.empty() != arguments.request.model.empty(), "cost",
          "name a network with --model, or a run with --run");
  const train::CostEstimate estimate =
      arguments.run.empty() ? train::estimate_cost(arguments.request) : train::cost_of_run(arguments.run);
  const auto convention =
      arguments.convention == "paper" ? cost::Convention::kPaper : cost::Convention::kActual;
  const nlohmann::ordered_json json = to_json(estimate, convention);
  fmt::print("{}, policy {}{}{}, {} iterations of {} samples\n", estimate.model, estimate.policy,
             estimate.bits.empty() ? "" : " ", estimate.bits, estimate.totals.steps, estimate.batch);
  fmt::print("MACs {}, M* {} (MACs, 2 per output of batch normalisation, pool)\n\n",
             grouped(json.at("macs").get<int64_t>()), grouped(json.at("m_star").get<int64_t>()));
  print_costs(estimate);
  print_bits(estimate);
  print_memory(estimate, json.at("bytes"));
  fmt::print("Analytic costs, not times (docs/cost.md); `bitdial plan` and `bitdial bench` measure.\n");
  if (!arguments.json_file.empty()) write_json_file(arguments.json_file, json, "cost");
}

}  // namespace

void add_cost_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("cost", "Analytic cost of a training in bit operations, before it or of a run");
  const auto arguments = std::make_shared<CostArguments>();
  train::CostRequest& request = arguments->request;
  auto* run = command->add_option("--run", arguments->run, "Directory of a run: what it has cost");
  const auto add = [&](const char* name, auto& value, const char* help) {
    return command->add_option(name, value, help)->excludes(run);
  };
  add("--model", request.model, "A network of `bitdial models`");
  add("--policy", request.policy, "static, sbm, cpt, random, pfq, schedule, float32 or bf16")
      ->capture_default_str();
  add("--bits", request.bits,
      "static 8/8/8 (W/A/G) or 8/8 (F/G); cpt 3-8/8; random 4,6,8/8; pfq 3,4,6,8/6,6,8,8; schedule: a file");
  add("--classes", request.options.classes, "Classes; default: 1000 for ImageNet's networks, otherwise 10");
  add("--iterations", request.iterations, "Optimiser steps")->capture_default_str();
  add("--batch", request.batch, "Samples per step")->capture_default_str();
  add("--cycles", request.cycles, "cpt: ramps of the precision")->capture_default_str();
  add("--switch", request.switches, "pfq: first iteration of each later stage")->delimiter(',');
  command
      ->add_option("--convention", arguments->convention,
                   "Of the JSON file. paper: normalisation, depth-wise and float32 layers charged like all "
                   "others; actual: at their real widths")
      ->check(CLI::IsMember({"paper", "actual"}))
      ->capture_default_str();
  command->add_option("--json", arguments->json_file, "Write the numbers to this file");
  command->callback([arguments, command] {
    const std::string& model = arguments->request.model;
    if (command->count("--classes") == 0 && model.ends_with("imagenet"))
      arguments->request.options.classes = 1000;
    run_cost(*arguments);
  });
}

}  // namespace bitdial::cli
