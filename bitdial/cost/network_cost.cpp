#include "bitdial/cost/network_cost.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/cost/bit_operations.h"

namespace bitdial::cost {

namespace {

const LayerBits kFloat32Bits{};

bool has_policy_bits(const LayerCharge& layer, const LayerBits& bits) {
  return layer.kind != LayerKind::kDepthwiseConv2d && !(bits == kFloat32Bits);
}

void check_layers(const NetworkCharge& network, std::span<const LayerBits> bits) {
  require(!bits.empty() && bits.size() == network.layers.size(), "cost",
          "the network has {} layers, there are word lengths for {}", network.layers.size(), bits.size());
}

/// Mean factor of the layers that `counts` accepts, weighted by multiply-accumulates; negative without any.
template <class Counts>
double mean_factor(const NetworkCharge& network, std::span<const LayerBits> bits, Counts counts) {
  double sum = 0.0;
  double macs = 0.0;
  for (size_t l = 0; l < bits.size(); ++l) {
    if (!counts(network.layers[l], bits[l])) continue;
    sum += static_cast<double>(network.layers[l].macs) * training_factor(bits[l]);
    macs += static_cast<double>(network.layers[l].macs);
  }
  return macs > 0.0 ? sum / macs : -1.0;
}

template <class Weight>
MeanBits mean_bits(std::span<const LayerBits> bits, Weight weight) {
  MeanBits mean{0.0, 0.0, 0.0};
  double all = 0.0;
  for (size_t l = 0; l < bits.size(); ++l) {
    const double share = weight(l);
    all += share;
    mean.w += share * bits[l].w;
    mean.x += share * bits[l].x;
    mean.dy += share * (bits[l].dy_bprop + bits[l].dy_wtgrad) / 2.0;
  }
  if (all == 0.0) return {};
  return {mean.w / all, mean.x / all, mean.dy / all};
}

void accumulate(MeanBits& sum, const MeanBits& mean, double steps) {
  sum.w += steps * mean.w;
  sum.x += steps * mean.x;
  sum.dy += steps * mean.dy;
}

MeanBits divided(const MeanBits& sum, double steps) { return {sum.w / steps, sum.x / steps, sum.dy / steps}; }

nlohmann::json to_json(const MeanBits& bits) { return {bits.w, bits.x, bits.dy}; }

MeanBits read_bits(const nlohmann::json& json) {
  return {json.at(0).get<double>(), json.at(1).get<double>(), json.at(2).get<double>()};
}

}  // namespace

std::string_view to_string(Convention convention) {
  return convention == Convention::kPaper ? "paper" : "actual";
}

int64_t NetworkCharge::macs() const {
  int64_t sum = 0;
  for (const LayerCharge& layer : layers) sum += layer.macs;
  return sum;
}

double NetworkCharge::m_star() const { return charged_macs(macs(), norm_elements, pool_operations); }

double step_operations(const NetworkCharge& network, std::span<const LayerBits> bits, Convention convention) {
  check_layers(network, bits);
  const auto all = [](const LayerCharge&, const LayerBits&) { return true; };
  if (convention == Convention::kPaper) {
    double factor = mean_factor(network, bits, has_policy_bits);
    if (factor < 0.0) factor = mean_factor(network, bits, all);
    return network.m_star() * factor;
  }
  const auto others = static_cast<double>(2 * network.norm_elements + network.pool_operations);
  return static_cast<double>(network.macs()) * mean_factor(network, bits, all) + others * kFloat32Factor;
}

double uniform_operations(const NetworkCharge& network, const LayerBits& bits, Convention convention) {
  return step_operations(network, std::vector<LayerBits>(network.layers.size(), bits), convention);
}

MeanBits plain_mean(std::span<const LayerBits> bits) {
  return mean_bits(bits, [](size_t) { return 1.0; });
}

MeanBits mac_weighted_mean(const NetworkCharge& network, std::span<const LayerBits> bits) {
  check_layers(network, bits);
  return mean_bits(bits, [&](size_t l) { return static_cast<double>(network.layers[l].macs); });
}

double size_ratio(const NetworkCharge& network, std::span<const LayerBits> bits) {
  check_layers(network, bits);
  double sum = 0.0;
  double all = 0.0;
  for (size_t l = 0; l < bits.size(); ++l) {
    sum += static_cast<double>(network.layers[l].weights) * bits[l].w;
    all += static_cast<double>(network.layers[l].weights) * 32.0;
  }
  return all > 0.0 ? sum / all : 1.0;
}

int64_t container_bytes(double word_length) { return word_length <= 8.0 ? 1 : word_length <= 16.0 ? 2 : 4; }

int64_t weight_bytes(const NetworkCharge& network, std::span<const LayerBits> bits) {
  check_layers(network, bits);
  int64_t bytes = 0;
  for (size_t l = 0; l < bits.size(); ++l) bytes += network.layers[l].weights * container_bytes(bits[l].w);
  return bytes;
}

int64_t activation_bytes(const NetworkCharge& network, std::span<const LayerBits> bits, int64_t batch) {
  check_layers(network, bits);
  int64_t bytes = 0;
  for (size_t l = 0; l < bits.size(); ++l)
    bytes += batch * network.layers[l].inputs * container_bytes(bits[l].x_wtgrad);
  return bytes;
}

CostMeter::CostMeter(NetworkCharge network, int64_t batch) : network_(std::move(network)), batch_(batch) {
  require(!network_.layers.empty() && network_.macs() > 0, "cost", "a network without layers costs nothing");
}

void CostMeter::add(std::span<const LayerBits> bits, int64_t steps) {
  const auto count = static_cast<double>(steps);
  steps_ += steps;
  paper_ += count * step_operations(network_, bits, Convention::kPaper);
  actual_ += count * step_operations(network_, bits, Convention::kActual);
  accumulate(plain_, plain_mean(bits), count);
  accumulate(weighted_, mac_weighted_mean(network_, bits), count);
  size_ratio_ = size_ratio(network_, bits);
}

CostTotals CostMeter::totals() const {
  CostTotals totals;
  totals.steps = steps_;
  totals.size_ratio = size_ratio_;
  if (steps_ == 0) return totals;
  const auto steps = static_cast<double>(steps_);
  const auto ratio = [&](double operations, const LayerBits& reference, Convention convention) {
    return operations / (steps * uniform_operations(network_, reference, convention));
  };
  const LayerBits fw8bw8 = LayerBits::shared(8.0, 8.0);
  const double scale = static_cast<double>(batch_) / 1e9;
  totals.gbitops = paper_ * scale;
  totals.ratio_fw8bw8 = ratio(paper_, fw8bw8, Convention::kPaper);
  totals.ratio_float32 = ratio(paper_, kFloat32Bits, Convention::kPaper);
  totals.gbitops_actual = actual_ * scale;
  totals.ratio_fw8bw8_actual = ratio(actual_, fw8bw8, Convention::kActual);
  totals.ratio_float32_actual = ratio(actual_, kFloat32Bits, Convention::kActual);
  totals.mean_bits = divided(plain_, steps);
  totals.mean_bits_by_macs = divided(weighted_, steps);
  totals.memory_ratio = 1.0 + 2.0 * totals.mean_bits.w / 32.0;
  totals.training_speedup = 2.0 / (1.0 + totals.mean_bits_by_macs.w / 32.0);
  return totals;
}

nlohmann::json CostMeter::state() const {
  return {{"steps", steps_},
          {"paper", paper_},
          {"actual", actual_},
          {"plain", to_json(plain_)},
          {"weighted", to_json(weighted_)},
          {"size_ratio", size_ratio_}};
}

void CostMeter::load_state(const nlohmann::json& state) {
  state.at("steps").get_to(steps_);
  state.at("paper").get_to(paper_);
  state.at("actual").get_to(actual_);
  plain_ = read_bits(state.at("plain"));
  weighted_ = read_bits(state.at("weighted"));
  state.at("size_ratio").get_to(size_ratio_);
}

}  // namespace bitdial::cost
