#include "bitdial/train/working_weights.h"

#include <algorithm>
#include <unordered_map>

#include "bitdial/core/error.h"
#include "bitdial/core/profile.h"
#include "bitdial/nn/operand_source.h"
#include "bitdial/ops/quantized_tensor.h"

namespace bitdial::train {

namespace {

// Streams of random bits behind those of the layers' operands (TensorRole) and of Range BN.
constexpr uint32_t kWorkingStream = kTensorRoles + 1, kGradientStream = kTensorRoles + 2;

template <class T>
std::span<T> span_of(const torch::Tensor& x) {
  const auto size = static_cast<size_t>(x.numel());
  if constexpr (std::is_const_v<T>) {
    return {x.const_data_ptr<float>(), size};
  } else {
    return {x.mutable_data_ptr<float>(), size};
  }
}

/// A norm's scale and shift belong to the layer before them, as biases do to their own.
std::vector<ParameterInfo> describe(const std::vector<LayerInfo>& layers,
                                    const std::vector<std::pair<std::string, torch::Tensor>>& parameters) {
  std::unordered_map<std::string, int> layer_of;
  for (size_t i = 0; i < layers.size(); ++i) layer_of[layers[i].name] = static_cast<int>(i);
  std::vector<ParameterInfo> all;
  int layer = -1;
  for (const auto& [name, tensor] : parameters) {
    const size_t dot = name.rfind('.');
    const auto found = layer_of.find(dot == std::string::npos ? "" : name.substr(0, dot));
    if (found != layer_of.end()) layer = found->second;
    ParameterInfo info;
    info.name = name;
    info.shape = tensor.sizes().vec();
    info.layer = layer;
    info.is_weight = found != layer_of.end() && name.ends_with("weight");
    all.push_back(std::move(info));
  }
  return all;
}

std::vector<QuantParams> params_of(const torch::Tensor& x, const TensorPlan& plan) {
  if (plan.params) return {*plan.params};
  return ops::choose_params(
      plan.format, plan.format.rule == ScaleRule::kFixed
                       ? std::vector<Range>{Range{}}
                       : ops::measure_range(x, plan.format.granularity, plan.format.range_statistic));
}

torch::Tensor on_grid(const torch::Tensor& x, const Format& format, const std::vector<QuantParams>& params,
                      RandomKey key) {
  return ops::dequantize(ops::quantize(x, format, params, key), at::kFloat);
}

double share_of_zeros(const torch::Tensor& x) {
  const int64_t count = x.numel();
  return count == 0
             ? 0.0
             : static_cast<double>(count - x.count_nonzero().item<int64_t>()) / static_cast<double>(count);
}

}  // namespace

WorkingWeights::WorkingWeights(ParameterRule& rule, const std::vector<LayerInfo>& layers,
                               torch::nn::Module& network, Optimizer* optimizer, uint64_t seed)
    : rule_(rule), optimizer_(optimizer), seed_(seed) {
  std::vector<std::pair<std::string, torch::Tensor>> trainable;
  for (const auto& item : network.named_parameters()) {
    if (item.value().requires_grad()) trainable.emplace_back(item.key(), item.value());
  }
  const std::vector<ParameterInfo> infos = describe(layers, trainable);
  rule_.attach_parameters(infos);
  for (size_t i = 0; i < infos.size(); ++i) {
    const torch::Tensor& tensor = trainable[i].second;
    require(tensor.scalar_type() == at::kFloat && tensor.device().is_cpu(), "train",
            "parameter {}: policies with working values train float32 parameters on the CPU", infos[i].name);
    parameters_.push_back({infos[i], tensor, torch::empty_like(tensor.detach()), {}, {}});
  }
}

RandomKey WorkingWeights::key(size_t parameter, int64_t step, uint32_t stream) const {
  return random_key({.seed = seed_,
                     .step = static_cast<uint64_t>(step),
                     .layer = static_cast<uint32_t>(parameter),
                     .tensor = stream});
}

void WorkingWeights::start(int64_t updates) {
  const PhaseScope phase(Phase::kOptimizer);
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = parameters_[i];
    parameter.master.copy_(parameter.tensor);
    const int index = static_cast<int>(i);
    nn::TensorSource source(parameter.master);
    const TensorPlan plan = rule_.working(index, source);
    parameter.format = plan.format;
    parameter.params.clear();
    if (!plan.format.is_float()) {
      parameter.params = params_of(parameter.master, plan);
      parameter.tensor.copy_(
          on_grid(parameter.master, plan.format, parameter.params, key(i, updates, kWorkingStream)));
    }
    const PhaseScope statistics(Phase::kPolicy);
    rule_.observe_working(index, span_of<const float>(parameter.tensor));
  }
}

void WorkingWeights::put_masters() {
  const torch::NoGradGuard no_grad;
  for (Parameter& parameter : parameters_) parameter.tensor.copy_(parameter.master);
}

void WorkingWeights::update(const StepInfo& step, double loss, int64_t micro_batches, double learning_rate) {
  {
    const PhaseScope phase(Phase::kPolicy);
    rule_.begin_update(step, loss, micro_batches);
  }
  {
    const PhaseScope phase(Phase::kOptimizer);
    for (size_t i = 0; i < parameters_.size(); ++i) {
      if (parameters_[i].tensor.grad().defined()) change_gradient(i, parameters_[i].tensor.detach(), step);
    }
    put_masters();
  }
  optimizer_->set_weight_decay(!rule_.decays_weights());
  optimizer_->step(learning_rate);
}

void WorkingWeights::change_gradient(size_t parameter, const torch::Tensor& working, const StepInfo& step) {
  const torch::NoGradGuard no_grad;
  Parameter& one = parameters_[parameter];
  const int index = static_cast<int>(parameter);
  // In the memory order of the parameter, so that the rule's spans go together.
  torch::Tensor gradient = torch::empty_like(working).copy_(one.tensor.grad());
  ParameterUpdate update{.parameter = index,
                         .gradient = span_of<float>(gradient),
                         .master = span_of<const float>(one.master),
                         .working = span_of<const float>(working),
                         .weight_decay = optimizer_->weight_decay(one.tensor),
                         .step = step};
  rule_.prepare(update);
  nn::TensorSource source(gradient);
  const TensorPlan plan = rule_.gradient(index, source);
  if (!plan.format.is_float()) {
    gradient.copy_(on_grid(gradient, plan.format, params_of(gradient, plan),
                           key(parameter, step.step, kGradientStream)));
  }
  rule_.update(update);
  one.tensor.mutable_grad() = gradient;
}

WorkingWeights::MasterScope::MasterScope(WorkingWeights& weights) : weights_(weights) {
  const torch::NoGradGuard no_grad;
  for (const Parameter& parameter : weights.parameters_)
    working_.push_back(parameter.tensor.detach().clone());
  weights.put_masters();
}

WorkingWeights::MasterScope::~MasterScope() {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < working_.size(); ++i) weights_.parameters_[i].tensor.copy_(working_[i]);
}

double WorkingWeights::zero_fraction() const {
  int64_t zeros = 0, count = 0;
  for (const Parameter& parameter : parameters_) {
    if (!parameter.info.is_weight) continue;
    zeros += parameter.tensor.numel() - parameter.tensor.count_nonzero().item<int64_t>();
    count += parameter.tensor.numel();
  }
  return count == 0 ? 0.0 : static_cast<double>(zeros) / static_cast<double>(count);
}

std::vector<WorkingTensor> WorkingWeights::tensors() const {
  std::vector<WorkingTensor> all;
  for (const Parameter& one : parameters_)
    all.push_back({one.info.name, one.format, one.params, share_of_zeros(one.tensor)});
  return all;
}

std::map<std::string, torch::Tensor> WorkingWeights::state() {
  std::map<std::string, torch::Tensor> all;
  for (const auto& [name, values] : rule_.buffers()) {
    all[name] = torch::from_blob(values.data(), {static_cast<int64_t>(values.size())});
  }
  return all;
}

void WorkingWeights::load_state(const std::map<std::string, torch::Tensor>& state) {
  for (auto& [name, tensor] : this->state()) {
    const auto found = state.find(name);
    require(found != state.end() && found->second.sizes() == tensor.sizes(), "checkpoint",
            "the policy's \"{}\" is missing or has another size", name);
    tensor.copy_(found->second);
  }
}

}  // namespace bitdial::train
