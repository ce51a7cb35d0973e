#include "bitdial/nn/stage.h"

#include <ATen/autocast_mode.h>

#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/nn/norm.h"
#include "bitdial/nn/stage_plan.h"

namespace bitdial::nn {
namespace {

torch::Tensor activate(Activation activation, const torch::Tensor& x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return x.relu();
    case Activation::kRelu6:
      return at::hardtanh(x, 0.0, 6.0);
  }
  return x;
}

bool is_plain_pool(const torch::nn::MaxPool2dOptions& options) {
  const auto is_square = [](const torch::ExpandingArray<2>& pair) { return (*pair)[0] == (*pair)[1]; };
  return is_square(options.kernel_size()) && is_square(options.stride()) && is_square(options.padding()) &&
         (*options.dilation())[0] == 1 && (*options.dilation())[1] == 1 && !options.ceil_mode();
}

bool can_fuse(const Stage::Plan::Node& node) {
  if (!node.is_block()) return is_plain_pool(node.pool->options);
  if (node.norm.is_empty()) return node.conv->gemm_options().has_value();
  const bool is_batch_norm = !node.batch_norm.is_empty() && node.batch_norm->options.track_running_stats() &&
                             node.batch_norm->options.affine();
  return is_batch_norm && node.conv->gemm_options().has_value();
}

}  // namespace

std::shared_ptr<SessionCore> Stage::Plan::fusing_session(const std::vector<torch::Tensor>& tensors) const {
  std::shared_ptr<SessionCore> session;
  for (const Node& node : nodes) {
    if (!can_fuse(node)) return nullptr;
    if (!node.is_block()) continue;
    const auto& binding = node.conv->binding();
    if (binding == nullptr || !binding->is_active()) return nullptr;
    if (session != nullptr && session != binding->session()) return nullptr;
    session = binding->session();
  }
  if (session == nullptr || !session->options().fused) return nullptr;
  if (at::autocast::is_autocast_enabled(at::kCPU)) return nullptr;
  for (const torch::Tensor& x : tensors) {
    if (!x.device().is_cpu() || x.scalar_type() != at::kFloat || x.dim() != 4 || x.numel() == 0)
      return nullptr;
  }
  return session;
}

torch::Tensor run_unfused(const Stage::Plan& plan, const std::vector<torch::Tensor>& inputs) {
  std::vector<torch::Tensor> values(static_cast<size_t>(plan.values));
  const auto value = [&](Stage::Value id) -> torch::Tensor& { return values[static_cast<size_t>(id)]; };
  for (size_t i = 0; i < inputs.size(); ++i) value(plan.inputs[i]) = inputs[i];
  for (const auto& node : plan.nodes) {
    torch::Tensor& y = value(node.out);
    if (!node.is_block()) {
      y = torch::nn::MaxPool2d(node.pool)->forward(value(node.x));
      continue;
    }
    y = Conv2d(node.conv)->forward(value(node.x));
    if (!node.norm.is_empty()) y = torch::nn::AnyModule(node.norm).forward(y);
    if (node.residual) y = y + value(*node.residual);
    y = activate(node.activation, y);
  }
  return value(plan.nodes.back().out);
}

Stage::Stage() : plan_(std::make_shared<Plan>()) {}

Stage::Value Stage::add_input() {
  plan_->inputs.push_back(plan_->values);
  return plan_->values++;
}

Stage::Value Stage::add_block(Conv2d conv, torch::nn::AnyModule norm, Activation activation, Value x,
                              std::optional<Value> residual) {
  Plan::Node node;
  if (auto batch_norm =
          norm.is_empty() ? nullptr : std::dynamic_pointer_cast<torch::nn::BatchNorm2dImpl>(norm.ptr())) {
    node.batch_norm = torch::nn::BatchNorm2d(batch_norm);
  }
  node.conv = std::move(conv);
  node.norm = std::move(norm);
  node.activation = activation;
  node.x = x;
  node.residual = residual;
  node.out = plan_->values++;
  plan_->nodes.push_back(std::move(node));
  return plan_->values - 1;
}

Stage::Value Stage::add_max_pool(torch::nn::MaxPool2d pool, Value x) {
  Plan::Node node;
  node.pool = std::move(pool);
  node.x = x;
  node.out = plan_->values++;
  plan_->nodes.push_back(std::move(node));
  return plan_->values - 1;
}

torch::Tensor Stage::forward(const std::vector<torch::Tensor>& inputs) const {
  require(!plan_->nodes.empty(), "stage", "the stage is empty");
  require(inputs.size() == plan_->inputs.size(), "stage", "the stage has {} inputs, got {}",
          plan_->inputs.size(), inputs.size());
  const auto session = plan_->fusing_session(inputs);
  return session != nullptr ? run_fused(plan_, inputs, session) : run_unfused(*plan_, inputs);
}

ConvBlockImpl::ConvBlockImpl(ConvBlockOptions block_options) : options(std::move(block_options)) { reset(); }

void ConvBlockImpl::reset() {
  conv = register_module("conv", Conv2d(options.conv));
  if (options.normalization) {
    norm = make_norm2d(*options.normalization, options.conv.out_channels(), options.norm_index);
    register_module("norm", norm.ptr());
  }
  plain_ = Stage();
  plain_.add_block(conv, norm, options.activation, plain_.add_input());
  with_residual_ = Stage();
  const Stage::Value x = with_residual_.add_input();
  const Stage::Value residual = with_residual_.add_input();
  with_residual_.add_block(conv, norm, options.activation, x, residual);
}

torch::Tensor ConvBlockImpl::forward(const torch::Tensor& x, const std::optional<torch::Tensor>& residual) {
  return residual ? with_residual_.forward({x, *residual}) : plain_.forward({x});
}

}  // namespace bitdial::nn
