#include "bitdial/train/cost_estimate.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"
#include "bitdial/policies/registry.h"
#include "bitdial/policies/schedule_table.h"
#include "bitdial/policies/shared_quantizer.h"
#include "bitdial/train/network_charge.h"

namespace bitdial::train {

namespace {

constexpr const char* kForms =
    "cpt 3-8/8, static 8/8/8 (W/A/G) or 8/8 (F/G), random 4,6,8/8, pfq 3,4,6,8/6,6,8,8";

[[noreturn]] void refuse_bits(const CostRequest& request) {
  fail("cost", "policy {} cannot have the bits \"{}\"; forms: {}", request.policy, request.bits, kForms);
}

/// The parts between the separators, as whole numbers; nothing when a part is something else.
std::optional<std::vector<int>> numbers(std::string_view text, char separator) {
  std::vector<int> values;
  while (true) {
    const size_t end = std::min(text.find(separator), text.size());
    int value = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + end, value);
    if (error != std::errc() || stop != text.data() + end || value < 2 || value > 32) return std::nullopt;
    values.push_back(value);
    if (end == text.size()) return values;
    text.remove_prefix(end + 1);
  }
}

/// "3-8/8" as ("3-8", "8").
std::pair<std::string, std::string> forward_and_gradient(const CostRequest& request) {
  const size_t slash = request.bits.find('/');
  if (slash == std::string::npos) refuse_bits(request);
  return {request.bits.substr(0, slash), request.bits.substr(slash + 1)};
}

std::vector<int> numbers_of(const CostRequest& request, const std::string& text, char separator) {
  const auto values = numbers(text, separator);
  if (!values) refuse_bits(request);
  return *values;
}

/// Word lengths of all layers when the shared quantiser's have what `wanted` says of each; 0: not quantised.
template <class Wanted>
std::vector<LayerBits> shared_bits(std::span<const LayerInfo> layers, Wanted wanted) {
  const std::vector<bool> is_float = policies::float_layers(policies::SharedLayers::kAuto, layers);
  std::vector<LayerBits> bits;
  for (size_t l = 0; l < layers.size(); ++l) {
    policies::SharedBits own = wanted(layers[l]);
    if (layers[l].kind == LayerKind::kDepthwiseConv2d) own = {.forward = 8, .gradient = 16};
    if (is_float[l]) own = {.forward = 0, .gradient = 0};
    bits.push_back(
        LayerBits::shared(own.forward == 0 ? 32 : own.forward, own.gradient == 0 ? 32 : own.gradient));
  }
  return bits;
}

std::vector<LayerBits> shared_bits(std::span<const LayerInfo> layers, int forward, int gradient) {
  return shared_bits(layers, [&](const LayerInfo&) {
    return policies::SharedBits{.forward = forward, .gradient = gradient};
  });
}

std::vector<CostStretch> stretches_of(const BitSchedule& schedule, std::span<const LayerInfo> layers) {
  std::vector<CostStretch> stretches;
  for (const BitStretch& stretch : schedule.stretches())
    stretches.push_back({stretch.iterations, shared_bits(layers, stretch.forward, stretch.gradient)});
  return stretches;
}

BitSchedule cpt_schedule(const CostRequest& request) {
  const auto [forward, gradient] = forward_and_gradient(request);
  const std::vector<int> bounds = numbers_of(request, forward, '-');
  const std::vector<int> gradients = numbers_of(request, gradient, '-');
  if (bounds.size() != 2 || gradients.size() > 2) refuse_bits(request);
  BitSchedule schedule;
  for (int64_t t = 0; t < request.iterations; ++t) {
    const auto cycle = [&](int minimum, int maximum) {
      return cyclic_bits(t, request.iterations, request.cycles, minimum, maximum);
    };
    schedule.append({1, cycle(bounds[0], bounds[1]), cycle(gradients.front(), gradients.back())});
  }
  return schedule;
}

BitSchedule pfq_schedule(const CostRequest& request) {
  const auto [forward, gradient] = forward_and_gradient(request);
  const std::vector<int> F = numbers_of(request, forward, ',');
  const std::vector<int> G = numbers_of(request, gradient, ',');
  if (F.size() != G.size()) refuse_bits(request);
  require(
      request.switches.size() + 1 == F.size(), "cost",
      "pfq switches by the losses of a run: give --run DIR, or the first iterations of its {} later stages "
      "with --switch, e.g. --switch 8000,16000,24000",
      F.size() - 1);
  BitSchedule schedule;
  int64_t start = 0;
  for (size_t k = 0; k < F.size(); ++k) {
    const int64_t end = k < request.switches.size() ? request.switches[k] : request.iterations;
    require(end >= start && end <= request.iterations, "cost",
            "the stages of pfq must begin one after the other within {} iterations", request.iterations);
    schedule.append({end - start, F[k], G[k]});
    start = end;
  }
  return schedule;
}

/// The expectation: every choice in an equal share of the random part, 90 of 160 epochs (LDP, Table 2), then
/// 8 bits.
BitSchedule random_schedule(const CostRequest& request) {
  const auto [forward, gradient] = forward_and_gradient(request);
  const std::vector<int> choices = numbers_of(request, forward, ',');
  const bool is_same = gradient == "same";
  const int fixed = is_same ? 8 : numbers_of(request, gradient, ',').front();
  const int64_t random_part = (request.iterations * 90 + 159) / 160;
  const auto count = static_cast<int64_t>(choices.size());
  BitSchedule schedule;
  for (int64_t i = 0; i < count; ++i) {
    const int bits = choices[static_cast<size_t>(i)];
    schedule.append({random_part * (i + 1) / count - random_part * i / count, bits, is_same ? bits : fixed});
  }
  schedule.append({request.iterations - random_part, 8, 8});
  return schedule;
}

/// A table of bits by layer and epoch; where it says how many epochs it is written for, they are shares of
/// the run, otherwise an epoch has kEpoch iterations.
std::vector<CostStretch> schedule_stretches(const CostRequest& request, std::span<const LayerInfo> layers) {
  constexpr int64_t kEpoch = 391;  // CIFAR in batches of 128
  const std::vector<std::string> presets = policies::schedule_presets();
  const bool is_preset = std::find(presets.begin(), presets.end(), request.bits) != presets.end();
  const policies::ScheduleTable table = policies::parse_schedule(
      is_preset ? policies::schedule_preset(request.bits) : policies::read_schedule_file(request.bits),
      request.bits);
  table.check_patterns(layers);
  const double epoch = table.length ? static_cast<double>(request.iterations) / *table.length : kEpoch;
  const auto first_of = [&](size_t column) {
    const double first = column < table.epochs.size() ? table.epochs[column] * epoch : 1e18;
    return std::min(request.iterations, static_cast<int64_t>(std::llround(first)));
  };
  std::vector<CostStretch> stretches;
  for (size_t c = 0; c < table.epochs.size(); ++c) {
    CostStretch stretch{first_of(c + 1) - first_of(c), shared_bits(layers, [&](const LayerInfo& layer) {
                          const auto& row = table.row(layer.name);
                          return policies::SharedBits{.forward = row.forward[c], .gradient = row.gradient[c]};
                        })};
    if (stretch.iterations > 0) stretches.push_back(std::move(stretch));
  }
  return stretches;
}

std::vector<CostStretch> static_stretches(const CostRequest& request, std::span<const LayerInfo> layers) {
  const std::vector<int> bits = numbers_of(request, request.bits, '/');
  if (bits.size() == 2) return {{request.iterations, shared_bits(layers, bits[0], bits[1])}};
  if (bits.size() != 3) refuse_bits(request);
  const auto w = static_cast<double>(bits[0]);
  const auto x = static_cast<double>(bits[1]);
  const auto dy = static_cast<double>(bits[2]);
  return {{request.iterations, std::vector<LayerBits>(layers.size(), LayerBits{w, x, x, dy, dy})}};
}

/// A policy whose formats its options alone decide, asked operand by operand.
std::vector<CostStretch> fixed_stretches(const CostRequest& request, std::span<const LayerInfo> layers) {
  const auto policy =
      policies::make(request.bits.empty() ? request.policy : request.policy + ":" + request.bits);
  policy->attach(layers);
  CostStretch stretch{request.iterations, {}};
  for (size_t l = 0; l < layers.size(); ++l) {
    const auto bits = [&](TensorRole role) {
      return static_cast<double>(
          policy->evaluation_format({.layer = static_cast<int>(l), .role = role}).word_length);
    };
    stretch.bits.push_back({bits(TensorRole::kWeight), bits(TensorRole::kInput),
                            bits(TensorRole::kInputWtgrad), bits(TensorRole::kGradBprop),
                            bits(TensorRole::kGradWtgrad)});
  }
  return {std::move(stretch)};
}

std::vector<CostStretch> stretches_of(const CostRequest& request, std::span<const LayerInfo> layers) {
  const auto uniform = [&](double bits) {
    return std::vector<CostStretch>{
        {request.iterations, std::vector<LayerBits>(layers.size(), LayerBits::shared(bits, bits))}};
  };
  if (request.policy == "float32") return uniform(32);
  if (request.policy == "bf16") return uniform(16);
  if (request.policy == "static") return static_stretches(request, layers);
  if (request.policy == "sbm") return fixed_stretches(request, layers);
  if (request.policy == "cpt") return stretches_of(cpt_schedule(request), layers);
  if (request.policy == "pfq") return stretches_of(pfq_schedule(request), layers);
  if (request.policy == "schedule") return schedule_stretches(request, layers);
  if (request.policy == "random") return stretches_of(random_schedule(request), layers);
  const std::vector<std::string> known = policies::names();
  require(std::find(known.begin(), known.end(), request.policy) != known.end(), "cost",
          "there is no policy \"{}\"{}", request.policy, suggestion(request.policy, known));
  fail(
      "cost",
      "{} decides from data while it trains: give a run with --run DIR, or a policy whose precision is known "
      "before (static, sbm, cpt, random, pfq with --switch, schedule)",
      request.policy);
}

/// "static:shared:6/8" as policy static with the bits 6/8; bits that published experiments had by default.
CostRequest resolved(CostRequest request) {
  if (const size_t colon = request.policy.find(':'); colon != std::string::npos) {
    require(request.bits.empty(), "cost", "the bits are given twice: \"{}\" and \"{}\"", request.policy,
            request.bits);
    request.bits = request.policy.substr(colon + 1);
    request.policy.resize(colon);
  }
  if (request.policy == "static" && request.bits.starts_with("shared:")) request.bits.erase(0, 7);
  if (request.bits.empty()) {
    if (request.policy == "static") request.bits = "8/8/8";
    if (request.policy == "cpt") request.bits = "3-8/8";
    if (request.policy == "random") request.bits = "4,6,8/8";
    if (request.policy == "pfq") request.bits = "3,4,6,8/6,6,8,8";
  }
  require(request.policy != "schedule" || !request.bits.empty(), "cost",
          "policy schedule needs its table: --bits FILE, or ldp-1, ldp-2, ldp-3");
  require(request.iterations >= 1 && request.batch >= 1, "cost",
          "a training has at least one iteration of one sample, not {} of {}", request.iterations,
          request.batch);
  return request;
}

nlohmann::ordered_json mean_bits_json(const cost::MeanBits& bits) {
  return {{"w", bits.w}, {"x", bits.x}, {"dy", bits.dy}};
}

}  // namespace

CostEstimate estimate_cost(const CostRequest& wanted) {
  const CostRequest request = resolved(wanted);
  const std::vector<models::LayerRow> rows = models::layer_table(request.model, request.options);
  CostEstimate estimate;
  estimate.model = request.model;
  estimate.policy = request.policy;
  estimate.bits = request.bits;
  estimate.batch = request.batch;
  estimate.network = charge_of(rows);
  cost::CostMeter meter(estimate.network, request.batch);
  for (const CostStretch& stretch : stretches_of(request, layer_infos(rows))) {
    meter.add(stretch.bits, stretch.iterations);
    estimate.last_bits = stretch.bits;
  }
  estimate.totals = meter.totals();
  return estimate;
}

double inference_ratio(const CostEstimate& estimate) {
  double sum = 0.0;
  double all = 0.0;
  for (size_t l = 0; l < estimate.last_bits.size(); ++l) {
    const LayerBits& bits = estimate.last_bits[l];
    const auto macs = static_cast<double>(estimate.network.layers[l].macs);
    sum += macs * (bits == LayerBits{} ? 64.0 : bits.w * bits.x);
    all += macs * 64.0;
  }
  return sum / all;
}

nlohmann::ordered_json to_json(const CostEstimate& estimate, cost::Convention convention) {
  const cost::CostTotals& totals = estimate.totals;
  const bool is_paper = convention == cost::Convention::kPaper;
  const double gbitops = is_paper ? totals.gbitops : totals.gbitops_actual;
  const double ratio = is_paper ? totals.ratio_fw8bw8 : totals.ratio_fw8bw8_actual;
  const std::vector<LayerBits> float32(estimate.network.layers.size());
  return {
      {"model", estimate.model},
      {"policy", estimate.policy},
      {"bits", estimate.bits},
      {"iterations", totals.steps},
      {"batch", estimate.batch},
      {"convention", to_string(convention)},
      {"macs", estimate.network.macs()},
      {"m_star", static_cast<int64_t>(estimate.network.m_star())},
      {"gbitops", gbitops},
      {"gbitops_fw8bw8", gbitops / ratio},
      {"ratio_fw8bw8", ratio},
      {"ratio_float32", is_paper ? totals.ratio_float32 : totals.ratio_float32_actual},
      {"mean_bits", mean_bits_json(totals.mean_bits)},
      {"mean_bits_by_macs", mean_bits_json(totals.mean_bits_by_macs)},
      {"inference_ratio_fw8", inference_ratio(estimate)},
      {"size_ratio", totals.size_ratio},
      {"memory_ratio", totals.memory_ratio},
      {"training_speedup_adapt", totals.training_speedup},
      {"bytes",
       {{"weights", weight_bytes(estimate.network, estimate.last_bits)},
        {"weights_float32", weight_bytes(estimate.network, float32)},
        {"activations", activation_bytes(estimate.network, estimate.last_bits, estimate.batch)},
        {"activations_float32", activation_bytes(estimate.network, float32, estimate.batch)}}},
  };
}

}  // namespace bitdial::train
