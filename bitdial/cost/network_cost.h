#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "bitdial/core/layer_bits.h"
#include "bitdial/core/policy.h"

/// The analytic cost of training a network whose layers have word lengths of their own.
namespace bitdial::cost {

/// What a layer with weights is charged for, per sample.
struct LayerCharge {
  std::string name;
  LayerKind kind = LayerKind::kConv2d;
  int64_t macs = 0;     ///< of one GEMM
  int64_t weights = 0;  ///< elements, biases not counted
  int64_t inputs = 0;   ///< elements of X
};

struct NetworkCharge {
  std::vector<LayerCharge> layers;
  int64_t norm_elements = 0;    ///< outputs of batch normalisation
  int64_t pool_operations = 0;  ///< of pooling modules that the published counts include

  int64_t macs() const;  ///< of every convolution and linear layer
  double m_star() const;
};

enum class Convention : uint8_t {
  /// As CPT and LDP print their costs: batch normalisation and layers outside the policy's precision
  /// (depth-wise convolutions, layers left in float32) are charged like all others, that is, at the mean of
  /// the others, weighted by multiply-accumulates.
  kPaper,
  /// Every layer at the widths that it has; batch normalisation and pooling at 32 bits.
  kActual,
};
std::string_view to_string(Convention convention);  ///< "paper", "actual"

/// Bit operations of one training step for one sample (FPROP, BPROP, WTGRAD of every layer; the first layer's
/// BPROP is charged too, as published). `bits` has one element per layer of `network`; throws Error
/// otherwise.
double step_operations(const NetworkCharge& network, std::span<const LayerBits> bits, Convention convention);

/// The same of a network whose GEMMs all have these bits: the references of ratios.
double uniform_operations(const NetworkCharge& network, const LayerBits& bits, Convention convention);

/// Word lengths averaged over layers. dY: over both of its copies.
struct MeanBits {
  double w = 32.0, x = 32.0, dy = 32.0;
};
MeanBits plain_mean(std::span<const LayerBits> bits);
MeanBits mac_weighted_mean(const NetworkCharge& network, std::span<const LayerBits> bits);

/// Bits of the weights relative to float32, by number of elements: the size of the model on disk.
double size_ratio(const NetworkCharge& network, std::span<const LayerBits> bits);

/// Bytes that codes of this word length take in memory: 1 up to 8 bits, 2 up to 16, above that 4.
int64_t container_bytes(double word_length);
/// Bytes of the quantised weights, and of the inputs that a layer keeps for WTGRAD, for `batch` samples.
int64_t weight_bytes(const NetworkCharge& network, std::span<const LayerBits> bits);
int64_t activation_bytes(const NetworkCharge& network, std::span<const LayerBits> bits, int64_t batch);

/// What a training run has cost up to now, in both conventions; gbitops are 1e9 bit operations.
struct CostTotals {
  int64_t steps = 0;
  double gbitops = 0.0;         ///< paper
  double ratio_fw8bw8 = 0.0;    ///< to the same steps with 8 bits in every operand; 0 before the first
  double ratio_float32 = 0.0;   ///< to the same steps in float32
  double gbitops_actual = 0.0;  ///< actual
  double ratio_fw8bw8_actual = 0.0;
  double ratio_float32_actual = 0.0;
  MeanBits mean_bits;           ///< over steps and layers
  MeanBits mean_bits_by_macs;   ///< the same, layers weighted by multiply-accumulates
  double size_ratio = 1.0;      ///< of the last step
  double memory_ratio = 1.0;    ///< AdaPT's MEM with dense weights: 1 + 2 mean WL / 32 over steps and layers
  double training_speedup = 1;  ///< AdaPT's SU_train with dense weights and searches that cost nothing
};

/// Adds the cost of training step by step.
class CostMeter {
 public:
  /// `batch` samples count for every step, a short last batch included, as published.
  CostMeter(NetworkCharge network, int64_t batch);

  /// `steps` equal steps.
  void add(std::span<const LayerBits> bits, int64_t steps = 1);
  CostTotals totals() const;
  const NetworkCharge& network() const { return network_; }

  /// The sums; load_state(state()) goes on exactly.
  nlohmann::json state() const;
  void load_state(const nlohmann::json& state);

 private:
  NetworkCharge network_;
  int64_t batch_ = 1;
  int64_t steps_ = 0;
  double paper_ = 0.0;  // operations of one sample, summed over steps
  double actual_ = 0.0;
  MeanBits plain_{0.0, 0.0, 0.0};
  MeanBits weighted_{0.0, 0.0, 0.0};
  double size_ratio_ = 1.0;
};

}  // namespace bitdial::cost
