#include "bitdial/cost/adapt_model.h"

#include <cmath>

#include "bitdial/core/error.h"

namespace bitdial::cost::adapt {

namespace {

struct Totals {
  double quantized = 0.0;
  double float32 = 0.0;
};

Totals totals(std::span<const Entry> log, const Model& model) {
  Totals sums;
  for (const Entry& entry : log) {
    for (const Layer& layer : entry.layers) {
      sums.quantized += entry.passes * forward_cost(layer, model);
      sums.float32 += entry.passes * float32_cost(layer);
    }
  }
  require(sums.float32 > 0.0, "cost", "the log holds no multiply-adds");
  return sums;
}

/// mean density * sum WL, relative to 32 L.
double relative_size(const Entry& entry) {
  require(!entry.layers.empty(), "cost", "the log holds a forward pass without layers");
  double density = 0.0;
  double bits = 0.0;
  for (const Layer& layer : entry.layers) {
    density += layer.density;
    bits += layer.word_length;
  }
  const auto layers = static_cast<double>(entry.layers.size());
  return density / layers * bits / (32.0 * layers);
}

const Entry& last(std::span<const Entry> log) {
  require(!log.empty(), "cost", "the log is empty");
  return log.back();
}

}  // namespace

double push_down_operations(const Layer& layer) {
  const double search = layer.word_length > 8.0 ? 2.0 * std::log2(layer.word_length - 8.0) : 1.0;
  return 3.0 * layer.elements * search * layer.resolution * layer.density;
}

double push_up_operations(const Layer& layer) { return (layer.lookback + 1.0) * layer.elements + 1.0; }

double overhead(const Layer& layer, const Model& model) {
  return 32.0 * (push_down_operations(layer) + push_up_operations(layer)) * model.overhead_multiplier /
         (layer.lookback * model.accumulated);
}

double forward_cost(const Layer& layer, const Model& model) {
  return layer.density * (layer.macs * layer.word_length + overhead(layer, model));
}

double float32_cost(const Layer& layer) { return 32.0 * layer.macs; }

double training_speedup(std::span<const Entry> log, const Model& model) {
  const Totals sums = totals(log, model);
  return 2.0 * sums.float32 / (sums.quantized + sums.float32);
}

double training_speedup_of_mean(double relative_forward_cost) { return 2.0 / (1.0 + relative_forward_cost); }

std::optional<double> iso_accuracy_speedup(std::span<const Entry> log, double target, const Model& model) {
  double all = 0.0;
  std::optional<double> reached;
  for (const Entry& entry : log) {
    if (!reached && entry.validation_accuracy && *entry.validation_accuracy >= target) reached = all + 1.0;
    all += entry.passes;
  }
  if (!reached) return std::nullopt;
  return training_speedup(log, model) / (*reached / all);
}

double speedup_over_muppet_baseline(std::span<const Entry> log, double epochs, double batch,
                                    const Model& model) {
  const Totals sums = totals(log, model);
  const double backward = sums.float32 / model.accumulated * (128.0 / batch);
  return 150.0 / epochs * 2.0 * sums.float32 / (sums.quantized + backward);
}

double inference_speedup(std::span<const Entry> log) {
  const Totals sums = totals(std::span(&last(log), 1), Model{});
  return sums.float32 / sums.quantized;
}

double model_size(std::span<const Entry> log) { return relative_size(last(log)); }

double memory(std::span<const Entry> log, double copies) {
  double passes = 0.0;
  double size = 0.0;
  for (const Entry& entry : log) {
    size += entry.passes * relative_size(entry);
    passes += entry.passes;
  }
  require(passes > 0.0, "cost", "the log is empty");
  return 1.0 + copies * size / passes;
}

std::vector<Entry> replay(std::span<const Stage> stages) {
  std::vector<Entry> log;
  for (const Stage& stage : stages) {
    Entry entry;
    entry.passes = stage.epochs;
    entry.layers = {Layer{.macs = 1.0, .word_length = stage.bits}};
    log.push_back(std::move(entry));
  }
  return log;
}

}  // namespace bitdial::cost::adapt
