#pragma once

#include <span>
#include <vector>

/// The arithmetic of DFQ's cost (FracTrain: Fu et al., "FracTrain: Fractionally Squeezing Bit Savings Both
/// Temporally and Spatially for Efficient DNN Training", NeurIPS 2020, arXiv 2012.13113).
namespace bitdial::policies::dfq {

/// What a gate chooses between: bits of X and of dY; 0 and 0: the block is skipped.
struct Option {
  int activation = 8;
  int gradient = 8;
};

/// Cost of the three products of a layer relative to float32: forward (a/32)(w/32), error back (g/32)(w/32),
/// gradient computation (a/32)(g/32).
struct OptionCost {
  double forward = 0.0, error = 0.0, gradient = 0.0;
  double sum() const { return forward + error + gradient; }
};
OptionCost cost_of(Option option, int weight_bits);

/// Percent of float32's cost when every sample takes this option.
double cost_percent(Option option, int weight_bits);

/// What the blocks behind a gate weigh in the cost of a sample.
struct BlockSizes {
  std::vector<double> sizes;  ///< O: 1 each, or multiply-accumulates
  /// Cost that no option changes, in the unit of O and already relative to float32: MobileNetV2's depth-wise
  /// convolutions. It counts above and below the fraction, as in the released code.
  double constant = 0.0;
  double sum() const;
};

/// The cost of depth-wise convolutions with this many multiply-accumulates: 8 bits forward, 16 gradient.
double depthwise_cost(double macs);

/// Percent of float32's cost of `samples[block][option]`, the choices of `batch` samples.
double cost_percent(std::span<const double> samples, std::span<const Option> options, int weight_bits,
                    double batch, const BlockSizes& blocks);

/// How r follows from the cost near the target: DFQ's script, or FracTrain's for CIFAR.
enum class Middle { kTenth, kZero };

/// The sign r of the cost term. kTenth: -1 below target - relax, +1 from target + relax on, between them -0.1
/// below the target and +0.1 from it on. kZero: -1 below the target, +1 from target + relax on, between 0.
double sign_of(double cost, double target, double relax, Middle middle);

}  // namespace bitdial::policies::dfq
