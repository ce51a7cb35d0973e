#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/weight_packing.h"
#include "bitdial/nn/buffer_pool.h"
#include "bitdial/nn/quantized_layer.h"
#include "bitdial/nn/session.h"
#include "bitdial/nn/weight_updater.h"
#include "bitdial/ops/gemm.h"

/// The inside of a Session: not part of the public interface.
namespace bitdial::nn {

class LayerBinding;
class LayerOperands;

/// What is kept of one operand from step to step, and what evaluation quantises with.
struct TensorRecord {
  bool is_planned = false;
  Format format;                    ///< of the last plan in training
  std::vector<QuantParams> params;  ///< with `format`; empty where they depend on the batch
  bool is_prescribed = false;       ///< the params came from the policy, not from a range
  std::optional<Range> running;     ///< for evaluation (Policy::running_range)
  std::optional<Range> previous;    ///< for RangeSource::kPrevious
  bool measure_next = false;        ///< the last quantise saturated too much
};

/// The range and codes of a weight that a WeightUpdater has changed, for as long as nobody else does.
struct PreparedWeight {
  const void* data = nullptr;
  int64_t version = 0;
  Range range;
  ops::QuantizedTensor quantized;  ///< nearest rounding; may be undefined
  QuantizeStatistics statistics;
  /// `quantized.codes` as FPROP and BPROP of a convolution read them; may be undefined.
  at::Tensor packed_fprop = {}, packed_bprop = {};
  kernels::ConvShape packed_shape;
  kernels::Isa packed_isa = kernels::Isa::kScalar;

  void set_weight(const at::Tensor& weight);
  bool is_of(const at::Tensor& weight) const;
  /// Whether these codes lie packed for such a convolution, of any batch.
  bool has_packed(const at::Tensor& codes, kernels::ConvShape shape) const;
  /// What packs codes into packed_fprop and packed_bprop, which come from the pool; null: nothing does.
  std::unique_ptr<kernels::WeightPacking> start_packing(const kernels::ConvShape& shape,
                                                        kernels::CodeType type, BufferPool& pool);
};

/// The operands that a GEMM last ran with.
struct GemmRecord {
  bool is_known = false;
  int bits_a = 32;
  int bits_b = 32;
  bool is_integer = false;   ///< ran on the integer kernels
  bool is_bfloat16 = false;  ///< ran in bfloat16
  unsigned ran = 0;          ///< all arithmetics since begin_step, one bit each: a gate's options may differ
};

/// Adds the arithmetic of the operands just noted to `ran`.
void count_arithmetic(GemmRecord& gemm, Arithmetic arithmetic);

/// "int8", "int16", "int8xint16", "bfloat16", "float32", or "simulated" for float arithmetic on the values of
/// quantised operands.
std::string_view arithmetic_name(const GemmRecord& gemm, Arithmetic arithmetic);

class SessionCore : public std::enable_shared_from_this<SessionCore> {
 public:
  SessionCore(std::shared_ptr<Policy> policy, SessionOptions options);
  ~SessionCore();

  struct Found {
    LayerInfo info;
    QuantizedLayer* layer = nullptr;               ///< a bitdial layer, or
    std::weak_ptr<torch::nn::Module> module = {};  ///< LibTorch's own,
    at::Tensor weight = {};                        ///< known by its weight
  };
  void attach(std::vector<Found> found, at::DeviceType device);

  void begin_step(const StepInfo& step);
  void end_step(const StepInfo& step, const StepReport& report);
  PrecisionSummary summary() const;
  std::vector<LayerBits> layer_bits() const;
  std::vector<LayerArithmetic> gemm_arithmetic() const;
  nlohmann::json state() const;
  void load_state(const nlohmann::json& state);

  const std::vector<LayerInfo>& layers() const { return layers_; }
  const std::vector<std::shared_ptr<LayerBinding>>& bindings() const { return bindings_; }
  Policy& policy() { return *policy_; }
  const SessionOptions& options() const { return options_; }
  ReducedAxis reduced_axis() const;
  Between between() const { return options_.between.value_or(policy_->between()); }
  const std::shared_ptr<BufferPool>& buffers() const { return buffers_; }
  at::DeviceType device() const { return device_; }  ///< where the network lay when it was attached
  const StepInfo& step() const { return step_; }
  bool has_begun() const { return has_begun_; }
  WeightUpdater* weight_updater() const { return weight_updater_; }
  void set_weight_updater(WeightUpdater* updater) { weight_updater_ = updater; }
  /// The layer that ran last, which normalisations and pools behind it count to; null before the first.
  const std::shared_ptr<LayerBinding>& last_layer() const { return last_layer_; }
  bool last_layer_trains() const { return last_layer_trains_; }
  void set_last_layer(std::shared_ptr<LayerBinding> layer, bool training) {
    last_layer_ = std::move(layer);
    last_layer_trains_ = training;
  }
  EvaluationPrecision evaluation_precision() const { return evaluation_precision_; }
  void set_evaluation_precision(EvaluationPrecision precision) { evaluation_precision_ = precision; }
  bool has_other_final_precision() const;
  void set_macs(int layer, int64_t macs);
  void add_event(int layer, TensorRole role, const TensorPlan& plan, const std::vector<QuantParams>& params,
                 std::string reason);

 private:
  struct PendingEvent {
    int layer = 0;
    PrecisionEvent event;
  };

  std::shared_ptr<Policy> policy_;
  SessionOptions options_;
  bool is_attached_ = false;
  bool has_begun_ = false;
  StepInfo step_;
  at::DeviceType device_ = at::kCPU;
  std::vector<LayerInfo> layers_;
  std::vector<std::shared_ptr<LayerBinding>> bindings_;
  std::vector<PendingEvent> events_;
  std::shared_ptr<BufferPool> buffers_ = std::make_shared<BufferPool>();
  WeightUpdater* weight_updater_ = nullptr;
  EvaluationPrecision evaluation_precision_ = EvaluationPrecision::kCurrent;
  std::shared_ptr<LayerBinding> last_layer_;
  bool last_layer_trains_ = false;
};

/// One layer's place in a session: asks the policy for the precision of each operand and quantises it.
class LayerBinding : public std::enable_shared_from_this<LayerBinding> {
 public:
  LayerBinding(std::weak_ptr<SessionCore> core, int index, const SessionCore::Found& found);

  /// False when the session has ended or its policy quantises nothing: the layer runs LibTorch's kernels.
  bool is_active() const;

  std::shared_ptr<SessionCore> session() const { return core_.lock(); }
  /// Of X for FPROP in one of a gate's options.
  Format input_format(int option) const;
  /// Policy::step_gradients, where the layer trains.
  std::optional<KeptResidual> step_gradients(bool training) const;
  /// The operands of one forward and its backward: asked for once per call of the layer.
  std::shared_ptr<LayerOperands> begin(bool training, const kernels::ConvShape& shape);

  at::Tensor conv2d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                    const ops::ConvOptions& options, bool training);
  at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool training);

  const at::Tensor& weight() const { return weight_; }
  std::shared_ptr<torch::nn::Module> module() const { return module_.lock(); }
  TensorRecord& record(TensorRole role) { return records_[static_cast<size_t>(role)]; }
  const TensorRecord& record(TensorRole role) const { return records_[static_cast<size_t>(role)]; }
  GemmRecord& gemm(Gemm gemm) { return gemms_[static_cast<size_t>(gemm)]; }
  const GemmRecord& gemm(Gemm gemm) const { return gemms_[static_cast<size_t>(gemm)]; }
  void reset_calls() {
    calls_ = {};
    forwards_ = 0;
    for (GemmRecord& gemm : gemms_) gemm.ran = 0;
  }

 private:
  friend class LayerOperands;
  std::shared_ptr<SessionCore> begin_call(bool& training);
  // What the policy does to results (nn/results.h).
  at::Tensor prepare_input(const at::Tensor& x, bool training);
  at::Tensor finish_output(const at::Tensor& y, bool training);

  std::weak_ptr<SessionCore> core_;
  int index_ = 0;
  std::weak_ptr<torch::nn::Module> module_;  // converted modules only
  at::Tensor weight_;                        // converted modules only
  std::array<TensorRecord, kTensorRoles> records_;
  std::array<GemmRecord, 3> gemms_;
  std::array<uint32_t, kTensorRoles> calls_{};
  int forwards_ = 0;  ///< since begin_step
  PreparedWeight prepared_;
};

}  // namespace bitdial::nn
