#include "bitdial/nn/precision_gate.h"

#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/nn/option_scope.h"

namespace bitdial::nn {

namespace {

// A sample [N, C, H, W] counts as much as m [N] says.
torch::Tensor weighed(const torch::Tensor& y, const torch::Tensor& m) { return y * m.view({-1, 1, 1, 1}); }

torch::Tensor skip(const GatedBlock& gated, const torch::Tensor& x) {
  return gated.shortcut ? gated.shortcut->forward({x}) : x;
}

}  // namespace

torch::Tensor straight_through(const torch::Tensor& p) {
  // max() names any of several equal ones; the first is the one before which none is.
  const torch::Tensor is_largest = p.detach().eq(p.detach().amax(1, true));
  const torch::Tensor one_hot = is_largest.logical_and(is_largest.cumsum(1).eq(1)).to(p.scalar_type());
  return one_hot + (p - p.detach());
}

PrecisionGateImpl::PrecisionGateImpl(GateRequest request, std::vector<GatedBlock> blocks)
    : request_(std::move(request)), blocks_(std::move(blocks)) {
  require(!request_.features.empty() && request_.options > 0, "gate", "the gate has no options or features");
  for (size_t block = 0; block < blocks_.size(); ++block) {
    torch::nn::Sequential convolutions;
    int64_t in = blocks_[block].in_channels;
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

torch::Tensor PrecisionGateImpl::forward(torch::Tensor x) {
  begin();
  for (size_t block = 0; block < blocks_.size(); ++block) x = run(block, x, choose(x));
  return x;
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

torch::Tensor PrecisionGateImpl::run(size_t index, const torch::Tensor& x, const torch::Tensor& m) const {
  const GatedBlock& gated = blocks_.at(index);
  if (!is_training()) return run_by_option(gated, x, m, Mixed::kNothing);
  if (!request_.is_exact) return run_by_option(gated, x, m, Mixed::kOutputs);
  return request_.form == GateForm::kBlock ? mix_outputs(gated, x, m)
                                           : run_by_option(gated, x, m, Mixed::kOperands);
}

torch::Tensor PrecisionGateImpl::mix_outputs(const GatedBlock& gated, const torch::Tensor& x,
                                             const torch::Tensor& m) const {
  torch::Tensor sum;
  for (int option = 0; option < request_.options; ++option) {
    torch::Tensor y;
    if (request_.can_skip(option)) {
      y = skip(gated, x);
    } else {
      const OptionScope scope(option);
      y = gated.block.forward({x});
    }
    const torch::Tensor term = weighed(y, m.select(1, option));
    sum = sum.defined() ? sum + term : term;
  }
  return sum;
}

// Samples that skip the block do not enter it: its batch norm sees the others alone, the shortcut's sees all.
torch::Tensor PrecisionGateImpl::run_by_option(const GatedBlock& gated, const torch::Tensor& x,
                                               const torch::Tensor& m, Mixed mixed) const {
  const torch::Tensor choice = m.detach().argmax(1);
  torch::Tensor skips = torch::zeros_like(choice, torch::kBool);
  for (int option = 0; option < request_.options; ++option) {
    if (request_.can_skip(option)) skips.logical_or_(choice.eq(option));
  }
  const torch::Tensor skipped = skips.nonzero().flatten();
  if (skipped.numel() == 0) return gated.block.forward_by_option(x, m, mixed);
  torch::Tensor y = skip(gated, x).index_select(0, skipped);
  if (mixed == Mixed::kOutputs) {
    const torch::Tensor own = m.gather(1, choice.unsqueeze(1)).flatten();
    y = weighed(y, own.index_select(0, skipped));
  }
  const torch::Tensor others = skips.logical_not().nonzero().flatten();
  if (others.numel() == 0) return y;
  const torch::Tensor rest =
      gated.block.forward_by_option(x.index_select(0, others), m.index_select(0, others), mixed);
  return torch::cat({rest, y.to(rest.scalar_type())})
      .index_select(0, torch::cat({others, skipped}).argsort());
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
  if (blocks_.front().macs > 0) {
    for (const GatedBlock& block : blocks_) {
      use.macs.push_back(static_cast<double>(block.macs));
      use.depthwise_macs.push_back(static_cast<double>(block.depthwise_macs));
    }
  }
  const std::vector<double> weights = policy.weigh_gate(use, step);
  require(weights.size() == use.samples.size(), "gate", "policy {} weighs {} choices of {}", policy.name(),
          weights.size(), use.samples.size());
  return (uses * torch::tensor(weights, torch::kFloat64).to(uses.scalar_type())).sum();
}

}  // namespace bitdial::nn
