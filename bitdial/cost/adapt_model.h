#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

/// The performance model of AdaPT's authors (their scripts, as specified with A-perf): cost of quantised
/// training relative to float32 from word lengths and sparsity. Costs are multiply-adds times bits.
namespace bitdial::cost::adapt {

/// One layer in one forward pass.
struct Layer {
  double macs = 0.0;
  double word_length = 32.0;
  double density = 1.0;   ///< share of weights that are not zero
  double elements = 0.0;  ///< T: of the weight; what PushDown and PushUp look at
  double resolution = 0;  ///< r: bins of the histogram; 0: no PushDown in this pass
  double lookback = 1.0;  ///< lb: batches between two searches
};

/// Forward passes that are alike.
struct Entry {
  double passes = 1.0;
  std::vector<Layer> layers;
  std::optional<double> validation_accuracy;
};

struct Model {
  double accumulated = 1.0;          ///< accs: batches per optimiser step
  double overhead_multiplier = 0.0;  ///< I: 10 in the authors' configurations, 0: searches cost nothing
};

/// Operations of PushDown: 3 T b r density, b = 2 log2(WL - 8) above 8 bits, else 1.
double push_down_operations(const Layer& layer);
/// Operations of PushUp: (lb + 1) T + 1.
double push_up_operations(const Layer& layer);
/// OH = 32 (PD + PU) I / (lb accs).
double overhead(const Layer& layer, const Model& model);

/// density (MACs WL + OH).
double forward_cost(const Layer& layer, const Model& model);
/// 32 MACs.
double float32_cost(const Layer& layer);

/// Forward quantised, backward as float32 and equal in MACs: 2 sum C32 / (sum Cq + sum C32).
/// All measures throw Error when the log is empty or has no multiply-adds.
double training_speedup(std::span<const Entry> log, const Model& model = {});
/// From the mean relative cost c of a forward pass: 2 / (1 + c).
double training_speedup_of_mean(double relative_forward_cost);
/// training_speedup divided by the share of passes before the first whose accuracy reaches `target`; nothing
/// when none does. The reaching pass counts (the first of N gives 1/N).
std::optional<double> iso_accuracy_speedup(std::span<const Entry> log, double target,
                                           const Model& model = {});
/// Against the baseline that MuPPET trains: 150 epochs of batches of 128.
double speedup_over_muppet_baseline(std::span<const Entry> log, double epochs, double batch,
                                    const Model& model = {});
/// sum C32 / sum density MACs WL of the last entry; no overhead.
double inference_speedup(std::span<const Entry> log);
/// mean density * sum WL / (32 L) of the last entry; layers are not weighted by size.
double model_size(std::span<const Entry> log);
/// 1 (float32 master) + copies * sum(mean density * sum WL) / sum(32 L); 2 copies, MuPPET 3.
double memory(std::span<const Entry> log, double copies = 2.0);

/// MuPPET's ladder as AdaPT's authors replay it: one layer, `epochs` at `bits` each.
struct Stage {
  double bits = 32.0;
  double epochs = 0.0;
};
std::vector<Entry> replay(std::span<const Stage> stages);

}  // namespace bitdial::cost::adapt
