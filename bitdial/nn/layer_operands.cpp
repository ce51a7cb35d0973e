#include "bitdial/nn/layer_operands.h"

#include <algorithm>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/core/profile.h"

namespace bitdial::nn {

using ops::QuantizedTensor;

namespace {

// Random bits of evaluation do not depend on where training stands.
constexpr uint64_t kEvaluationStep = ~uint64_t{0};

QuantizedTensor without_codes(const QuantizedTensor& x) {
  return {.codes = {}, .params = x.params, .format = x.format};
}

Range blend(const Range& old, const Range& next, double momentum) {
  const auto mix = [&](float a, float b) {
    return static_cast<float>(momentum * static_cast<double>(a) + (1.0 - momentum) * static_cast<double>(b));
  };
  return {mix(old.min, next.min), mix(old.max, next.max)};
}

/// A weight whose range and codes a WeightUpdater has left, or which nobody knows anything about.
class WeightSource : public TensorSource {
 public:
  WeightSource(const at::Tensor& weight, PreparedWeight& prepared)
      : TensorSource(weight), prepared_(prepared.is_of(weight) ? &prepared : nullptr) {
    if (prepared_ != nullptr) range_ = prepared_->range;
  }

  QuantizedTensor quantize(const Format& format, std::span<const QuantParams> params, RandomKey key,
                           QuantizeStatistics& statistics) override {
    if (prepared_ == nullptr || format.rounding != Rounding::kNearestEven) {
      return TensorSource::quantize(format, params, key, statistics);
    }
    QuantizedTensor& known = prepared_->quantized;
    const bool is_known =
        known.defined() && known.format == format && std::ranges::equal(known.params, params);
    if (!is_known) {
      known = TensorSource::quantize(format, params, key, prepared_->statistics);
      prepared_->packed_fprop.reset();
      prepared_->packed_bprop.reset();
    }
    statistics = prepared_->statistics;
    return known;
  }

 private:
  PreparedWeight* prepared_;
};

/// Some of a batch's samples, quantised with the range of all.
class GroupSource : public TensorSource {
 public:
  GroupSource(const at::Tensor& x, const std::optional<Range>& of_all) : TensorSource(x) { range_ = of_all; }

  QuantizedTensor quantize(const Format& format, std::span<const QuantParams> params, RandomKey key,
                           QuantizeStatistics& statistics) override {
    QuantizedTensor codes = TensorSource::quantize(format, params, key, statistics);
    if (statistics.range.is_finite()) statistics.range = range();
    return codes;
  }
};

bool is_same(const TensorPlan& a, const TensorPlan& b) {
  return a.format == b.format && a.params == b.params;
}

}  // namespace

ops::ForwardOperands LayerOperands::forward(const at::Tensor& x, const at::Tensor& weight,
                                            ops::Needed needed) {
  if (option_.ranges != nullptr) {
    GroupSource source(x, option_.ranges->x);
    return forward(source, weight, needed);
  }
  TensorSource source(x);
  return forward(source, weight, needed);
}

ops::ForwardOperands LayerOperands::forward(OperandSource& x, const at::Tensor& weight, ops::Needed needed) {
  ops::ForwardOperands operands;
  WeightSource weights(weight, layer_->prepared_);
  Copies w = quantize(TensorRole::kWeight, weights, plan(TensorRole::kWeight, weights),
                      {.kept = true, .whole = needed.input});
  const TensorPlan input = plan(TensorRole::kInput, x);
  const TensorPlan wtgrad = needed.weight ? plan(TensorRole::kInputWtgrad, x) : input;
  const bool is_shared = needed.weight && is_same(input, wtgrad);
  Copies copies = quantize(TensorRole::kInput, x, input, {.kept = true, .whole = is_shared});
  note(Gemm::kFprop, copies.kept, true, w.kept, true);
  if (is_shared) {
    observe_again(TensorRole::kInputWtgrad, wtgrad);
    operands.x_wtgrad = std::move(copies.whole);
  } else if (needed.weight) {
    operands.x_wtgrad = quantize(TensorRole::kInputWtgrad, x, wtgrad, {.kept = false, .whole = true}).whole;
  }
  operands.x = std::move(copies.kept);
  operands.w = std::move(w.kept);
  if (const auto kept = layer_->step_gradients(training_)) {
    const PhaseScope phase(Phase::kPolicy);
    tape_.emplace(*kept);
    if (operands.w.has_codes()) tape_->keep_weight(weight, operands.w);
    if (operands.x.has_codes() && needed.input) tape_->keep_input(x.values(), operands.x);
  }
  operands.w_bprop = std::move(w.whole);
  w_bprop_ = without_codes(operands.w_bprop);
  x_wtgrad_ = without_codes(operands.x_wtgrad);
  if (const PreparedWeight& prepared = layer_->prepared_; shape_ && prepared.is_of(weight)) {
    if (prepared.has_packed(operands.w.codes, *shape_)) operands.w.packed = prepared.packed_fprop;
    if (prepared.has_packed(operands.w_bprop.codes, *shape_)) operands.w_bprop.packed = prepared.packed_bprop;
  }
  return operands;
}

ops::BackwardOperands LayerOperands::backward(const at::Tensor& dy, ops::Needed needed) {
  if (option_.ranges != nullptr) {
    GroupSource source(dy, option_.ranges->dy);
    return backward(source, needed);
  }
  TensorSource source(dy);
  return backward(source, needed);
}

ops::BackwardOperands LayerOperands::backward(OperandSource& dy, ops::Needed needed) {
  ops::BackwardOperands operands;
  const TensorPlan bprop = needed.input ? plan(TensorRole::kGradBprop, dy) : TensorPlan{};
  const TensorPlan wtgrad = needed.weight ? plan(TensorRole::kGradWtgrad, dy) : TensorPlan{};
  const bool is_shared = needed.input && needed.weight && is_same(bprop, wtgrad);
  if (needed.input) {
    if (is_shared) announce_wtgrad(dy);
    Copies copies = quantize(TensorRole::kGradBprop, dy, bprop, {.kept = true, .whole = is_shared});
    operands.bprop = std::move(copies.kept);
    note(Gemm::kBprop, operands.bprop, true, w_bprop_, false);
    if (is_shared) {
      observe_again(TensorRole::kGradWtgrad, wtgrad);
      operands.wtgrad = std::move(copies.whole);
    }
  }
  if (needed.weight) {
    if (!is_shared) {
      announce_wtgrad(dy);
      operands.wtgrad = quantize(TensorRole::kGradWtgrad, dy, wtgrad, {.kept = false, .whole = true}).whole;
    }
    note(Gemm::kWtgrad, x_wtgrad_, false, operands.wtgrad, false);
  }
  return operands;
}

void LayerOperands::announce_wtgrad(OperandSource& dy) const {
  if (shape_ && core()->options().arithmetic == Arithmetic::kInteger) dy.pack_for_wtgrad(*shape_);
}

void LayerOperands::observe_gradients(const at::Tensor& dx, const at::Tensor& dw) {
  if (!tape_) return;
  const PhaseScope phase(Phase::kPolicy);
  const auto session = core();
  const auto tell = [&](TensorRole role, const std::optional<StepGradients>& gradients) {
    if (gradients) session->policy().observe_step_gradients(id(role), session->step(), *gradients);
  };
  tell(TensorRole::kWeight, tape_->weight(dw));
  tell(TensorRole::kInput, tape_->input(dx));
}

at::Tensor LayerOperands::on_grid(TensorRole role, const at::Tensor& x) {
  const bool wants_nhwc =
      core()->options().arithmetic == Arithmetic::kInteger && x.device().is_cpu() && x.dim() == 4;
  TensorSource source(ops::to_dense(x, wants_nhwc));
  const QuantizedTensor quantized =
      quantize(role, source, plan(role, source), {.kept = true, .whole = false}).kept;
  return quantized.has_codes() ? ops::dequantize(quantized, x.scalar_type())
                               : quantized.codes.to(x.scalar_type());
}

int LayerOperands::layer() const { return layer_->index_; }

bool LayerOperands::update_weight(const at::Tensor& weight, const at::Tensor& gradient) {
  const auto session = core();
  WeightUpdater* updater = session->weight_updater();
  const auto order = weight.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const bool is_possible = updater != nullptr && training_ && layer_->forwards_ == 1 &&
                           weight.scalar_type() == at::kFloat && weight.is_contiguous(order) &&
                           gradient.is_contiguous(order);
  auto update = is_possible ? updater->begin(weight) : std::nullopt;
  if (!update) return false;
  update->gradient = gradient.const_data_ptr<float>();
  const auto params = next_weight_params();
  const Format& format = layer_->record(TensorRole::kWeight).format;
  PreparedWeight prepared;
  ops::QuantizedTensor& next = prepared.quantized;
  QuantizeStatistics& statistics = prepared.statistics;
  if (params) {
    next = {.codes = session->buffers()->take(weight.sizes(), ops::code_dtype(container(format))),
            .params = {*params},
            .format = format};
    const bool is_integer = session->options().arithmetic == Arithmetic::kInteger;
    const auto packing =
        shape_ && is_integer
            ? prepared.start_packing(*shape_, ops::code_type(container(format)), *session->buffers())
            : nullptr;
    const kernels::TensorShape shape = ops::kernel_shape(weight);
    void* codes = next.codes.mutable_data_ptr();
    statistics = packing != nullptr
                     ? kernels::update_and_quantize(*update, shape, format, next.params, {}, codes, *packing)
                     : kernels::update_and_quantize(*update, shape, format, next.params, {}, codes);
  } else {
    statistics.range = kernels::update(*update);
  }
  weight.unsafeGetTensorImpl()->bump_version();
  prepared.set_weight(weight);
  prepared.range = statistics.range;
  updater->end(weight, prepared.range);
  layer_->prepared_ = std::move(prepared);
  return true;
}

// What the next step will quantise the weight with, where that is certain to be one scale without a look at
// the tensor. If the policy decides otherwise, the codes are made anew then.
std::optional<QuantParams> LayerOperands::next_weight_params() const {
  const TensorRecord& record = layer_->record(TensorRole::kWeight);
  const Format& format = record.format;
  if (!record.is_planned || !has_integer_codes(format) || format.rounding != Rounding::kNearestEven ||
      format.granularity != Granularity::kTensor) {
    return std::nullopt;
  }
  const auto prescribed = record.is_prescribed ? std::optional(record.params[0]) : std::nullopt;
  return unmeasured_params(TensorRole::kWeight, format, prescribed);
}

std::shared_ptr<SessionCore> LayerOperands::core() const {
  auto core = layer_->core_.lock();
  require(core != nullptr, "session", "the session ended between a layer's forward and its backward");
  return core;
}

TensorId LayerOperands::id(TensorRole role) const {
  return {.layer = layer_->index_, .role = role, .option = option_.index};
}
const std::string& LayerOperands::name() const {
  return core()->layers()[static_cast<size_t>(layer_->index_)].name;
}

TensorPlan LayerOperands::plan(TensorRole role, TensorProbe& probe) {
  const auto session = core();
  const TensorRecord& record = layer_->record(role);
  TensorPlan plan;
  if (training_) {
    const PhaseScope phase(Phase::kPolicy);
    plan = session->policy().plan(id(role), session->step(), probe);
  } else {
    const bool is_final = session->evaluation_precision() == EvaluationPrecision::kFinal;
    plan.format = is_final ? session->policy().final_evaluation_format(id(role))
                           : session->policy().evaluation_format(id(role));
    const bool is_stored = record.is_prescribed && record.format == plan.format && record.params.size() == 1;
    plan.params = session->policy().evaluation_params(id(role), probe);
    if (!plan.params && is_stored) plan.params = record.params[0];
  }
  const Granularity wrong = role == TensorRole::kWeight ? Granularity::kSample : Granularity::kChannel;
  require(plan.format.is_float() || plan.format.granularity != wrong, "session",
          "{}: {} cannot have a scale per {}", name(), to_string(role),
          role == TensorRole::kWeight ? "sample" : "output channel");
  return plan;
}

// A second copy is made only where the first has several scales and the session requantises such operands.
LayerOperands::Copies LayerOperands::quantize(TensorRole role, OperandSource& x, const TensorPlan& plan,
                                              Wanted wanted) {
  if (plan.format.is_float()) {
    if (training_) remember(role, plan, {}, {});
    const QuantizedTensor values = ops::unquantized(x.values(), plan.format);
    return {.kept = values, .whole = wanted.whole ? values : QuantizedTensor{}};
  }
  const Scales scales = choose_scales(role, x, plan);
  const bool needs_copy =
      wanted.whole && scales.params.size() > 1 && core()->reduced_axis() == ReducedAxis::kRequantise;
  Copies copies;
  QuantizeStatistics statistics;
  if (wanted.kept || !needs_copy) {
    copies.kept = x.quantize(plan.format, scales.params, key(role), statistics);
    check_finite(role, statistics.range);
  }
  if (needs_copy) {
    copies.whole = ops::quantize_whole(x.values(), plan.format, scales.ranges, key(role), &statistics);
  } else if (wanted.whole) {
    copies.whole = copies.kept;
  }
  if (training_) remember(role, plan, scales, statistics);
  return copies;
}

LayerOperands::Scales LayerOperands::choose_scales(TensorRole role, OperandSource& x,
                                                   const TensorPlan& plan) {
  const Format& format = plan.format;
  if (const auto params = unmeasured_params(role, format, plan.params)) {
    return {.params = {*params}, .ranges = {}};
  }
  const bool is_plain =
      format.granularity == Granularity::kTensor && format.range_statistic == RangeStatistic::kExtreme;
  Scales scales;
  scales.ranges = is_plain ? std::vector<Range>{x.range()}
                           : ops::measure_range(x.values(), format.granularity, format.range_statistic);
  check_finite(role, ops::union_of(scales.ranges));
  scales.params = ops::choose_params(format, scales.ranges);
  return scales;
}

// The one scale that is known without a look at the tensor: the policy's, the format's, or that of a stored
// range.
std::optional<QuantParams> LayerOperands::unmeasured_params(
    TensorRole role, const Format& format, const std::optional<QuantParams>& prescribed) const {
  if (prescribed) return prescribed;
  if (format.rule == ScaleRule::kFixed) return bitdial::choose_params(format, Range{});
  const auto stored = stored_range(role, format);
  return stored ? std::optional(bitdial::choose_params(format, *stored)) : std::nullopt;
}

// The range to use without a look at the tensor: of earlier steps in training, the running one in
// evaluation. A weight is known before it is used, so evaluation measures it.
std::optional<Range> LayerOperands::stored_range(TensorRole role, const Format& format) const {
  const TensorRecord& record = layer_->record(role);
  if (format.granularity != Granularity::kTensor) return std::nullopt;
  if (!training_) return role == TensorRole::kWeight ? std::nullopt : record.running;
  const bool is_usable = format.range_source == RangeSource::kPrevious &&
                         format.range_statistic == RangeStatistic::kExtreme && !record.measure_next &&
                         record.format == format;
  return is_usable ? record.previous : std::nullopt;
}

void LayerOperands::check_finite(TensorRole role, const Range& range) const {
  const auto session = core();
  require(range.is_finite(), "quantize", "{}: {} is not finite at step {}", name(), to_string(role),
          session->step().step);
}

RandomKey LayerOperands::key(TensorRole role) {
  const auto session = core();
  const auto tensor = static_cast<uint32_t>(role);
  RandomCounters counters{.seed = session->options().seed,
                          .step = kEvaluationStep,
                          .layer = static_cast<uint32_t>(layer_->index_),
                          .tensor = tensor};
  if (training_) {
    counters.step = static_cast<uint64_t>(session->step().step);
    counters.micro_batch = static_cast<uint32_t>(session->step().micro_batch);
    counters.call = layer_->calls_[tensor]++;
  }
  return random_key(counters);
}

void LayerOperands::remember(TensorRole role, const TensorPlan& plan, const Scales& scales,
                             const QuantizeStatistics& statistics) {
  const auto session = core();
  TensorRecord& record = layer_->record(role);
  // The options of a gate take turns: that is no change.
  const bool is_new = !record.is_planned || (record.format != plan.format && option_.index == kNoOption);
  if (is_new || !plan.reason.empty()) {
    const char* reason = !record.is_planned ? "first step" : "format changed";
    session->add_event(layer_->index_, role, plan, scales.params, plan.reason.empty() ? reason : plan.reason);
  }
  if (is_new) record.previous.reset();
  record.is_planned = true;
  record.format = plan.format;
  record.is_prescribed = plan.params.has_value();
  record.params =
      plan.format.granularity == Granularity::kSample ? std::vector<QuantParams>{} : scales.params;
  if (plan.format.is_float()) return;
  update_ranges(role, record, plan.format, scales, statistics);
  observe(role, statistics);
  last_statistics_ = statistics;
}

void LayerOperands::update_ranges(TensorRole role, TensorRecord& record, const Format& format,
                                  const Scales& scales, const QuantizeStatistics& statistics) {
  const auto session = core();
  const bool is_mean =
      format.range_statistic == RangeStatistic::kSampleMean && format.granularity == Granularity::kTensor;
  const Range range = is_mean && !scales.ranges.empty() ? scales.ranges[0] : statistics.range;
  const RunningRange running = session->policy().running_range(id(role));
  const bool starts = !record.running.has_value();
  record.running = starts && !running.start_at_zero
                       ? range
                       : blend(starts ? Range{} : *record.running, range, running.momentum);
  const bool was_measured = !record.previous || record.measure_next;
  record.previous =
      was_measured ? range : blend(*record.previous, range, session->options().previous_momentum);
  record.measure_next = statistics.saturated_fraction() > session->options().saturation_limit;
}

// The tensor just quantised serves a second role, for which the policy made an equal plan. Only dY's second
// role has its own line in the log.
void LayerOperands::observe_again(TensorRole role, const TensorPlan& plan) {
  if (!training_) return;
  const auto session = core();
  const bool is_input = role == TensorRole::kInputWtgrad;
  const TensorRecord& first = layer_->record(is_input ? TensorRole::kInput : TensorRole::kGradBprop);
  TensorRecord& record = layer_->record(role);
  const bool is_new = !record.is_planned || (record.format != plan.format && option_.index == kNoOption);
  if (!is_input && (is_new || !plan.reason.empty())) {
    session->add_event(layer_->index_, role, plan, first.params,
                       plan.reason.empty() ? "the same as dy_bprop" : plan.reason);
  }
  record = first;
  if (!plan.format.is_float()) observe(role, last_statistics_);
}

void LayerOperands::observe(TensorRole role, const QuantizeStatistics& statistics) {
  const PhaseScope phase(Phase::kPolicy);
  const auto session = core();
  session->policy().observe(id(role), session->step(), statistics);
}

void LayerOperands::note(Gemm gemm, const QuantizedTensor& a, bool keeps_axis_of_a, const QuantizedTensor& b,
                         bool keeps_axis_of_b) {
  if (!training_) return;
  GemmRecord& record = layer_->gemm(gemm);
  record.is_known = true;
  record.bits_a = a.format.word_length;
  record.bits_b = b.format.word_length;
  record.is_integer =
      ops::runs_on_integers(core()->options().arithmetic, a, keeps_axis_of_a, b, keeps_axis_of_b);
  record.is_bfloat16 = !record.is_integer && (a.format.is_bfloat16() || b.format.is_bfloat16());
  count_arithmetic(record, core()->options().arithmetic);
}

}  // namespace bitdial::nn
