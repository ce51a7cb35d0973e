// Costs of AdaPT, MuPPET, APT, FracTrain and LDP.
#include <fmt/format.h>

#include <array>

#include "bitdial/cost/adapt_model.h"
#include "bitdial/cost/apt_throughput.h"
#include "bitdial/cost/bit_operations.h"
#include "bitdial/policies/ldp_rule.h"
#include "bitdial/train/network_charge.h"
#include "bitdial/train/reproduce_cells.h"

namespace bitdial::train::cells {

namespace {

using cost::kPublishedIterations;

// Half a unit of the last printed digit, and the rounding of a float64 beside it.
constexpr double kThirdDigit = 5.001e-4;
constexpr double kFourthDigit = 5.001e-5;

void add_identity(const char* title, double bits, double training, double inference, double size,
                  std::vector<ReproducedCell>& cells) {
  const cost::adapt::Stage stage{bits, 1.0};
  const auto log = cost::adapt::replay({&stage, 1});
  const std::string name = title;
  cells.push_back({name + " SU_train", training, cost::adapt::training_speedup(log), 1e-12});
  cells.push_back({name + " SU_inf", inference, cost::adapt::inference_speedup(log), 1e-12});
  cells.push_back({name + " SZ", size, cost::adapt::model_size(log), 1e-12});
}

void add_replay(const char* title, std::span<const cost::adapt::Stage> stages, double speedup,
                double over_baseline, std::vector<ReproducedCell>& cells) {
  double epochs = 0.0;
  for (const cost::adapt::Stage& stage : stages) epochs += stage.epochs;
  const auto log = cost::adapt::replay(stages);
  const std::string name = title;
  cells.push_back({name + " SU_train", speedup, cost::adapt::training_speedup(log), 1e-3});
  cells.push_back({name + " times 150 / epochs", over_baseline,
                   cost::adapt::speedup_over_muppet_baseline(log, epochs, 128.0), 1e-3});
}

double static_training(const char* model) {
  return cost::training_gbitops(m_star(model, 100), cost::kFw8Bw8Factor);
}

/// LDP's Table 1: 4, 6 and 8 bits rotate over the three stages every 30 of 160 epochs, then 8 bits.
double rotated_training(const std::array<std::array<int, 3>, 3>& phases) {
  models::Options options;
  options.classes = 100;
  const cost::NetworkCharge network = charge_of(models::layer_table("resnet38-cifar", options));
  cost::CostMeter meter(network, cost::kPublishedBatch);
  const auto add = [&](const std::array<int, 3>& stages, int64_t steps) {
    std::vector<LayerBits> bits;
    for (const cost::LayerCharge& layer : network.layers) {
      const bool in_stage = layer.name.starts_with("layer");
      const int forward = in_stage ? stages.at(static_cast<size_t>(layer.name[5] - '1')) : 8;
      bits.push_back(layer.kind == LayerKind::kLinear ? LayerBits{} : LayerBits::shared(forward, 8));
    }
    meter.add(bits, steps);
  };
  for (const auto& stages : phases) add(stages, kPublishedIterations * 30 / 160);
  add({8, 8, 8}, kPublishedIterations * 70 / 160);
  return meter.totals().gbitops;
}

/// Multiply-accumulates and additions of biases of the super-resolution network PAN x4, on a 64x64 image.
double pan_operations() {
  const std::vector<models::LayerRow> rows = models::layer_table("pan-x4");
  return static_cast<double>(models::total_macs(rows) + models::total_bias_adds(rows));
}

/// LDP's Table 2 in expectation: 4, 6 or 8 bits for 90 of 160 epochs, then 8; gradients have 8 bits.
double random_training() {
  double random = 0.0;
  for (const int bits : {4, 6, 8}) random += cost::training_factor(bits, 8) / 3.0;
  const double mean = (90.0 * random + 70.0 * cost::kFw8Bw8Factor) / 160.0;
  return cost::training_gbitops(m_star("resnet38-cifar", 100), mean);
}

}  // namespace

std::vector<ReproducedCell> adapt_model() {
  std::vector<ReproducedCell> cells;
  add_identity("WL 32 everywhere:", 32.0, 1.0, 1.0, 1.0, cells);
  add_identity("WL 8 everywhere:", 8.0, 1.6, 4.0, 0.25, cells);
  const std::array<cost::adapt::Stage, 5> alexnet{{{8, 16}, {12, 10}, {14, 14}, {16, 14}, {32, 45}}};
  const std::array<cost::adapt::Stage, 5> resnet20{{{8, 22}, {12, 22}, {14, 10}, {16, 15}, {32, 45}}};
  add_replay("MuPPET AlexNet, 99 epochs:", alexnet, 1.2009, 1.820, cells);
  add_replay("MuPPET ResNet20, 114 epochs:", resnet20, 1.2349, 1.625, cells);
  return cells;
}

std::vector<ReproducedCell> apt_throughput() {
  std::vector<ReproducedCell> cells;
  const std::array<std::pair<double, double>, 5> cpu{
      {{0.0, 2.40}, {0.12, 2.52}, {0.25, 2.67}, {0.5, 3.00}, {1.0, 4.00}}};
  for (const auto& [p, speedup] : cpu)
    cells.push_back({fmt::format("CPU, p = {}", p), speedup, cost::apt::cpu_speedup(p), 0.005});
  const std::array<std::pair<double, double>, 3> gpu{{{0.0, 1.20}, {0.5, 1.50}, {1.0, 2.00}}};
  for (const auto& [p, speedup] : gpu)
    cells.push_back({fmt::format("GPU, p = {}", p), speedup, cost::apt::gpu_speedup(p), 0.005});
  return cells;
}

std::vector<ReproducedCell> fractrain_options() {
  struct Option {
    int w, a, g;
    double cp, tolerance;
  };
  const std::array<Option, 12> options{{{4, 3, 6, 1.758, kThirdDigit},
                                        {4, 4, 6, 2.083, kThirdDigit},
                                        {4, 4, 8, 2.604, kThirdDigit},
                                        {4, 6, 8, 3.385, kThirdDigit},
                                        {4, 6, 12, 4.688, kThirdDigit},
                                        {6, 3, 6, 2.344, kThirdDigit},
                                        {6, 4, 8, 3.385, kThirdDigit},
                                        {6, 6, 12, 5.859, kThirdDigit},
                                        {6, 8, 16, 8.854, kThirdDigit},
                                        {8, 8, 8, 6.25, 1e-12},
                                        {6, 6, 8, 4.297, kThirdDigit},
                                        {8, 8, 16, 10.417, kThirdDigit}}};
  std::vector<ReproducedCell> cells;
  for (const Option& option : options)
    cells.push_back({fmt::format("cp %, w {}, option ({}, {})", option.w, option.a, option.g), option.cp,
                     cost::fractrain_cost_percent(option.w, option.a, option.g), option.tolerance});
  struct Stage {
    int forward, gradient;
    double ratio;
  };
  const std::array<Stage, 7> stages{{{3, 8, 0.2969},
                                     {4, 8, 0.4167},
                                     {5, 8, 0.5469},
                                     {6, 8, 0.6875},
                                     {3, 6, 0.2344},
                                     {4, 6, 0.3333},
                                     {6, 6, 0.5625}}};
  for (const Stage& stage : stages)
    cells.push_back({fmt::format("stage {}/{} to FW8/BW8", stage.forward, stage.gradient), stage.ratio,
                     cost::training_factor(stage.forward, stage.gradient) / cost::kFw8Bw8Factor,
                     kFourthDigit});
  return cells;
}

std::vector<ReproducedCell> fractrain_macs() {
  struct Row {
    const char* title;
    double cp;
    int64_t iterations;  // until the best epoch, as the printed value implies or the script says
    double macs;         // the constant that the script or table uses
    double paper;
  };
  const std::array<Row, 8> rows{{{"ResNet-38 C10 SBM 8/8", 0.0625, 58890, 0.08349e9, 1.18e14},
                                 {"ResNet-38 C100 SBM 8/8", 0.0625, 34320, 0.08349e9, 6.88e13},
                                 {"ResNet-74 C10 SBM 8/8", 0.0625, 64000, 0.17036e9, 2.62e14},
                                 {"ResNet-74 C100 SBM 8/8", 0.0625, 34320, 0.17036e9, 1.40e14},
                                 {"ResNet-38 C10 DFQ", 0.03, 50700, 0.0849e9, 4.96e13},
                                 {"ResNet-38 C100 DFQ", 0.03, 33540, 0.08349e9, 3.23e13},
                                 {"ResNet-74 C10 DFQ", 0.03, 37440, 0.17e9, 7.33e13},
                                 {"ResNet-74 C100 DFQ", 0.03, 34320, 0.17e9, 6.72e13}}};
  std::vector<ReproducedCell> cells;
  for (const Row& row : rows)
    cells.push_back(
        relative(row.title, row.paper, cost::fractrain_macs(row.cp, row.iterations, row.macs), 5e-3));
  return cells;
}

std::vector<ReproducedCell> ldp_training() {
  std::vector<ReproducedCell> cells;
  for (const char* data : {"CIFAR-100", "CIFAR-10"}) {
    cells.push_back(
        relative(fmt::format("ResNet-38 {}", data), 1.33e8, static_training("resnet38-cifar"), 7e-3));
    cells.push_back(
        relative(fmt::format("ResNet-74 {}", data), 2.67e8, static_training("resnet74-cifar"), 7e-3));
  }
  return cells;
}

std::vector<ReproducedCell> ldp_training_resnet20() {
  std::vector<ReproducedCell> cells;
  for (const char* data : {"CIFAR-100", "CIFAR-10"})
    cells.push_back(
        relative(fmt::format("ResNet-20 {}", data), 0.62e8, static_training("resnet20-cifar"), 5e-2));
  return cells;
}

std::vector<ReproducedCell> ldp_inference() {
  struct Row {
    const char* title;
    const char* model;
    double paper;
  };
  const std::array<Row, 3> rows{{{"ResNet-20", "resnet20-cifar", 1.31},
                                 {"ResNet-38", "resnet38-cifar", 2.69},
                                 {"ResNet-74", "resnet74-cifar", 5.42}}};
  std::vector<ReproducedCell> cells;
  for (const Row& row : rows) {
    const std::array<std::pair<const char*, int64_t>, 2> data{{{"CIFAR-100", 100}, {"CIFAR-10", 10}}};
    for (const auto& [name, classes] : data)
      cells.push_back(relative(
          fmt::format("{} {}", row.title, name), row.paper,
          cost::inference_gbitops(m_star(row.model, classes), 8.0, cost::InferenceConvention::kCifar), 8e-3));
  }
  return cells;
}

std::vector<ReproducedCell> ldp_random() {
  std::vector<ReproducedCell> cells;
  cells.push_back(relative("Table 2, k = 1", 1.10e8, random_training(), 5e-3));
  cells.push_back(relative("Table 2, k = 10", 1.10e8, random_training(), 5e-3));
  using Phases = std::array<std::array<int, 3>, 3>;
  const std::array<std::pair<const char*, Phases>, 3> rows{
      {{"Table 1, [4,6,8] first", {{{4, 6, 8}, {6, 8, 4}, {8, 4, 6}}}},
       {"Table 1, [6,8,4] first", {{{6, 8, 4}, {8, 4, 6}, {4, 6, 8}}}},
       {"Table 1, [8,4,6] first", {{{8, 4, 6}, {4, 6, 8}, {6, 8, 4}}}}}};
  for (const auto& [name, phases] : rows)
    cells.push_back(relative(name, 1.10e8, rotated_training(phases), 5e-3));
  return cells;
}

std::vector<ReproducedCell> ldp_unit() {
  const std::vector<double> x{-1, -0.62, -0.31, -0.05, 0, 0.17, 0.48, 0.83, 1.4};
  const std::vector<double> upstream{0.3, -0.2, 0.5, 0.1, -0.4, 0.25, -0.15, 0.6, -0.1};
  struct Row {
    double beta, bits, step, loss_by_step, step_by_bits, loss_by_beta;
  };
  const std::array<Row, 4> rows{{{0.0, 3, 0.3428571429, -0.2531250, -0.2716005279, +0.3437444181},
                                 {0.2, 4, 0.16, -0.2781250, -0.1182971188, +0.1645069309},
                                 {0.5, 6, 0.0380952381, +0.0718750, -0.0268247435, -0.0096401422},
                                 {1.0, 8, 0.0094117647, -0.2781250, -0.0065493215, +0.0091076502}}};
  std::vector<ReproducedCell> cells;
  for (const Row& row : rows) {
    const auto ours = policies::ldp::beta_gradient(x, upstream, row.beta, {.min = 3, .max = 8});
    const std::string name = fmt::format("beta {}: ", row.beta);
    cells.push_back({name + "bits", row.bits, static_cast<double>(ours.bits), 0.0});
    cells.push_back({name + "s", row.step, ours.step, 1e-9});
    cells.push_back({name + "dL/ds", row.loss_by_step, ours.loss_by_step, 1e-9});
    cells.push_back({name + "ds/db", row.step_by_bits, ours.step_by_bits, 1e-9});
    cells.push_back({name + "dL/dbeta", row.loss_by_beta, ours.loss_by_beta, 1e-9});
  }
  return cells;
}

std::vector<ReproducedCell> inference() {
  const auto imagenet = cost::InferenceConvention::kImageNet;
  return {relative("ResNet-18, 8 bits", 14.6,
                   cost::inference_gbitops(m_star("resnet18-imagenet", 1000), 8.0, imagenet), 5e-3),
          relative("PAN, 16 bits, 64x64 input", 64.3,
                   cost::inference_gbitops(pan_operations(), 16.0, imagenet), 5e-3)};
}

}  // namespace bitdial::train::cells
