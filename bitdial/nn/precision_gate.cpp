#include "bitdial/nn/precision_gate.h"

#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/nn/option_scope.h"

namespace bitdial::nn {

torch::Tensor straight_through(const torch::Tensor& p) {
  // max() names any of several equal ones; the first is the one before which none is.
  const torch::Tensor is_largest = p.detach().eq(p.detach().amax(1, true));
  const torch::Tensor one_hot = is_largest.logical_and(is_largest.cumsum(1).eq(1)).to(p.scalar_type());
  return one_hot + (p - p.detach());
}

PrecisionGateImpl::PrecisionGateImpl(GateRequest request, const std::vector<int64_t>& channels)
    : request_(std::move(request)) {
  require(!request_.features.empty() && request_.options > 0, "gate", "the gate has no options or features");
  for (size_t block = 0; block < channels.size(); ++block) {
    torch::nn::Sequential convolutions;
    int64_t in = channels[block];
    for (size_t i = 0; i < request_.features.size(); ++i) {
      if (i > 0) convolutions->push_back(torch::nn::ReLU());
      convolutions->push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(in, request_.features[i], 1)));
      in = request_.features[i];
    }
    features_.push_back(register_module("features" + std::to_string(block), convolutions));
  }
  lstm_ = register_module("lstm", torch::nn::LSTMCell(request_.features.back(), request_.hidden));
  head_ = register_module("head", torch::nn::Linear(request_.hidden, request_.options));
}

void PrecisionGateImpl::begin() {
  state_ = {};
  uses_.clear();
}

torch::Tensor PrecisionGateImpl::choose(const torch::Tensor& x) {
  const size_t block = uses_.size();
  require(block < features_.size(), "gate", "the gate has {} blocks, a forward has more", features_.size());
  batch_ = x.size(0);
  const torch::Tensor pooled = x.to(torch::kFloat32).mean({2, 3}, true);
  const torch::Tensor features = features_[block]->forward(pooled).flatten(1);
  state_ = block == 0 ? lstm_->forward(features) : lstm_->forward(features, state_);
  const torch::Tensor m = straight_through(head_->forward(std::get<0>(state_)).softmax(1));
  uses_.push_back(m.sum(0));
  return m;
}

torch::Tensor PrecisionGateImpl::run(const Stage& block, const torch::Tensor& x,
                                     const torch::Tensor& m) const {
  if (!is_training() || !request_.is_exact || request_.form == GateForm::kOperand) {
    const bool mixes_operands = is_training() && request_.is_exact && request_.form == GateForm::kOperand;
    const bool mixes_outputs = is_training() && !mixes_operands;
    return block.forward_by_option(x, m,
                                   mixes_operands  ? Mixed::kOperands
                                   : mixes_outputs ? Mixed::kOutputs
                                                   : Mixed::kNothing);
  }
  torch::Tensor sum;
  for (int option = 0; option < request_.options; ++option) {
    const OptionScope scope(option);
    const torch::Tensor weighted = block.forward({x}) * m.select(1, option).view({-1, 1, 1, 1});
    sum = sum.defined() ? sum + weighted : weighted;
  }
  return sum;
}

torch::Tensor PrecisionGateImpl::cost(Policy& policy, const StepInfo& step, double task_loss) const {
  require(!uses_.empty(), "gate", "a cost is asked for before a forward");
  const torch::Tensor uses = torch::stack(uses_).flatten();
  const torch::Tensor values = uses.detach().to(torch::kFloat64);
  GateUse use;
  use.samples.assign(values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel());
  use.blocks = static_cast<int>(uses_.size());
  use.batch = batch_;
  use.task_loss = task_loss;
  const std::vector<double> weights = policy.weigh_gate(use, step);
  require(weights.size() == use.samples.size(), "gate", "policy {} weighs {} choices of {}", policy.name(),
          weights.size(), use.samples.size());
  return (uses * torch::tensor(weights, torch::kFloat64).to(uses.scalar_type())).sum();
}

}  // namespace bitdial::nn
