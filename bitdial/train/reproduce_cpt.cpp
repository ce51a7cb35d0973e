// CPT: Fu et al. 2021, result images of https://github.com/GATECH-EIC/CPT; costs follow "thop" counts.
#include <fmt/format.h>

#include <array>

#include "bitdial/cost/bit_operations.h"
#include "bitdial/train/network_charge.h"
#include "bitdial/train/reproduce_cells.h"

namespace bitdial::train::cells {

namespace {

using cost::kPublishedIterations;

BitSchedule static_bits(int forward, int gradient) {
  return BitSchedule::constant(kPublishedIterations, forward, gradient);
}

BitSchedule cyclic(int minimum, int maximum, int gradient) {
  return BitSchedule::cyclic(kPublishedIterations, 32, minimum, maximum, gradient);
}

double gbitops(double charged, const BitSchedule& schedule) {
  return cost::training_gbitops(charged, cost::mean_training_factor(schedule));
}

struct PublishedSchedule {
  const char* bounds;
  int minimum, maximum;
  std::vector<int64_t> starts, lengths;
  double mean, mean_square, square_unit;  // unit of the last printed digit of mean_square
};

void add_schedule(const PublishedSchedule& published, std::vector<ReproducedCell>& cells) {
  const BitSchedule schedule = cyclic(published.minimum, published.maximum, 8);
  int64_t start = 0;
  double sum = 0.0;
  double squares = 0.0;
  for (size_t level = 0; level < published.starts.size(); ++level) {
    const BitStretch& stretch = schedule.stretches().at(level);
    const std::string name = std::string(published.bounds) + ", level " +
                             std::to_string(published.minimum + static_cast<int>(level));
    cells.push_back(
        {name + " begins", static_cast<double>(published.starts[level]),
         static_cast<double>(stretch.forward == published.minimum + static_cast<int>(level) ? start
                                                                                            : int64_t{-1}),
         0.0});
    cells.push_back({name + " lasts", static_cast<double>(published.lengths[level]),
                     static_cast<double>(stretch.iterations), 0.0});
    start += stretch.iterations;
  }
  for (const BitStretch& stretch : schedule.stretches()) {
    const auto share = static_cast<double>(stretch.iterations) / static_cast<double>(kPublishedIterations);
    sum += share * stretch.forward;
    squares += share * stretch.forward * stretch.forward;
  }
  const std::string bounds = published.bounds;
  cells.push_back({bounds + ", mean b", published.mean, sum, 1e-4});
  cells.push_back({bounds + ", mean b^2", published.mean_square, squares, published.square_unit});
}

struct CptNetwork {
  const char* title;
  const char* model;
  int64_t classes;
};

constexpr std::array<CptNetwork, 6> kCifar{{{"ResNet-38", "resnet38-cifar", 100},
                                            {"ResNet-74", "resnet74-cifar", 100},
                                            {"ResNet-110", "resnet110-cifar", 100},
                                            {"ResNet-152", "resnet152-cifar", 100},
                                            {"ResNet-164", "resnet164-cifar", 100},
                                            {"MobileNetV2", "mobilenet-v2-cifar", 100}}};
constexpr std::array<CptNetwork, 3> kImageNet{{{"ResNet-18", "resnet18-imagenet", 1000},
                                               {"ResNet-34", "resnet34-imagenet", 1000},
                                               {"ResNet-50", "resnet50-imagenet", 1000}}};

struct Column {
  const char* title;
  BitSchedule schedule;
  std::vector<double> paper;  // one per network; 0: not printed
};

template <size_t N>
std::vector<ReproducedCell> table(const std::array<CptNetwork, N>& networks,
                                  const std::vector<Column>& columns, double tolerance) {
  std::vector<ReproducedCell> cells;
  for (size_t i = 0; i < N; ++i) {
    const double charged = m_star(networks[i].model, networks[i].classes);
    for (const Column& column : columns) {
      if (column.paper[i] == 0.0) continue;
      cells.push_back(relative(std::string(networks[i].title) + " " + column.title, column.paper[i],
                               gbitops(charged, column.schedule), tolerance));
    }
  }
  return cells;
}

struct PublishedCounts {
  const char* title;
  const char* model;
  int64_t classes;
  double macs, norm_elements, m_star, gbitops;
};

constexpr std::array<PublishedCounts, 10> kCounts{{
    {"ResNet-20", "resnet20-cifar", 100, 40818944, 200704, 41224512, 0.6484e8},
    {"ResNet-38", "resnet38-cifar", 100, 83286272, 372736, 84035904, 1.3218e8},
    {"ResNet-74", "resnet74-cifar", 100, 168220928, 716800, 169658688, 2.6685e8},
    {"ResNet-110", "resnet110-cifar", 100, 253155584, 1060864, 255281472, 4.0152e8},
    {"ResNet-152", "resnet152-cifar", 100, 352246016, 1462272, 355174720, 5.5864e8},
    {"ResNet-164", "resnet164-cifar", 100, 380557568, 1576960, 383715648, 6.0353e8},
    {"MobileNetV2", "mobilenet-v2-cifar", 100, 91270144, 1724928, 94720000, 1.4898e8},
    {"ResNet-18", "resnet18-imagenet", 1000, 1814073344, 2483712, 1819040768, 2.861e9},
    {"ResNet-34", "resnet34-imagenet", 1000, 3663761408, 3738112, 3671237632, 5.774e9},
    {"ResNet-50", "resnet50-imagenet", 1000, 4089184256, 11113984, 4111412224, 6.467e9},
}};

}  // namespace

std::vector<ReproducedCell> cpt_schedule() {
  // Cycles of 2000 iterations.
  const std::array<PublishedSchedule, 7> published{{
      {"3-8", 3, 8, {0, 410, 739, 1000, 1262, 1591}, {410, 329, 261, 262, 329, 409}, 5.4990, 33.604, 1e-3},
      {"4-8", 4, 8, {0, 461, 840, 1161, 1540}, {461, 379, 321, 379, 460}, 5.9990, 38.209, 1e-3},
      {"3-6", 3, 6, {0, 536, 1001, 1465}, {536, 465, 464, 535}, 4.4990, 21.562, 1e-3},
      {"4-6", 4, 6, {0, 667, 1334}, {667, 667, 666}, 4.9995, 25.6615, 1e-4},
      {"3-4", 3, 4, {0, 1000}, {1000, 1000}, 3.5, 12.5, 1e-9},
      {"5-8", 5, 8, {0, 536, 1001, 1465}, {536, 465, 464, 535}, 6.4990, 43.558, 1e-3},
      {"5-6", 5, 6, {0, 1000}, {1000, 1000}, 5.5, 30.5, 1e-9},
  }};
  std::vector<ReproducedCell> cells;
  for (const PublishedSchedule& schedule : published) add_schedule(schedule, cells);
  return cells;
}

std::vector<ReproducedCell> network_macs() {
  std::vector<ReproducedCell> cells;
  for (const PublishedCounts& row : kCounts) {
    models::Options options;
    options.classes = row.classes;
    const cost::NetworkCharge charge = charge_of(models::layer_table(row.model, options));
    const std::string title = row.title;
    cells.push_back({title + " MACs", row.macs, static_cast<double>(charge.macs()), 0.0});
    cells.push_back(
        {title + " batch norm", row.norm_elements, static_cast<double>(charge.norm_elements), 0.0});
    cells.push_back({title + " M*", row.m_star, charge.m_star(), 0.0});
  }
  return cells;
}

std::vector<ReproducedCell> training_cost() {
  std::vector<ReproducedCell> cells;
  for (const PublishedCounts& row : kCounts)
    cells.push_back(relative(std::string(row.title) + " 8/8", row.gbitops,
                             gbitops(m_star(row.model, row.classes), static_bits(8, 8)), 1e-3));
  return cells;
}

std::vector<ReproducedCell> cpt_cifar() {
  return table(kCifar,
               {{"8/8", static_bits(8, 8), {1.322e8, 2.669e8, 4.014e8, 5.585e8, 6.034e8, 1.489e8}},
                {"3-8/8", cyclic(3, 8, 8), {0.838e8, 1.691e8, 2.548e8, 3.545e8, 3.825e8, 0.944e8}},
                {"6/6", static_bits(6, 6), {0.744e8, 1.502e8, 2.258e8, 3.142e8, 3.396e8, 0.838e8}},
                {"3-6/6", cyclic(3, 6, 6), {0.519e8, 1.049e8, 1.580e8, 2.201e8, 2.375e8, 0.585e8}},
                {"4/6", static_bits(4, 6), {0.441e8, 0.890e8, 1.341e8, 1.864e8, 2.015e8, 0.497e8}},
                {"3-4/6", cyclic(3, 4, 6), {0.376e8, 0.757e8, 1.140e8, 1.585e8, 0.0, 0.0}}},
               3e-3);
}

std::vector<ReproducedCell> cpt_imagenet() {
  return table(kImageNet,
               {{"8/8", static_bits(8, 8), {2.86e9, 5.77e9, 6.47e9}},
                {"6/6", static_bits(6, 6), {1.61e9, 3.24e9, 3.63e9}}},
               3e-3);
}

std::vector<ReproducedCell> cpt_imagenet_cyclic() {
  // ResNet-34's 4-8/8 is printed "4.03e7", a slip of the exponent.
  return table(kImageNet,
               {{"4-8/8", cyclic(4, 8, 8), {1.99e9, 4.03e9, 4.51e9}},
                {"4-6/6", cyclic(4, 6, 6), {1.27e9, 2.57e9, 2.87e9}}},
               6e-3);
}

std::vector<ReproducedCell> cpt_savings() {
  struct Case {
    const char* title;
    int minimum, maximum, gradient;
    double formula;
    std::vector<double> printed;
  };
  const std::array<Case, 6> cases{{{"3-8/8", 3, 8, 8, 36.67, {36.67}},
                                   {"3-6/6", 3, 6, 6, 30.05, {30.04}},
                                   {"4-8/8", 4, 8, 8, 30.11, {30.2, 30.3, 30.4}},
                                   {"4-6/6", 4, 6, 6, 20.69, {20.7, 21.1}},
                                   {"5-8/8", 5, 8, 8, 23.16, {23.2}},
                                   {"5-6/8", 5, 6, 8, 10.23, {10.5}}}};
  std::vector<ReproducedCell> cells;
  for (const Case& row : cases) {
    const double ours = 100.0 * cost::saving(cyclic(row.minimum, row.maximum, row.gradient),
                                             static_bits(row.maximum, row.gradient));
    const std::string title = row.title;
    cells.push_back({title + " formula", row.formula, ours, 0.01});
    for (const double printed : row.printed)
      cells.push_back({fmt::format("{} printed {}", title, printed), printed, ours, 0.5});
  }
  return cells;
}

}  // namespace bitdial::train::cells
