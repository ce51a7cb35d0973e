#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bitdial/core/format.h"

/// The interface between precision policies and the layers that obey them. A policy sees layers and
/// observations and answers with precisions; it never touches a kernel, and a layer never asks which policy
/// runs.
namespace bitdial {

/// The operands of the three GEMMs of a training step. FPROP multiplies kInput by kWeight, BPROP kGradBprop
/// by kWeight, WTGRAD kInputWtgrad by kGradWtgrad. The last two are results, no GEMM's operands: they are
/// quantised where the policy says so (Policy::results) and go on as float32 values on their grid.
enum class TensorRole : uint8_t {
  kWeight,
  kInput,
  kInputWtgrad,
  kGradBprop,
  kGradWtgrad,
  kOutput,     ///< Y after FPROP; also the output of a normalisation or average pool that follows
  kGradInput,  ///< dX after BPROP; also that of an average pool that follows
};
inline constexpr int kTensorRoles = 7;

/// "w", "x", "x_wtgrad", "dy_bprop", "dy_wtgrad", "y", "dx": the names in precision.jsonl.
std::string_view to_string(TensorRole role);

enum class LayerKind : uint8_t { kConv2d, kDepthwiseConv2d, kLinear };
std::string_view to_string(LayerKind kind);

struct LayerInfo {
  std::string name;  ///< as in the module tree: "layer1.0.conv1"
  LayerKind kind = LayerKind::kConv2d;
  int64_t macs = 0;     ///< multiply-accumulates of FPROP for one sample; 0 until the first forward
  int64_t weights = 0;  ///< elements of the weight
  int64_t kernel = 0;   ///< longer edge of a convolution's kernel; 0: a linear layer
  int64_t stride = 1;
  bool is_first = false;
  bool is_last = false;
};

inline constexpr int kNoOption = -1;

struct TensorId {
  int layer = 0;
  TensorRole role = TensorRole::kWeight;
  int option = kNoOption;  ///< of a gated block (GateRequest), 0 .. options - 1
  bool operator==(const TensorId&) const = default;
};

/// The products of a layer's training step.
enum class Gemm : uint8_t { kFprop, kBprop, kWtgrad };
inline constexpr int kGemms = 3;
std::string_view to_string(Gemm gemm);  ///< "FPROP", "BPROP", "WTGRAD"

/// The GEMMs that read an operand; the first layer has no BPROP. None for results.
std::vector<Gemm> readers(TensorRole role, bool is_first_layer);

/// What a GEMM may run on; of the mixed ones the first width is that of the left operand (X, dY, X).
enum class GemmArithmetic : uint8_t { kInt8, kInt8x16, kInt16x8, kInt16, kBFloat16, kFloat32 };
inline constexpr int kGemmArithmetics = 6;
std::string_view to_string(GemmArithmetic arithmetic);  ///< "int8", "int8x16", ..., "bfloat16", "float32"

/// Predicted seconds of a training step's parts on this machine; layers as in Policy::attach.
class Timings {
 public:
  virtual ~Timings() = default;
  virtual double gemm(int layer, Gemm gemm, GemmArithmetic arithmetic) = 0;
  /// One pass that turns an operand (kWeight, kInput, kGradBprop) into codes, or into bfloat16.
  virtual double convert(int layer, TensorRole role, bool to_bfloat16) = 0;
};

/// What a policy may measure of a tensor that is about to be quantised. The first call of each measure costs
/// one pass over the tensor; results are kept for the lifetime of the probe.
class TensorProbe {
 public:
  virtual ~TensorProbe() = default;
  virtual Range range() = 0;
  virtual double abs_sum() = 0;  ///< sum |x|
  /// sum |x^| for codes -2^(n-1) .. 2^(n-1)-1 of n = `word_length` bits and a step > 0, nearest rounding.
  virtual double quantized_abs_sum(int word_length, float step) = 0;
};

/// What every quantise pass counts on the way.
struct QuantizeStatistics {
  int64_t count = 0;      ///< elements
  int64_t saturated = 0;  ///< elements outside the representable range
  int64_t zeros = 0;      ///< codes that stand for 0.0
  Range range{};          ///< of the data, before quantising
  double saturated_fraction() const { return count ? double(saturated) / double(count) : 0.0; }
};

/// How the rounding error q - u of X stays known from forward to backward: stored (4 bytes or 1 byte an
/// element, the latter in steps of 1/254), or computed again from X, which then stays alive.
enum class KeptResidual : uint8_t { kFloat32, kInt8, kRecompute };

/// The task loss's gradient by the steps s of an operand's quantiser, one entry per scale. Rounding is passed
/// straight through, so dL/ds = sum over the scale's elements of dL/dx^ (q - u) with u = (x - offset) / s.
struct StepGradients {
  std::vector<double> by_step;
  std::vector<QuantParams> params;
  int word_length = 0;
};

/// What a gate's options apply to. kBlock: a residual block runs once per option, its outputs are mixed.
/// kOperand: it runs once, and inside each GEMM a sample's operands have the formats of its option.
enum class GateForm : uint8_t { kBlock, kOperand };

/// A small network that chooses one of several precisions for each sample and residual block (FracTrain).
struct GateRequest {
  int options = 1;
  GateForm form = GateForm::kBlock;
  /// The gate learns from every option; otherwise from the chosen one and its cost.
  bool is_exact = true;
  std::vector<int64_t> features{32, 16};  ///< channels of the 1x1 convolutions on a block's pooled input
  int64_t hidden = 16;                    ///< units of the LSTM that all blocks share
  /// Which options skip the block: its shortcut, or its input, is its output then. Empty: none.
  std::vector<bool> skips{};
  bool can_skip(int option) const {
    return static_cast<size_t>(option) < skips.size() && skips[static_cast<size_t>(option)];
  }
};

/// What the gate chose in one forward.
struct GateUse {
  std::vector<double> samples;  ///< [block][option], in execution order: how many chose it
  int blocks = 0;
  int64_t batch = 0;
  double task_loss = 0.0;
  /// Multiply-accumulates of each block for one sample, those of depth-wise convolutions apart; both empty
  /// where blocks count alike.
  std::vector<double> macs{}, depthwise_macs{};
};

/// How a tensor is to be quantised now. Without `params` the format's own rule applies to the tensor's range.
struct TensorPlan {
  Format format;
  std::optional<QuantParams> params;
  std::string reason;       ///< non-empty when this plan is a new decision: one line for precision.jsonl
  nlohmann::json evidence;  ///< the numbers that the decision was made from
};

/// How the range that evaluation quantises with follows from the ranges of training:
/// run <- momentum * run + (1 - momentum) * new.
struct RunningRange {
  double momentum = 0.0;       ///< 0: the range of the last training step
  bool start_at_zero = false;  ///< as SBM's code; otherwise the first range is taken whole
};

/// Where a run stands. All counters are 0-based.
struct StepInfo {
  int64_t step = 0;  ///< optimiser steps since the start of training
  int64_t epoch = 0;
  int64_t steps_per_epoch = 1;
  int64_t total_steps = 1;
  int micro_batch = 0;  ///< within the step, when gradients are accumulated
  bool training = true;
};

struct StepReport {
  double loss = 0.0;
  double learning_rate = 0.0;
};

struct EpochReport {
  int64_t epoch = 0;
  double train_loss = 0.0;
  std::optional<double> validation_loss;
  std::optional<double> validation_accuracy;
};

/// What a policy may ask of the training loop at the end of an epoch.
struct RunControl {
  std::optional<double> learning_rate;
  bool stop = false;
};

/// Arithmetic that the whole network runs in when a policy quantises nothing.
enum class FloatArithmetic : uint8_t { kFloat32, kBFloat16Autocast };

enum class Normalization : uint8_t { kBatch, kRange };

enum class Initializer : uint8_t {
  kPublished,        ///< what the network was published with, else He et al.'s or LibTorch's
  kTruncatedNormal,  ///< AdaPT's truncated normal variance scaling (models/initializer.h)
};

/// What the values between a block's GEMMs and its other passes are stored in.
enum class Between : uint8_t { kFloat32, kBFloat16 };

/// Which results a policy quantises besides the operands of GEMMs. With any of them on, stages run their
/// modules one after the other. A normalisation or pool counts to the layer that ran before it. Gradients
/// pass the quantiser of an output unchanged.
struct ResultQuantization {
  bool outputs = false;          ///< kOutput of layers
  bool norm_inputs = false;      ///< kOutput of what enters a normalisation
  bool norm_outputs = false;     ///< kOutput of normalisations
  bool pool_inputs = false;      ///< kOutput of what enters an average pool
  bool pool_outputs = false;     ///< kOutput of average pools
  bool grad_inputs = false;      ///< kGradInput of layers and average pools
  bool inputs_in_place = false;  ///< X is overwritten by its quantised values, for every reader
  bool any() const {
    return outputs || norm_inputs || norm_outputs || pool_inputs || pool_outputs || grad_inputs ||
           inputs_in_place;
  }
};

/// A trainable tensor as a ParameterRule knows it.
struct ParameterInfo {
  std::string name;  ///< "layer1.0.conv1.weight"
  std::vector<int64_t> shape;
  int layer = -1;  ///< the quantised layer that owns it; of a normalisation the layer before it; -1: none
  bool is_weight = false;  ///< the weight of that layer's GEMMs
  int64_t elements() const;
};

/// One parameter at an update. Spans have the memory order of the parameter: dimension 0 is the outermost.
struct ParameterUpdate {
  int parameter = 0;
  std::span<float> gradient;
  std::span<const float> master;   ///< float32 values, which receive the update
  std::span<const float> working;  ///< what the network computed with
  double weight_decay = 0.0;       ///< the optimiser's for this parameter
  StepInfo step;
};

/// What policies do that quantise parameters and gradients themselves (MuPPET, AdaPT). The training loop
/// keeps float32 masters aside and lets the network compute with working values: the masters in the format of
/// working(), written before the first forward and after each update. At an update, per parameter in order:
/// prepare, gradient (the quantiser), update; then the optimiser changes the masters.
class ParameterRule {
 public:
  virtual ~ParameterRule() = default;
  /// Once, after Policy::attach; in the order of the module tree. The gradients of an update come in the same
  /// order, without those of parameters that have none.
  virtual void attach_parameters(std::span<const ParameterInfo> parameters) = 0;

  /// How the working values are quantised; a float format: they are the masters.
  virtual TensorPlan working(int parameter, TensorProbe& master) = 0;
  /// The working values just written, and how many of them are zero.
  virtual void observe_working(int /*parameter*/, std::span<const float> /*working*/) {}

  /// `loss`: of the last micro-batch, before it was scaled for accumulation.
  virtual void begin_update(const StepInfo&, double /*loss*/, int64_t /*micro_batches*/) {}
  /// May change the gradient before it is quantised (L1).
  virtual void prepare(const ParameterUpdate&) {}
  /// How the gradient is quantised.
  virtual TensorPlan gradient(int parameter, TensorProbe& gradient) = 0;
  /// May change the quantised gradient (normalisation, weight decay) and decide.
  virtual void update(const ParameterUpdate&) {}
  /// True when update() has added the weight decay, so that the optimiser must not.
  virtual bool decays_weights() const { return false; }

  /// State too large for JSON, by name: saved and restored beside Policy::state, always of the same sizes.
  virtual std::vector<std::pair<std::string, std::span<float>>> buffers() { return {}; }
};

/// One precision policy. Methods are called from one thread. The order within a step: begin_step; per layer,
/// while the network runs, plan and observe for each operand; end_step; after the last step of an epoch,
/// end_epoch.
class Policy {
 public:
  virtual ~Policy() = default;

  virtual std::string name() const = 0;
  virtual nlohmann::json options() const { return nlohmann::json::object(); }

  /// Called once, before the first step, with every quantised layer in execution (registration) order.
  virtual void attach(std::span<const LayerInfo> layers) { layers_.assign(layers.begin(), layers.end()); }

  virtual void begin_step(const StepInfo&) {}

  /// The precision of one operand, asked each time it is about to be quantised.
  virtual TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) = 0;

  /// What the quantise pass counted.
  virtual void observe(TensorId, const StepInfo&, const QuantizeStatistics&) {}

  /// Set where the policy learns from the task loss: backward then reports dL/ds of the layer's W and X
  /// (observe_step_gradients), for which a first layer computes its dX, too. Steps of formats above 16 bits
  /// have none.
  virtual std::optional<KeptResidual> step_gradients(int /*layer*/) const { return std::nullopt; }
  /// kWeight and kInput, once per backward of the layer: with gradient accumulation once per micro-batch.
  virtual void observe_step_gradients(TensorId, const StepInfo&, const StepGradients&) {}

  /// Set by a policy that lets a gate choose: the layers of residual blocks then ask for the precision of an
  /// option, all others as ever. Asked before the network is made.
  virtual std::optional<GateRequest> gate() const { return std::nullopt; }
  /// After each training forward with a gate: the loss gets the sum of weight * samples over `use.samples`.
  virtual std::vector<double> weigh_gate(const GateUse& use, const StepInfo&) {
    return std::vector<double>(use.samples.size(), 0.0);
  }
  /// The word length to report where one number per tensor says too little.
  virtual std::optional<double> mean_bits(TensorId) const { return std::nullopt; }
  /// How the bits of a layer's X and dY vary together over samples: mean of their product less the product of
  /// their means.
  virtual double bits_covariance(int /*layer*/) const { return 0.0; }

  /// The multiply-accumulates of a layer for one sample, when its first forward has shown them.
  virtual void set_macs(int layer, int64_t macs) { layers_.at(static_cast<size_t>(layer)).macs = macs; }

  virtual void end_step(const StepInfo&, const StepReport&) {}

  /// Replay: the plan that the logged `evidence` of a decision (TensorPlan::evidence) led to at this step,
  /// worked out again without a network. Called on a policy that was attached and not trained, decision by
  /// decision in the order of the log. What the answer's own evidence holds is compared with the logged
  /// numbers, too. Nothing: the evidence does not carry this decision.
  virtual std::optional<TensorPlan> redecide(TensorId, const StepInfo&, const nlohmann::json& /*evidence*/) {
    return std::nullopt;
  }

  virtual RunControl end_epoch(const EpochReport&) { return {}; }
  /// The same after every step, for policies whose epochs are not the run's. A stop ends the epoch early.
  virtual RunControl control(const StepInfo&) { return {}; }

  /// The precision of an operand while the network is evaluated; params as stored during training when
  /// absent.
  virtual Format evaluation_format(TensorId id) const = 0;

  /// True when a network is evaluated in a second precision as well, the one it is meant to be used in
  /// (CPT: Bmax, wherever the cycle stands).
  virtual bool has_final_precision() const { return false; }
  virtual Format final_evaluation_format(TensorId id) const { return evaluation_format(id); }

  /// The scale for `evaluation_format`, where neither what training stored nor a running range is wanted.
  virtual std::optional<QuantParams> evaluation_params(TensorId, TensorProbe&) const { return std::nullopt; }

  /// The range that evaluation uses for plans without params.
  virtual RunningRange running_range(TensorId) const { return {}; }

  /// The arithmetic outside quantised GEMMs.
  virtual FloatArithmetic float_arithmetic() const { return FloatArithmetic::kFloat32; }
  virtual Normalization normalization() const { return Normalization::kBatch; }
  virtual Initializer initializer() const { return Initializer::kPublished; }
  virtual Between between() const { return Between::kFloat32; }
  /// True when the policy decides by speed; the owner of the session calls set_timings once, after attach.
  /// Without timings such a policy takes the narrowest arithmetic for the fastest.
  virtual bool needs_timings() const { return false; }
  virtual void set_timings(std::shared_ptr<Timings>) {}
  virtual ResultQuantization results() const { return {}; }
  /// Null when the parameters are the optimiser's alone. Lives as long as the policy.
  virtual ParameterRule* parameter_rule() { return nullptr; }
  /// Whether GEMMs run on the integer kernels where they can; told once, before attach.
  virtual void set_arithmetic(bool /*is_integer*/) {}
  /// False when the policy never quantises: layers then run LibTorch's own kernels.
  virtual bool quantizes() const { return true; }

  /// Everything that the next decision depends on; load_state(state()) restores it exactly.
  virtual nlohmann::json state() const { return nlohmann::json::object(); }
  virtual void load_state(const nlohmann::json&) {}

 protected:
  std::vector<LayerInfo> layers_;
};

}  // namespace bitdial
