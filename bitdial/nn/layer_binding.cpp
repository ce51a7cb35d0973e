#include <torch/torch.h>

#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/nn/session_core.h"

namespace bitdial::nn {

using ops::QuantizedTensor;

namespace {

// Random bits of evaluation do not depend on where training stands.
constexpr uint64_t kEvaluationStep = ~uint64_t{0};

// What a policy may measure of a tensor, each at most once.
class Probe : public TensorProbe {
 public:
  explicit Probe(const at::Tensor& x) : x_(x) {}

  Range range() override {
    if (!range_) range_ = ops::measure_range(x_, Granularity::kTensor, RangeStatistic::kExtreme)[0];
    return *range_;
  }
  double abs_sum() override {
    if (!abs_sum_) abs_sum_ = ops::abs_sum(x_);
    return *abs_sum_;
  }
  double quantized_abs_sum(int word_length, int exponent) override {
    for (const auto& [known, sum] : quantized_) {
      if (known == std::pair(word_length, exponent)) return sum;
    }
    double sum = 0.0;
    if (abs_sum_) {
      sum = ops::quantized_abs_sum(x_, word_length, exponent);
    } else {
      std::tie(abs_sum_.emplace(), sum) = ops::abs_sums(x_, word_length, exponent);
    }
    quantized_.push_back({{word_length, exponent}, sum});
    return sum;
  }

 private:
  const at::Tensor& x_;
  std::optional<Range> range_;
  std::optional<double> abs_sum_;
  std::vector<std::pair<std::pair<int, int>, double>> quantized_;
};

Range blend(const Range& old, const Range& next, double momentum) {
  const auto mix = [&](float a, float b) {
    return static_cast<float>(momentum * static_cast<double>(a) + (1.0 - momentum) * static_cast<double>(b));
  };
  return {mix(old.min, next.min), mix(old.max, next.max)};
}

bool is_same(const TensorPlan& a, const TensorPlan& b) {
  return a.format == b.format && a.params == b.params;
}

// The scales of one quantise, and the ranges that they came from where the tensor was measured.
struct Scales {
  std::vector<QuantParams> params;
  std::vector<Range> ranges;
};

// An operand's two copies: `whole` has one scale, for the GEMM that reduces the scale axis of `kept`.
struct Copies {
  QuantizedTensor kept;
  QuantizedTensor whole;
};

}  // namespace

// The operands of one call of one layer.
class LayerOperands : public ops::Operands {
 public:
  LayerOperands(std::shared_ptr<LayerBinding> layer, bool training)
      : layer_(std::move(layer)), training_(training) {}

  ops::ForwardOperands forward(const at::Tensor& x, const at::Tensor& weight, ops::Needed needed) override {
    ops::ForwardOperands operands;
    Probe weight_probe(weight);
    Copies w = quantize(TensorRole::kWeight, weight, weight_probe, plan(TensorRole::kWeight, weight_probe),
                        {.kept = true, .whole = needed.input});
    Probe probe(x);
    const TensorPlan input = plan(TensorRole::kInput, probe);
    const TensorPlan wtgrad = needed.weight ? plan(TensorRole::kInputWtgrad, probe) : input;
    const bool is_shared = needed.weight && is_same(input, wtgrad);
    Copies copies = quantize(TensorRole::kInput, x, probe, input, {.kept = true, .whole = is_shared});
    note(Gemm::kFprop, copies.kept, true, w.kept, true);
    if (is_shared) {
      observe_again(TensorRole::kInputWtgrad, wtgrad);
      operands.x_wtgrad = std::move(copies.whole);
    } else if (needed.weight) {
      operands.x_wtgrad =
          quantize(TensorRole::kInputWtgrad, x, probe, wtgrad, {.kept = false, .whole = true}).whole;
    }
    operands.x = std::move(copies.kept);
    operands.w = std::move(w.kept);
    operands.w_bprop = std::move(w.whole);
    w_bprop_ = without_codes(operands.w_bprop);
    x_wtgrad_ = without_codes(operands.x_wtgrad);
    return operands;
  }

  ops::BackwardOperands backward(const at::Tensor& dy, ops::Needed needed) override {
    ops::BackwardOperands operands;
    Probe probe(dy);
    const TensorPlan bprop = needed.input ? plan(TensorRole::kGradBprop, probe) : TensorPlan{};
    const TensorPlan wtgrad = needed.weight ? plan(TensorRole::kGradWtgrad, probe) : TensorPlan{};
    const bool is_shared = needed.input && needed.weight && is_same(bprop, wtgrad);
    if (needed.input) {
      Copies copies = quantize(TensorRole::kGradBprop, dy, probe, bprop, {.kept = true, .whole = is_shared});
      operands.bprop = std::move(copies.kept);
      note(Gemm::kBprop, operands.bprop, true, w_bprop_, false);
      if (is_shared) {
        observe_again(TensorRole::kGradWtgrad, wtgrad);
        operands.wtgrad = std::move(copies.whole);
      }
    }
    if (needed.weight) {
      if (!is_shared) {
        operands.wtgrad =
            quantize(TensorRole::kGradWtgrad, dy, probe, wtgrad, {.kept = false, .whole = true}).whole;
      }
      note(Gemm::kWtgrad, x_wtgrad_, false, operands.wtgrad, false);
    }
    return operands;
  }

 private:
  struct Wanted {
    bool kept = false;
    bool whole = false;
  };

  static QuantizedTensor without_codes(const QuantizedTensor& x) {
    return {.codes = {}, .params = x.params, .format = x.format};
  }

  std::shared_ptr<SessionCore> core() const {
    auto core = layer_->core_.lock();
    require(core != nullptr, "session", "the session ended between a layer's forward and its backward");
    return core;
  }

  TensorId id(TensorRole role) const { return {.layer = layer_->index_, .role = role}; }
  const std::string& name() const { return core()->layers()[static_cast<size_t>(layer_->index_)].name; }

  TensorPlan plan(TensorRole role, TensorProbe& probe) {
    const auto session = core();
    const TensorRecord& record = layer_->record(role);
    TensorPlan plan;
    if (training_) {
      plan = session->policy().plan(id(role), session->step(), probe);
    } else {
      plan.format = session->policy().evaluation_format(id(role));
      const bool is_stored =
          record.is_prescribed && record.format == plan.format && record.params.size() == 1;
      if (is_stored) plan.params = record.params[0];
    }
    const Granularity wrong = role == TensorRole::kWeight ? Granularity::kSample : Granularity::kChannel;
    require(plan.format.is_float() || plan.format.granularity != wrong, "session",
            "{}: {} cannot have a scale per {}", name(), to_string(role),
            role == TensorRole::kWeight ? "sample" : "output channel");
    return plan;
  }

  // A second copy is made only where the first has several scales and the session requantises such operands.
  Copies quantize(TensorRole role, const at::Tensor& x, Probe& probe, const TensorPlan& plan, Wanted wanted) {
    if (plan.format.is_float()) {
      if (training_) remember(role, plan, {}, {});
      const QuantizedTensor values = ops::unquantized(x, plan.format);
      return {.kept = values, .whole = wanted.whole ? values : QuantizedTensor{}};
    }
    const Scales scales = choose_scales(role, x, probe, plan);
    const bool needs_copy =
        wanted.whole && scales.params.size() > 1 && core()->reduced_axis() == ReducedAxis::kRequantise;
    Copies copies;
    QuantizeStatistics statistics;
    if (wanted.kept || !needs_copy) {
      copies.kept = ops::quantize(x, plan.format, scales.params, key(role), &statistics);
      check_finite(role, statistics.range);
    }
    if (needs_copy) {
      copies.whole = ops::quantize_whole(x, plan.format, scales.ranges, key(role), &statistics);
    } else if (wanted.whole) {
      copies.whole = copies.kept;
    }
    if (training_) remember(role, plan, scales, statistics);
    return copies;
  }

  Scales choose_scales(TensorRole role, const at::Tensor& x, Probe& probe, const TensorPlan& plan) {
    const Format& format = plan.format;
    if (plan.params) return {.params = {*plan.params}, .ranges = {}};
    if (format.rule == ScaleRule::kFixed) return {.params = {choose_params(format, Range{})}, .ranges = {}};
    if (const auto stored = stored_range(role, format)) {
      return {.params = {choose_params(format, *stored)}, .ranges = {}};
    }
    const bool is_plain =
        format.granularity == Granularity::kTensor && format.range_statistic == RangeStatistic::kExtreme;
    Scales scales;
    scales.ranges = is_plain ? std::vector<Range>{probe.range()}
                             : ops::measure_range(x, format.granularity, format.range_statistic);
    check_finite(role, ops::union_of(scales.ranges));
    scales.params = ops::choose_params(format, scales.ranges);
    return scales;
  }

  // The range to use without a look at the tensor: of earlier steps in training, the running one in
  // evaluation. A weight is known before it is used, so evaluation measures it.
  std::optional<Range> stored_range(TensorRole role, const Format& format) const {
    const TensorRecord& record = layer_->record(role);
    if (format.granularity != Granularity::kTensor) return std::nullopt;
    if (!training_) return role == TensorRole::kWeight ? std::nullopt : record.running;
    const bool is_usable = format.range_source == RangeSource::kPrevious &&
                           format.range_statistic == RangeStatistic::kExtreme && !record.measure_next &&
                           record.format == format;
    return is_usable ? record.previous : std::nullopt;
  }

  void check_finite(TensorRole role, const Range& range) const {
    const auto session = core();
    require(range.is_finite(), "quantize", "{}: {} is not finite at step {}", name(), to_string(role),
            session->step().step);
  }

  RandomKey key(TensorRole role) {
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

  void remember(TensorRole role, const TensorPlan& plan, const Scales& scales,
                const QuantizeStatistics& statistics) {
    const auto session = core();
    TensorRecord& record = layer_->record(role);
    const bool is_new = !record.is_planned || record.format != plan.format;
    if (is_new || !plan.reason.empty()) {
      const char* reason = !record.is_planned ? "first step" : "format changed";
      session->add_event(layer_->index_, role, plan, scales.params,
                         plan.reason.empty() ? reason : plan.reason);
    }
    if (is_new) record.previous.reset();
    record.is_planned = true;
    record.format = plan.format;
    record.is_prescribed = plan.params.has_value();
    record.params =
        plan.format.granularity == Granularity::kSample ? std::vector<QuantParams>{} : scales.params;
    if (plan.format.is_float()) return;
    update_ranges(role, record, plan.format, scales, statistics);
    session->policy().observe(id(role), session->step(), statistics);
    last_statistics_ = statistics;
  }

  void update_ranges(TensorRole role, TensorRecord& record, const Format& format, const Scales& scales,
                     const QuantizeStatistics& statistics) {
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
  void observe_again(TensorRole role, const TensorPlan& plan) {
    if (!training_) return;
    const auto session = core();
    const bool is_input = role == TensorRole::kInputWtgrad;
    const TensorRecord& first = layer_->record(is_input ? TensorRole::kInput : TensorRole::kGradBprop);
    TensorRecord& record = layer_->record(role);
    const bool is_new = !record.is_planned || record.format != plan.format;
    if (!is_input && (is_new || !plan.reason.empty())) {
      session->add_event(layer_->index_, role, plan, first.params,
                         plan.reason.empty() ? "the same as dy_bprop" : plan.reason);
    }
    record = first;
    if (!plan.format.is_float()) session->policy().observe(id(role), session->step(), last_statistics_);
  }

  void note(Gemm gemm, const QuantizedTensor& a, bool keeps_axis_of_a, const QuantizedTensor& b,
            bool keeps_axis_of_b) {
    if (!training_) return;
    GemmRecord& record = layer_->gemm(gemm);
    record.is_known = true;
    record.bits_a = a.format.word_length;
    record.bits_b = b.format.word_length;
    record.is_integer =
        ops::runs_on_integers(core()->options().arithmetic, a, keeps_axis_of_a, b, keeps_axis_of_b);
    record.is_bfloat16 = !record.is_integer && (a.format.is_bfloat16() || b.format.is_bfloat16());
  }

  std::shared_ptr<LayerBinding> layer_;
  bool training_;
  QuantizedTensor w_bprop_;   // without codes
  QuantizedTensor x_wtgrad_;  // without codes
  QuantizeStatistics last_statistics_;
};

LayerBinding::LayerBinding(std::weak_ptr<SessionCore> core, int index, const SessionCore::Found& found)
    : core_(std::move(core)), index_(index), module_(found.module), weight_(found.weight) {}

bool LayerBinding::is_active() const {
  const auto core = core_.lock();
  return core != nullptr && core->policy().quantizes();
}

std::shared_ptr<SessionCore> LayerBinding::begin_call(bool& training) {
  auto core = core_.lock();
  training = training && (!core->has_begun() || core->step().training);
  require(!training || core->has_begun(), "session",
          "begin_step must be called before a forward in training mode");
  return core;
}

at::Tensor LayerBinding::conv2d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                const ops::ConvOptions& options, bool training) {
  const auto core = begin_call(training);
  const at::Tensor batch = x.dim() == 3 ? x.unsqueeze(0) : x;
  at::Tensor y = ops::conv2d(batch, weight, bias, options, core->options().arithmetic,
                             std::make_shared<LayerOperands>(shared_from_this(), training));
  core->set_macs(index_, y.size(1) * y.size(2) * y.size(3) * (weight.numel() / weight.size(0)));
  return x.dim() == 3 ? y.squeeze(0) : y;
}

at::Tensor LayerBinding::linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                bool training) {
  const auto core = begin_call(training);
  at::Tensor y = ops::linear(x, weight, bias, core->options().arithmetic,
                             std::make_shared<LayerOperands>(shared_from_this(), training));
  const int64_t rows_per_sample = x.dim() > 1 && x.numel() > 0 ? x.numel() / (x.size(0) * x.size(-1)) : 1;
  core->set_macs(index_, rows_per_sample * weight.numel());
  return y;
}

}  // namespace bitdial::nn
