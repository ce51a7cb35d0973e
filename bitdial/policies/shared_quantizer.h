#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/policies/options.h"

/// The quantiser that CPT (Fu et al. 2021), FracTrain (Fu et al. 2020) and LDP (Yu et al. 2022) share: SBM's,
/// as their released code rewrote it. All four tensors are affine without an exact zero, step at least 1e-8:
///
///   W   one range per output channel, nearest rounding
///   X   smallest and largest element of the whole batch, nearest; evaluation uses a running range, which
///       starts at zero and moves by run <- 0.9 run + 0.1 new
///   dY  smallest and largest element, stochastic rounding; one quantised dY feeds BPROP and WTGRAD
namespace bitdial::policies {

/// Word lengths of one layer: forward (W and X) and gradient (dY), "FWx/BWy" of the papers. 0: not quantised,
/// as in the released code. Above 16 the fixed-point values are carried in float32.
struct SharedBits {
  int forward = 8;
  int gradient = 8;
  bool operator==(const SharedBits&) const = default;
};

/// The format of one operand; `bits` is 0 or 2 .. 32.
Format shared_format(TensorRole role, int bits);

/// Of X in evaluation; other operands have no running range.
RunningRange shared_running_range(TensorRole role, double momentum = 0.9);

/// Which layers a network quantises.
enum class SharedLayers : uint8_t {
  kAuto,      ///< kImageNet when the first layer is a 7x7 convolution with stride 2, otherwise kCifar
  kCifar,     ///< every convolution, the first one and projection shortcuts included; linear layers float32
  kImageNet,  ///< convolutions of blocks; the first layer, projection shortcuts and linear layers float32
  kAll,
};

/// The options of every policy over this quantiser: `layers`, `depthwise`, `running_momentum` and
/// `running_start`.
class SharedQuantizer {
 public:
  /// `layers`: the option's default.
  explicit SharedQuantizer(OptionReader& options, SharedLayers layers = SharedLayers::kAuto);

  void attach(std::span<const LayerInfo> layers);

  /// False for a layer that stays in float32.
  bool quantizes(int layer) const { return !is_float_.at(static_cast<size_t>(layer)); }

  /// True for a layer whose bits the policy does not choose: it stays in float32, or is depth-wise with its
  /// fixed 8 bits forward and 16 bits gradient (DWS_BITS and DWS_GRAD_BITS of FracTrain's code).
  bool is_fixed(int layer) const;
  /// Whether depth-wise convolutions have these.
  bool fixes_depthwise() const { return depthwise_is_fixed_; }

  /// What a layer gets when the policy wants `wanted`.
  SharedBits bits(int layer, SharedBits wanted) const;

  Format format(TensorId id, SharedBits wanted) const;
  RunningRange running_range(TensorRole role) const;

 private:
  SharedLayers rule_;
  bool depthwise_is_fixed_;
  double momentum_;
  bool starts_at_zero_;
  std::vector<bool> is_float_;      // per layer
  std::vector<bool> is_depthwise_;  // per layer, where the option fixes their bits
};

/// Whether a convolution is a projection shortcut, which only its name tells: "downsample" or "shortcut" is
/// part of it.
bool is_projection_shortcut(const LayerInfo& layer);

/// Per layer true where `rule` leaves it in float32.
std::vector<bool> float_layers(SharedLayers rule, std::span<const LayerInfo> layers);

/// A policy whose layers all have the shared quantiser's formats: a subclass says the bits of each layer, and
/// why. A line of precision.jsonl appears whenever an operand's bits change, and one for dY when X changes
/// what WTGRAD runs on.
class SharedPolicy : public Policy {
 public:
  void attach(std::span<const LayerInfo> layers) override;
  nlohmann::json options() const override { return options_; }
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override;
  Format evaluation_format(TensorId id) const override;
  RunningRange running_range(TensorId id) const override { return quantizer_.running_range(id.role); }
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

 protected:
  explicit SharedPolicy(OptionReader& options) : quantizer_(options) {}

  /// The bits that the policy wants for a layer at present.
  virtual SharedBits wanted_bits(int layer) const = 0;
  /// Sets reason and evidence of a new decision.
  virtual void explain(TensorId id, TensorPlan& plan) const = 0;

  const SharedQuantizer& quantizer() const { return quantizer_; }
  void keep_options(const OptionReader& options) { options_ = options.resolved(); }

 private:
  SharedQuantizer quantizer_;
  nlohmann::json options_;
  std::vector<std::array<int, kTensorRoles>> announced_;  // per layer: what the log says; 0: nothing
};

}  // namespace bitdial::policies
