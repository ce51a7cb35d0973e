#include "bitdial/nn/stage.h"

#include <ATen/autocast_mode.h>

#include <algorithm>
#include <utility>

#include "bitdial/core/error.h"
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
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kTanh:
      return x.tanh();
  }
  return x;
}

bool is_plain(const torch::nn::AvgPool2dOptions& options) {
  return (*options.padding())[0] == 0 && (*options.padding())[1] == 0 && !options.ceil_mode() &&
         !options.divisor_override();
}

bool is_plain(const torch::nn::MaxPool2dOptions& options) {
  const auto is_square = [](const torch::ExpandingArray<2>& pair) { return (*pair)[0] == (*pair)[1]; };
  return is_square(options.kernel_size()) && is_square(options.stride()) && is_square(options.padding()) &&
         (*options.dilation())[0] == 1 && (*options.dilation())[1] == 1 && !options.ceil_mode();
}

bool can_fuse(const Stage::Plan::Node& node) {
  using Kind = Stage::Plan::Node::Kind;
  if (node.kind == Kind::kFlatten) return true;
  if (node.kind == Kind::kAveragePool) {
    return node.average_pool.is_empty() || is_plain(node.average_pool->options);
  }
  if (node.kind == Kind::kMaxPool) return is_plain(node.max_pool->options);
  if (node.is_linear()) return true;
  if (!node.conv->gemm_options()) return false;
  if (!node.batch_norm.is_empty()) {
    return node.batch_norm->options.track_running_stats() && node.batch_norm->options.affine();
  }
  if (!node.range_norm.is_empty()) return node.range_norm->options.affine;
  return node.norm.is_empty();
}

}  // namespace

std::shared_ptr<SessionCore> Stage::Plan::fusing_session(const std::vector<torch::Tensor>& tensors) const {
  std::shared_ptr<SessionCore> session;
  for (const Node& node : nodes) {
    if (!can_fuse(node)) return nullptr;
    if (!node.is_block()) continue;
    const auto& binding = node.layer().binding();
    if (binding == nullptr || !binding->is_active()) return nullptr;
    if (session != nullptr && session != binding->session()) return nullptr;
    session = binding->session();
  }
  if (session == nullptr || !session->options().fused || session->policy().results().any()) return nullptr;
  if (at::autocast::is_autocast_enabled(at::kCPU)) return nullptr;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const torch::Tensor& x = tensors[i];
    if (!x.device().is_cpu() || x.scalar_type() != at::kFloat || x.numel() == 0) return nullptr;
    const bool has_shape = std::ranges::all_of(nodes, [&](const Node& node) {
      const bool reads = node.x == inputs[i] || node.residual == inputs[i];
      return !reads || x.dim() == node.dimensions();
    });
    if (!has_shape) return nullptr;
  }
  return session;
}

const QuantizedLayer& Stage::Plan::Node::layer() const {
  return is_linear() ? static_cast<const QuantizedLayer&>(*linear) : *conv;
}

ops::GemmProblem Stage::Plan::Node::problem(at::IntArrayRef sizes, Arithmetic arithmetic,
                                            at::ScalarType dtype) const {
  if (!is_linear()) {
    return ops::conv_problem(sizes, conv->weight.sizes(), *conv->gemm_options(), arithmetic, dtype);
  }
  ops::GemmProblem problem = ops::linear_problem(sizes, linear->weight.sizes(), arithmetic, dtype);
  problem.x_sizes = sizes.vec();
  problem.y_sizes = {sizes[0], linear->weight.size(0)};
  return problem;
}

torch::Tensor Stage::Plan::Node::gamma() const {
  if (!batch_norm.is_empty()) return batch_norm->weight;
  return range_norm.is_empty() ? torch::Tensor() : range_norm->weight;
}

torch::Tensor Stage::Plan::Node::beta() const {
  if (!batch_norm.is_empty()) return batch_norm->bias;
  return range_norm.is_empty() ? torch::Tensor() : range_norm->bias;
}

at::ScalarType Stage::Plan::dtype(const Node& node, at::ScalarType between) const {
  const bool is_precise = node.kind == Node::Kind::kAveragePool || node.is_linear();
  return node.out == last() && is_precise ? at::kFloat : between;
}

Stage::Value Stage::Plan::add_value() {
  readers.push_back(0);
  makers.push_back(-1);
  first_readers.push_back(-1);
  needs_values.push_back(false);
  pooled.push_back(false);
  return static_cast<Value>(readers.size()) - 1;
}

Stage::Value Stage::Plan::add(Node node) {
  const auto read = [&](Value value, bool is_float) {
    const auto i = static_cast<size_t>(value);
    if (++readers[i] == 1) first_readers[i] = static_cast<int>(nodes.size());
    needs_values[i] = needs_values[i] || is_float;
    pooled[i] = false;  // unless it stays the only one
  };
  read(node.x, !node.is_block() && node.kind != Node::Kind::kFlatten);
  if (node.residual) read(*node.residual, true);
  const auto x = static_cast<size_t>(node.x);
  const Node* maker = makers[x] < 0 ? nullptr : &nodes[static_cast<size_t>(makers[x])];
  const bool follows_block =
      maker && maker->is_block() && !maker->residual && !kernels::is_smooth(maker->activation);
  pooled[x] = node.is_max_pool() && follows_block && readers[x] == 1;
  node.out = add_value();
  makers.back() = static_cast<int>(nodes.size());
  nodes.push_back(std::move(node));
  return last();
}

static torch::Tensor run_unfused_pool(const Stage::Plan::Node& node, const torch::Tensor& x) {
  using Kind = Stage::Plan::Node::Kind;
  if (node.kind == Kind::kFlatten) return x.flatten(1);
  if (node.kind == Kind::kMaxPool) return torch::nn::MaxPool2d(node.max_pool)->forward(x);
  if (node.average_pool.is_empty()) return x.mean({2, 3});
  return torch::nn::AvgPool2d(node.average_pool)->forward(x);
}

torch::Tensor run_unfused(const Stage::Plan& plan, const std::vector<torch::Tensor>& inputs,
                          const OptionGroups* groups) {
  std::vector<torch::Tensor> values(plan.readers.size());
  const auto value = [&](Stage::Value id) -> torch::Tensor& { return values[static_cast<size_t>(id)]; };
  for (size_t i = 0; i < inputs.size(); ++i) value(plan.inputs[i]) = inputs[i];
  for (const auto& node : plan.nodes) {
    torch::Tensor& y = value(node.out);
    if (!node.is_block()) {
      y = run_unfused_pool(node, value(node.x));
      continue;
    }
    y = node.is_linear()    ? Linear(node.linear)->forward(value(node.x))
        : groups == nullptr ? Conv2d(node.conv)->forward(value(node.x))
                            : convolve_by_option(node.conv, value(node.x), *groups);
    if (!node.norm.is_empty()) y = torch::nn::AnyModule(node.norm).forward(y);
    if (node.residual) y = y + value(*node.residual);
    y = activate(node.activation, y);
  }
  return value(plan.last());
}

Stage::Stage() : plan_(std::make_shared<Plan>()) {}

Stage::Value Stage::add_input() {
  plan_->inputs.push_back(plan_->add_value());
  return plan_->inputs.back();
}

Stage::Value Stage::add_block(Conv2d conv, torch::nn::AnyModule norm, Activation activation, Value x,
                              std::optional<Value> residual) {
  require(!kernels::is_smooth(activation) || (norm.is_empty() && !residual), "stage",
          "GELU or tanh behind a normalisation or a residual is not supported");
  Plan::Node node;
  if (!norm.is_empty()) {
    if (auto batch = std::dynamic_pointer_cast<torch::nn::BatchNorm2dImpl>(norm.ptr())) {
      node.batch_norm = torch::nn::BatchNorm2d(batch);
    } else if (auto range = std::dynamic_pointer_cast<RangeBatchNorm2dImpl>(norm.ptr())) {
      node.range_norm = RangeBatchNorm2d(range);
    }
  }
  node.conv = std::move(conv);
  node.norm = std::move(norm);
  node.activation = activation;
  node.x = x;
  node.residual = residual;
  return plan_->add(std::move(node));
}

Stage::Value Stage::add_linear(Linear linear, Activation activation, Value x) {
  Plan::Node node;
  node.linear = std::move(linear);
  node.activation = activation;
  node.x = x;
  return plan_->add(std::move(node));
}

Stage::Value Stage::add_max_pool(torch::nn::MaxPool2d pool, Value x) {
  Plan::Node node;
  node.kind = Plan::Node::Kind::kMaxPool;
  node.max_pool = std::move(pool);
  node.x = x;
  return plan_->add(std::move(node));
}

Stage::Value Stage::add_average_pool(torch::nn::AvgPool2d pool, Value x) {
  Plan::Node node;
  node.kind = Plan::Node::Kind::kAveragePool;
  node.average_pool = std::move(pool);
  node.x = x;
  return plan_->add(std::move(node));
}

Stage::Value Stage::add_average_pool(Value x) { return add_average_pool(nullptr, x); }

Stage::Value Stage::add_flatten(Value x) {
  Plan::Node node;
  node.kind = Plan::Node::Kind::kFlatten;
  node.x = x;
  return plan_->add(std::move(node));
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

LinearBlockImpl::LinearBlockImpl(const torch::nn::LinearOptions& linear_options, Activation block_activation)
    : options(linear_options), activation(block_activation) {
  reset();
}

void LinearBlockImpl::reset() {
  linear = register_module("linear", Linear(options));
  stage_ = Stage();
  stage_.add_linear(linear, activation, stage_.add_input());
}

torch::Tensor LinearBlockImpl::forward(const torch::Tensor& x) { return stage_.forward({x}); }

}  // namespace bitdial::nn
