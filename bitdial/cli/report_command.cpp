// bitdial report: what runs came to.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "bitdial/cli/command.h"
#include "bitdial/cli/json_file.h"
#include "bitdial/cli/table.h"
#include "bitdial/train/run_report.h"

namespace bitdial::cli {

namespace {

struct ReportArguments {
  std::vector<std::string> runs;
  bool without_layers = false;
  std::string json_file;
};

std::string percent_text(const std::optional<double>& share) {
  return share ? fmt::format("{:.2f} %", 100.0 * *share) : "-";
}

std::string shares_text(const std::map<std::string, double>& shares) {
  std::string text;
  for (const auto& [name, percent] : shares)
    text += fmt::format("{}{} {:.2f} %", text.empty() ? "" : ", ", name, percent);
  return text;
}

std::string bits_text(double one, double other) {
  return one == other ? fmt::format("{:g}", one) : fmt::format("{:g},{:g}", one, other);
}

void print_layers(const train::RunReport& report) {
  Table table({"layer", "MACs", "W", "X", "dY", "FPROP", "BPROP", "WTGRAD"});
  for (const train::LayerReport& layer : report.layers) {
    const auto name = [&](Gemm gemm) {
      const std::string& text = layer.arithmetic[static_cast<size_t>(gemm)];
      return text.empty() ? std::string("-") : text;
    };
    table.add({layer.name, grouped(layer.macs), fmt::format("{:g}", layer.bits.w),
               bits_text(layer.bits.x, layer.bits.x_wtgrad),
               bits_text(layer.bits.dy_bprop, layer.bits.dy_wtgrad), name(Gemm::kFprop), name(Gemm::kBprop),
               name(Gemm::kWtgrad)});
  }
  fmt::print("Bits and arithmetic of every GEMM at the end\n{}\n", table.text());
}

void print_run(const std::string& run, const train::RunReport& report, bool with_layers) {
  const cost::CostTotals& totals = report.cost.totals;
  const auto bits = [](const cost::MeanBits& mean) {
    return fmt::format("W {:.3f}, X {:.3f}, dY {:.3f}", mean.w, mean.x, mean.dy);
  };
  fmt::print("{}: {} on {}, policy {}, {} arithmetic, {} epochs, {} steps{}\n", run, report.model,
             report.data, report.policy, report.arithmetic, report.epochs, report.steps,
             report.finished ? "" : ", not finished");
  fmt::print("  test accuracy       best {}, last {}\n", percent_text(report.best_accuracy),
             percent_text(report.last_accuracy));
  if (report.last_final_accuracy) {
    fmt::print("  in final precision  best {}, last {}\n", percent_text(report.best_final_accuracy),
               percent_text(report.last_final_accuracy));
  }
  fmt::print("  mean bits           {}\n", bits(totals.mean_bits));
  fmt::print("  weighted by MACs    {}\n", bits(totals.mean_bits_by_macs));
  fmt::print("  BitOPs, analytic    {:.4f} of FW8/BW8, {:.4f} of float32 (actual widths {:.4f}, {:.4f})\n",
             totals.ratio_fw8bw8, totals.ratio_float32, totals.ratio_fw8bw8_actual,
             totals.ratio_float32_actual);
  fmt::print("  model size          {:.4f} of float32\n", totals.size_ratio);
  fmt::print("  MACs of all steps   {}\n", shares_text(report.macs_percent));
  if (report.images_per_s) fmt::print("  measured            {:.1f} images/s\n", *report.images_per_s);
  fmt::print("\n");
  if (with_layers) print_layers(report);
}

void run_report(const ReportArguments& arguments) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const std::string& run : arguments.runs) {
    const train::RunReport report = train::report_run(run);
    print_run(run, report, !arguments.without_layers);
    json.push_back({{"run", run}});
    json.back().update(to_json(report));
  }
  if (!arguments.json_file.empty()) write_json_file(arguments.json_file, json, "report");
}

}  // namespace

void add_report_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("report", "Accuracy, bits, cost and the arithmetic of every GEMM of runs");
  const auto arguments = std::make_shared<ReportArguments>();
  command->add_option("RUN", arguments->runs, "Run directories")->required();
  command->add_flag("--no-layers", arguments->without_layers, "Without the table of layers");
  command->add_option("--json", arguments->json_file, "Write a list with one object per run to this file");
  command->callback([arguments] { run_report(*arguments); });
}

}  // namespace bitdial::cli
