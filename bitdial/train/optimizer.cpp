#include "bitdial/train/optimizer.h"

#include <cmath>
#include <limits>

#include "bitdial/core/error.h"
#include "bitdial/core/profile.h"
#include "bitdial/train/tensor_file.h"

namespace bitdial::train {

namespace {

/// A dense tensor as the flat array that it is in memory. The fused kernels copy whatever is not contiguous,
/// and channels_last counts as that.
torch::Tensor flat(const torch::Tensor& x) {
  return x.detach().as_strided({x.numel()}, {1}, x.storage_offset());
}

/// The gradient in the memory order of its parameter, as a flat array.
torch::Tensor flat_gradient(const torch::Tensor& parameter) {
  const torch::Tensor& gradient = parameter.grad();
  if (gradient.is_contiguous(parameter.suggest_memory_format())) return flat(gradient);
  return flat(torch::empty_like(parameter, parameter.options().requires_grad(false)).copy_(gradient));
}

/// Biases and the affine parameters of normalisations are vectors; every weight of a GEMM has more
/// dimensions.
bool is_norm_or_bias(const torch::Tensor& parameter) { return parameter.dim() < 2; }

}  // namespace

Optimizer::Optimizer(const OptimizerRecipe& recipe, torch::nn::Module& module) : recipe_(recipe), groups_(2) {
  groups_[0].weight_decay = recipe.weight_decay;
  groups_[1].weight_decay = recipe.decay_norm_and_bias ? recipe.weight_decay : 0.0;
  for (const auto& item : module.named_parameters()) {
    if (!item.value().requires_grad()) continue;
    require(item.value().is_non_overlapping_and_dense(), "optimizer", "parameter {} is not dense in memory",
            item.key());
    groups_[is_norm_or_bias(item.value()) ? 1 : 0].parameters.push_back(
        {item.key(), item.value(), {}, {}, {}});
  }
  require(!groups_[0].parameters.empty() || !groups_[1].parameters.empty(), "optimizer",
          "the network has no parameters to train");
  for (Group& group : groups_) {
    for (Parameter& parameter : group.parameters) {
      places_[parameter.tensor.unsafeGetTensorImpl()] = {&group, &parameter};
    }
  }
}

void Optimizer::update_in_backward(double learning_rate) {
  if (is_sgd() && recipe_.l1 == 0.0) early_rate_ = learning_rate;
}

void Optimizer::end_weight_decay() {
  for (Group& group : groups_) group.weight_decay = 0.0;
}

void Optimizer::add_l1() {
  for (Group& group : groups_) {
    for (Parameter& parameter : group.parameters) {
      if (parameter.tensor.grad().defined())
        parameter.tensor.mutable_grad().add_(parameter.tensor.detach().sign(), recipe_.l1);
    }
  }
}

std::optional<kernels::SgdUpdate> Optimizer::begin(const torch::Tensor& weight) {
  const auto found = places_.find(weight.unsafeGetTensorImpl());
  if (!early_rate_ || found == places_.end()) return std::nullopt;
  Parameter& parameter = *found->second.parameter;
  if (parameter.tensor.grad().defined()) return std::nullopt;  // both parts of the gradient go together
  const bool is_first = !parameter.first.defined();
  if (is_first) start_state(parameter);
  return kernels::SgdUpdate{
      .count = parameter.tensor.numel(),
      .weight = parameter.tensor.mutable_data_ptr<float>(),
      .momentum = parameter.first.defined() ? parameter.first.mutable_data_ptr<float>() : nullptr,
      .learning_rate = static_cast<float>(*early_rate_),
      .momentum_factor = static_cast<float>(recipe_.momentum),
      .dampening = static_cast<float>(recipe_.dampening),
      .weight_decay = static_cast<float>(found->second.group->weight_decay),
      .nesterov = recipe_.nesterov,
      .is_first = is_first};
}

void Optimizer::end(const torch::Tensor& weight, const Range& range) {
  if (!range.is_finite()) not_finite_ = places_.at(weight.unsafeGetTensorImpl()).parameter->name;
}

double Optimizer::weight_decay(const torch::Tensor& parameter) const {
  return places_.at(parameter.unsafeGetTensorImpl()).group->weight_decay;
}

void Optimizer::start_state(Parameter& parameter) const {
  const auto options = parameter.tensor.options().requires_grad(false);
  if (is_sgd()) {
    if (recipe_.momentum != 0.0) parameter.first = torch::zeros_like(parameter.tensor, options);
    return;
  }
  parameter.first = torch::zeros_like(parameter.tensor, options);
  parameter.second = torch::zeros_like(parameter.tensor, options);
  parameter.steps = torch::zeros({}, torch::kFloat32);
}

void Optimizer::step(double learning_rate) {
  const PhaseScope phase(Phase::kOptimizer);
  torch::NoGradGuard no_grad;
  early_rate_.reset();
  if (recipe_.l1 > 0.0) add_l1();
  for (Group& group : groups_) {
    // The first momentum is the gradient itself, so parameters at their first update go apart.
    std::vector<Parameter*> fresh;
    std::vector<Parameter*> known;
    for (Parameter& parameter : group.parameters) {
      if (!parameter.tensor.grad().defined()) continue;
      const bool is_fresh = !parameter.first.defined();
      if (is_fresh) start_state(parameter);
      (is_fresh && is_sgd() && recipe_.momentum != 0.0 ? fresh : known).push_back(&parameter);
    }
    if (is_sgd()) {
      update_sgd(group, fresh, learning_rate, true);
      update_sgd(group, known, learning_rate, false);
    } else {
      update_adam(group, known, learning_rate);
    }
  }
}

void Optimizer::update_sgd(const Group& group, const std::vector<Parameter*>& parameters,
                           double learning_rate, bool first) {
  if (parameters.empty()) return;
  std::vector<torch::Tensor> tensors;
  std::vector<torch::Tensor> gradients;
  std::vector<torch::Tensor> momenta;
  for (const Parameter* parameter : parameters) {
    tensors.push_back(flat(parameter->tensor));
    gradients.push_back(flat_gradient(parameter->tensor));
    if (parameter->first.defined()) momenta.push_back(flat(parameter->first));
  }
  at::_fused_sgd_(tensors, gradients, momenta, decays_ ? group.weight_decay : 0.0, recipe_.momentum,
                  learning_rate, recipe_.dampening, recipe_.nesterov, /*maximize=*/false, first);
}

void Optimizer::update_adam(const Group& group, const std::vector<Parameter*>& parameters,
                            double learning_rate) {
  if (parameters.empty()) return;
  std::vector<torch::Tensor> tensors;
  std::vector<torch::Tensor> gradients;
  std::vector<torch::Tensor> first;
  std::vector<torch::Tensor> second;
  std::vector<torch::Tensor> steps;
  for (const Parameter* parameter : parameters) {
    tensors.push_back(flat(parameter->tensor));
    gradients.push_back(flat_gradient(parameter->tensor));
    first.push_back(flat(parameter->first));
    second.push_back(flat(parameter->second));
    steps.push_back(parameter->steps.add_(1.0));
  }
  if (recipe_.name == "adamw") {
    at::_fused_adamw_(tensors, gradients, first, second, {}, steps, learning_rate, recipe_.beta1,
                      recipe_.beta2, decays_ ? group.weight_decay : 0.0, recipe_.epsilon, /*amsgrad=*/false,
                      /*maximize=*/false);
  } else {
    at::_fused_adam_(tensors, gradients, first, second, {}, steps, learning_rate, recipe_.beta1,
                     recipe_.beta2, decays_ ? group.weight_decay : 0.0, recipe_.epsilon, /*amsgrad=*/false,
                     /*maximize=*/false);
  }
}

void Optimizer::zero_grad() {
  early_rate_.reset();
  not_finite_.clear();
  for (Group& group : groups_) {
    for (Parameter& parameter : group.parameters) parameter.tensor.mutable_grad().reset();
  }
}

double Optimizer::gradient_norm() const {
  const PhaseScope phase(Phase::kOptimizer);
  if (!not_finite_.empty()) return std::numeric_limits<double>::quiet_NaN();
  torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> gradients;
  for (const Group& group : groups_) {
    for (const Parameter& parameter : group.parameters) {
      if (parameter.tensor.grad().defined()) gradients.push_back(parameter.tensor.grad());
    }
  }
  double sum = 0.0;
  for (const torch::Tensor& norm : at::_foreach_norm(gradients)) {
    const auto value = norm.item<double>();
    sum += value * value;
  }
  return std::sqrt(sum);
}

void Optimizer::scale_gradients(double factor) {
  torch::NoGradGuard no_grad;
  for (Group& group : groups_) {
    for (Parameter& parameter : group.parameters) {
      if (parameter.tensor.grad().defined()) parameter.tensor.mutable_grad().mul_(factor);
    }
  }
}

std::string Optimizer::first_non_finite_gradient() const {
  if (!not_finite_.empty()) return not_finite_;
  torch::NoGradGuard no_grad;
  for (const Group& group : groups_) {
    for (const Parameter& parameter : group.parameters) {
      const torch::Tensor& gradient = parameter.tensor.grad();
      if (gradient.defined() && !gradient.isfinite().all().item<bool>()) return parameter.name;
    }
  }
  return {};
}

std::map<std::string, torch::Tensor> Optimizer::state() const {
  std::map<std::string, torch::Tensor> state;
  for (const Group& group : groups_) {
    for (const Parameter& parameter : group.parameters) {
      if (parameter.first.defined())
        state[(is_sgd() ? "momentum." : "exp_avg.") + parameter.name] = parameter.first;
      if (parameter.second.defined()) state["exp_avg_sq." + parameter.name] = parameter.second;
      if (parameter.steps.defined()) state["steps." + parameter.name] = parameter.steps;
    }
  }
  return state;
}

void Optimizer::load_state(const std::map<std::string, torch::Tensor>& state) {
  torch::NoGradGuard no_grad;
  const auto load = [&](const std::string& name, torch::Tensor& into) {
    const auto found = state.find(name);
    require(found != state.end(), "checkpoint", "optimiser state \"{}\" is missing", name);
    require(found->second.sizes() == into.sizes(), "checkpoint",
            "optimiser state \"{}\" has shape {}, expected {}", name, shape_text(found->second.sizes()),
            shape_text(into.sizes()));
    into.copy_(found->second);
  };
  for (Group& group : groups_) {
    for (Parameter& parameter : group.parameters) {
      // A parameter that never had a gradient has no state.
      const std::string first = (is_sgd() ? "momentum." : "exp_avg.") + parameter.name;
      for (torch::Tensor* tensor : {&parameter.first, &parameter.second, &parameter.steps}) tensor->reset();
      if (!state.contains(first)) continue;
      start_state(parameter);
      require(parameter.first.defined(), "checkpoint", "optimiser state \"{}\" belongs to another optimiser",
              first);
      load(first, parameter.first);
      if (parameter.second.defined()) load("exp_avg_sq." + parameter.name, parameter.second);
      if (parameter.steps.defined()) load("steps." + parameter.name, parameter.steps);
    }
  }
}

}  // namespace bitdial::train
