// bitdial report: what runs came to.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "bitdial/cli/command.h"
#include "bitdial/cli/json_file.h"
#include "bitdial/cli/table.h"
#include "bitdial/train/run_average.h"
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

std::string spread_text(const std::optional<train::Spread>& spread, double factor = 1.0,
                        const char* unit = "") {
  if (!spread) return "-";
  return fmt::format("{:.4g} +- {:.2g}{}", factor * spread->mean, factor * spread->deviation, unit);
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
  fmt::print("{}: {} on {}, policy {}, {} arithmetic, seed {}{}, {} epochs, {} steps{}\n", run, report.model,
             report.data, report.policy, report.arithmetic, report.seed,
             report.fold.empty() ? "" : ", fold " + report.fold, report.epochs, report.steps,
             report.finished ? "" : ", not finished");
  fmt::print("  test accuracy       best {}, last {}\n", percent_text(report.best_accuracy),
             percent_text(report.last_accuracy));
  if (report.last_final_accuracy) {
    fmt::print("  in final precision  best {}, last {}\n", percent_text(report.best_final_accuracy),
               percent_text(report.last_final_accuracy));
  }
  if (report.last_validation_accuracy) {
    fmt::print("  validation          best {}, last {}\n", percent_text(report.best_validation_accuracy),
               percent_text(report.last_validation_accuracy));
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

void print_average(const train::RunAverage& average, const std::vector<std::string>& names) {
  fmt::print("Mean +- standard deviation of {} runs that differ in seed or fold alone:", average.runs.size());
  for (const size_t run : average.runs) fmt::print(" {}", names[run]);
  const auto accuracy = [](const char* what, const auto& best, const auto& last) {
    if (last)
      fmt::print("  {:<20}best {}, last {}\n", what, spread_text(best, 100, " %"),
                 spread_text(last, 100, " %"));
  };
  fmt::print("\n");
  accuracy("test accuracy", average.best_accuracy, average.last_accuracy);
  accuracy("in final precision", average.best_final_accuracy, average.last_final_accuracy);
  accuracy("validation", average.best_validation_accuracy, average.last_validation_accuracy);
  fmt::print("  mean bits           W {}, X {}, dY {}\n", spread_text(average.bits_w),
             spread_text(average.bits_x), spread_text(average.bits_dy));
  fmt::print("  BitOPs, analytic    {} of FW8/BW8, {} of float32\n", spread_text(average.ratio_fw8bw8),
             spread_text(average.ratio_float32));
  fmt::print("  model size          {} of float32\n\n", spread_text(average.size_ratio));
}

void run_report(const ReportArguments& arguments) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  std::vector<train::RunReport> reports;
  for (const std::string& run : arguments.runs) {
    const train::RunReport& report = reports.emplace_back(train::report_run(run));
    print_run(run, report, !arguments.without_layers);
    json.push_back({{"run", run}});
    json.back().update(to_json(report));
  }
  for (const train::RunAverage& average : train::average_runs(reports)) {
    print_average(average, arguments.runs);
    json.push_back(to_json(average, arguments.runs));
  }
  if (!arguments.json_file.empty()) write_json_file(arguments.json_file, json, "report");
}

}  // namespace

void add_report_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "report", "Accuracy, bits, cost and the arithmetic of every GEMM of runs; means over seeds and folds");
  const auto arguments = std::make_shared<ReportArguments>();
  command->add_option("RUN", arguments->runs, "Run directories")->required();
  command->add_flag("--no-layers", arguments->without_layers, "Without the table of layers");
  command->add_option("--json", arguments->json_file,
                      "Write a list with one object per run, and per mean of runs, to this file");
  command->callback([arguments] { run_report(*arguments); });
}

}  // namespace bitdial::cli
