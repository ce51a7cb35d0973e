// A stage as one autograd node: see stage.h. Forward visits the nodes in order, backward in reverse; tensors
// between them are float32 or bfloat16 (`dtype_`) and never leave.
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/core/profile.h"
#include "bitdial/nn/block_norm.h"
#include "bitdial/nn/buffer_pool.h"
#include "bitdial/nn/computed_source.h"
#include "bitdial/nn/layer_operands.h"
#include "bitdial/nn/stage_plan.h"
#include "bitdial/ops/gemm_problem.h"

namespace bitdial::nn {
namespace {

using at::Tensor;
using ops::QuantizedTensor;
using torch::autograd::variable_list;

/// What forward leaves of a node for backward.
struct NodeRun {
  ParameterPlaces places;
  ops::Needed needed;
  bool residual_needed = false;
  ops::GemmProblem problem;
  std::shared_ptr<LayerOperands> operands;
  std::shared_ptr<BlockNorm> norm;
  QuantizedTensor x_wtgrad, w_bprop;
  Tensor mask;                         ///< of ReLU and ReLU6
  Tensor activation_input;             ///< of a smooth activation
  PooledMaxima maxima;                 ///< of a max pool
  kernels::AveragePoolShape averaged;  ///< of an average pool
  std::vector<int64_t> flattened;      ///< sizes in front of a flatten
};

/// The gradient of a value, as far as backward has come.
struct Gradient {
  std::vector<Tensor> terms;            ///< to be added up
  std::optional<BlockGradient> summed;  ///< in place of terms: all of it, its pass is over
};

kernels::AveragePoolShape average_shape(const Stage::Plan::Node& node, at::IntArrayRef x) {
  kernels::AveragePoolShape s{.batch = x[0], .channels = x[1], .in_height = x[2], .in_width = x[3]};
  if (node.average_pool.is_empty()) {
    s.kernel_height = s.in_height;
    s.kernel_width = s.in_width;
    return s;
  }
  const auto& options = node.average_pool->options;
  s.kernel_height = (*options.kernel_size())[0];
  s.kernel_width = (*options.kernel_size())[1];
  s.stride_height = (*options.stride())[0];
  s.stride_width = (*options.stride())[1];
  return s;
}

/// Adds them up in place of the first; of none: undefined.
Tensor sum(std::span<const Tensor> terms) {
  for (const Tensor& term : terms.subspan(std::min<size_t>(1, terms.size()))) terms[0].add_(term);
  return terms.empty() ? Tensor() : terms[0];
}

/// The gradient of a block's output, still to be told what to sum.
BlockGradient block_gradient(const Stage::Plan::Node& node, const NodeRun& run, const Tensor& g,
                             const Tensor& other) {
  BlockGradient gradient;
  gradient.g = g;
  gradient.other = other;
  gradient.mask = run.mask;
  gradient.activation = node.activation;
  gradient.activation_input = run.activation_input;
  return gradient;
}

class StageRun : public torch::CustomClassHolder {
 public:
  StageRun(std::shared_ptr<const Stage::Plan> plan, std::shared_ptr<SessionCore> session)
      : plan_(std::move(plan)),
        session_(std::move(session)),
        pool_(session_->buffers()),
        dtype_(session_->between() == Between::kBFloat16 ? at::kBFloat16 : at::kFloat),
        values_(plan_->readers.size()),
        runs_(plan_->nodes.size()) {
    for (size_t i = 0; i < values_.size(); ++i) values_[i].readers_left = plan_->readers[i];
    ++value(plan_->last()).readers_left;
  }

  /// All tensors that autograd has to know: the stage's inputs, then its parameters.
  variable_list tensors(const std::vector<Tensor>& inputs);
  Tensor forward(const variable_list& tensors, bool records);
  variable_list backward(const Tensor& dy, bool keeps_graph);
  bool needs_gradients() const { return needs_gradients_; }

 private:
  struct Value {
    std::shared_ptr<OperandSource> source;
    std::vector<int64_t> sizes;
    bool needs_gradient = false;
    int readers_left = 0;
  };

  Value& value(Stage::Value id) { return values_[static_cast<size_t>(id)]; }
  void read(Stage::Value id) {
    if (--value(id).readers_left == 0) value(id).source.reset();
  }
  bool needs_values(Stage::Value id) const {
    return id == plan_->last() || plan_->needs_values[static_cast<size_t>(id)];
  }
  void run_block(const Stage::Plan::Node& node, NodeRun& run, const variable_list& tensors);
  void run_max_pool(const Stage::Plan::Node& node, NodeRun& run);
  void run_average_pool(const Stage::Plan::Node& node, NodeRun& run);
  void run_flatten(const Stage::Plan::Node& node, NodeRun& run);
  Tensor pool_backward(const Stage::Plan::Node& node, const NodeRun& run, const Tensor& g,
                       const Tensor& other) const;
  Tensor as_between(const Tensor& x) const { return ops::to_dense(x, true).to(dtype_); }
  Tensor input_gradient(int index, const NodeRun& run, const QuantizedTensor& dz, Gradient& of_x);

  const std::shared_ptr<const Stage::Plan> plan_;
  std::shared_ptr<SessionCore> session_;
  std::shared_ptr<BufferPool> pool_;
  at::ScalarType dtype_;
  std::vector<Value> values_;
  std::vector<NodeRun> runs_;
  int tensors_ = 0;
  bool needs_gradients_ = false;
};

variable_list StageRun::tensors(const std::vector<Tensor>& inputs) {
  variable_list all;
  const bool records = at::GradMode::is_enabled();
  for (size_t i = 0; i < inputs.size(); ++i) {
    Value& input = value(plan_->inputs[i]);
    input.needs_gradient = records && inputs[i].requires_grad();
    all.push_back(inputs[i]);
  }
  const auto add = [&](const Tensor& parameter, bool& needed) {
    if (!parameter.defined()) return -1;
    needed = needed || (records && parameter.requires_grad());
    all.push_back(parameter);
    return static_cast<int>(all.size()) - 1;
  };
  for (size_t i = 0; i < plan_->nodes.size(); ++i) {
    const auto& node = plan_->nodes[i];
    NodeRun& run = runs_[i];
    bool trains = false;
    if (node.is_block()) {
      run.places.weight = add(node.weight(), run.needed.weight);
      trains = run.needed.weight;
      run.places.bias = add(node.bias(), trains);
      run.places.gamma = add(node.gamma(), trains);
      run.places.beta = add(node.beta(), trains);
    }
    run.needed.input =
        value(node.x).needs_gradient ||
        (run.needed.weight && node.layer().binding()->step_gradients(node.is_training()).has_value());
    run.residual_needed = node.residual && value(*node.residual).needs_gradient;
    value(node.out).needs_gradient = trains || run.needed.input || run.residual_needed;
  }
  needs_gradients_ = value(plan_->last()).needs_gradient;
  tensors_ = static_cast<int>(all.size());
  return all;
}

Tensor StageRun::forward(const variable_list& tensors, bool records) {
  for (size_t i = 0; i < plan_->inputs.size(); ++i) {
    Value& input = value(plan_->inputs[i]);
    input.sizes = tensors[i].sizes().vec();
    input.source = std::make_shared<TensorSource>(
        needs_values(plan_->inputs[i]) ? as_between(tensors[i]) : ops::to_dense(tensors[i], true));
  }
  for (size_t i = 0; i < plan_->nodes.size(); ++i) {
    const auto& node = plan_->nodes[i];
    switch (node.kind) {
      case Stage::Plan::Node::Kind::kBlock:
        run_block(node, runs_[i], tensors);
        break;
      case Stage::Plan::Node::Kind::kMaxPool:
        run_max_pool(node, runs_[i]);
        break;
      case Stage::Plan::Node::Kind::kAveragePool:
        run_average_pool(node, runs_[i]);
        break;
      case Stage::Plan::Node::Kind::kFlatten:
        run_flatten(node, runs_[i]);
        break;
    }
    if (!records) runs_[i] = {};
  }
  return value(plan_->last()).source->values().to(at::kFloat);
}

void StageRun::run_block(const Stage::Plan::Node& node, NodeRun& run, const variable_list& tensors) {
  const Tensor& weight = tensors[static_cast<size_t>(run.places.weight)];
  const Tensor bias = run.places.bias < 0 ? Tensor() : tensors[static_cast<size_t>(run.places.bias)].detach();
  Value& out = value(node.out);
  run.problem = node.problem(value(node.x).sizes, session_->options().arithmetic, dtype_);
  run.operands = node.layer().binding()->begin(node.is_training(), run.problem.shape);
  const LayerScope layer(run.operands->layer());
  ops::ForwardOperands operands =
      run.operands->forward(*value(node.x).source, ops::to_dense(weight, true), run.needed);
  read(node.x);

  run.norm = begin_norm(node);
  const Tensor z = ops::fprop(run.problem, operands.x, operands.w, bias, run.norm->sums(),
                              pool_->take(run.problem.y_sizes, plan_->dtype(node, dtype_)));
  out.sizes = run.problem.y_sizes;
  run.x_wtgrad = std::move(operands.x_wtgrad);
  run.w_bprop = std::move(operands.w_bprop);

  AffineSource::Terms terms;
  terms.a = z;
  run.norm->follow(terms, out.needs_gradient);
  if (node.residual) {
    terms.b = value(*node.residual).source->values();
    read(*node.residual);
  }
  terms.activation = node.activation;
  if (kernels::is_smooth(node.activation)) {
    run.activation_input = z;
  } else if (node.activation != Activation::kNone && out.needs_gradient && !plan_->is_pooled(node.out)) {
    terms.mask = run.mask = pool_->take({kernels::mask_words(z.numel())}, at::kShort);
  }
  if (terms.is_plain()) {
    out.source = std::make_shared<TensorSource>(z);
  } else {
    out.source = std::make_shared<AffineSource>(std::move(terms), needs_values(node.out), pool_);
  }
}

// Behind a block the pool computes what follows the GEMM itself; who reads the pool quantises on the way.
void StageRun::run_max_pool(const Stage::Plan::Node& node, NodeRun& run) {
  const auto& source = value(node.x).source;
  const auto* block = plan_->is_pooled(node.x) ? dynamic_cast<const AffineSource*>(source.get()) : nullptr;
  MaxPoolSource::Terms terms;
  if (block != nullptr) {
    terms.x = block->terms().a;
    terms.scale = block->terms().scale_a;
    terms.shift = block->terms().shift;
    terms.activation = block->terms().activation;
  } else {
    terms.x = source->values();
  }
  const auto& options = node.max_pool->options;
  Value& out = value(node.out);
  PooledMaxima& maxima = run.maxima;
  maxima.shape = {.batch = terms.x.size(0),
                  .channels = terms.x.size(1),
                  .in_height = terms.x.size(2),
                  .in_width = terms.x.size(3),
                  .kernel = (*options.kernel_size())[0],
                  .stride = (*options.stride())[0],
                  .padding = (*options.padding())[0]};
  out.sizes = {maxima.shape.batch, maxima.shape.channels, maxima.shape.out_height(),
               maxima.shape.out_width()};
  maxima.where = pool_->take(out.sizes, at::kByte);
  if (!terms.scale.empty() && out.needs_gradient) maxima.best = pool_->take(out.sizes, terms.x.scalar_type());
  terms.maxima = maxima;
  read(node.x);
  out.source = std::make_shared<MaxPoolSource>(std::move(terms), needs_values(node.out), pool_);
}

void StageRun::run_average_pool(const Stage::Plan::Node& node, NodeRun& run) {
  const Tensor x = value(node.x).source->values();
  Value& out = value(node.out);
  const kernels::AveragePoolShape& s = run.averaged = average_shape(node, x.sizes());
  out.sizes = {s.batch, s.channels};
  if (!node.average_pool.is_empty()) out.sizes.insert(out.sizes.end(), {s.out_height(), s.out_width()});
  read(node.x);
  out.source = std::make_shared<AveragePoolSource>(x, s, out.sizes, plan_->dtype(node, dtype_),
                                                   needs_values(node.out), pool_);
}

void StageRun::run_flatten(const Stage::Plan::Node& node, NodeRun& run) {
  Value& x = value(node.x);
  Value& out = value(node.out);
  run.flattened = x.sizes;
  const int64_t pixels = x.sizes[2] * x.sizes[3];
  out.sizes = {x.sizes[0], x.sizes[1] * pixels};
  if (pixels == 1) {
    out.source = std::make_shared<FlatSource>(x.source);
  } else {  // in PyTorch's order of the elements
    out.source = std::make_shared<TensorSource>(x.source->values().contiguous().flatten(1));
  }
  read(node.x);
}

Tensor StageRun::pool_backward(const Stage::Plan::Node& node, const NodeRun& run, const Tensor& g,
                               const Tensor& other) const {
  if (other.defined()) g.add_(other);
  if (node.kind == Stage::Plan::Node::Kind::kFlatten) return ops::to_dense(g.view(run.flattened), true);
  if (node.kind == Stage::Plan::Node::Kind::kAveragePool) {
    const kernels::AveragePoolShape& s = run.averaged;
    Tensor dx = pool_->take({s.batch, s.channels, s.in_height, s.in_width}, dtype_);
    kernels::average_pool_backward(s, ops::output_type(dx), g.const_data_ptr(), dx.mutable_data_ptr());
    return dx;
  }
  const kernels::PoolShape& s = run.maxima.shape;
  Tensor dx = pool_->take({s.batch, s.channels, s.in_height, s.in_width}, dtype_);
  kernels::max_pool_backward(s, ops::output_type(dx), g.const_data_ptr(),
                             run.maxima.where.const_data_ptr<uint8_t>(), dx.mutable_data_ptr());
  return dx;
}

// Where dx is all that the gradient of x waits for, and a block made x, the pass of that block follows BPROP
// while a cache holds what it stores.
Tensor StageRun::input_gradient(int index, const NodeRun& run, const QuantizedTensor& dz, Gradient& of_x) {
  const auto& node = plan_->nodes[static_cast<size_t>(index)];
  const Tensor dx = pool_->take(run.problem.x_sizes, dtype_);
  const auto x = static_cast<size_t>(node.x);
  const bool is_last = plan_->first_readers[x] == index && node.residual != node.x;
  const auto maker = static_cast<size_t>(plan_->makers[x]);
  if (!is_last || plan_->makers[x] < 0 || !plan_->nodes[maker].is_block() || !value(node.x).needs_gradient ||
      run.operands->watches_gradients()) {
    return ops::bprop(run.problem, dz, run.w_bprop, dx);
  }
  const Tensor other = sum(of_x.terms);
  BlockGradient& gradient = of_x.summed.emplace(block_gradient(plan_->nodes[maker], runs_[maker], dx, other));
  runs_[maker].norm->request_sums(gradient);
  kernels::GradientPass pass(gradient.pass());
  ops::bprop(run.problem, dz, run.w_bprop, dx, &pass);
  pass.finish();
  gradient.other.reset();
  of_x.terms.clear();
  return dx;
}

variable_list StageRun::backward(const Tensor& dy, bool keeps_graph) {
  variable_list gradients(static_cast<size_t>(tensors_));
  std::vector<Gradient> flowing(values_.size());
  const auto flow = [&](Stage::Value id) -> Gradient& { return flowing[static_cast<size_t>(id)]; };
  std::map<Stage::Value, PooledMaxima> pooled;  // of the blocks before max pools
  // Gradients are changed in place on their way: autograd's own must not be.
  const auto& last = plan_->nodes.back();
  // What leaves as float32 behind a linear layer has its gradient in float32 too.
  Tensor first = pool_->take(dy.sizes(), last.is_linear() ? plan_->dtype(last, dtype_) : dtype_);
  first.copy_(dy);
  flow(plan_->last()).terms.push_back(std::move(first));
  for (size_t i = plan_->nodes.size(); i-- > 0;) {
    const auto& node = plan_->nodes[i];
    auto [terms, summed] = std::exchange(flow(node.out), {});
    if (terms.empty() && !summed) continue;
    NodeRun run = keeps_graph ? runs_[i] : std::exchange(runs_[i], {});
    const ops::Needed needed = run.needed;
    if (node.is_max_pool() && plan_->is_pooled(node.x)) {
      // The block makes its gradient of the pool's on its way.
      pooled.insert_or_assign(node.x, std::move(run.maxima));
      if (needed.input) flow(node.x).terms = std::move(terms);
      continue;
    }
    const auto rest = [](const std::vector<Tensor>& all) { return sum(std::span(all).subspan(1)); };
    if (!node.is_block()) {
      if (needed.input) flow(node.x).terms.push_back(pool_backward(node, run, terms[0], rest(terms)));
      continue;
    }
    const LayerScope layer(run.operands->layer());
    if (!summed) {
      summed = block_gradient(node, run, terms[0], rest(terms));
      if (const auto found = pooled.find(node.out); found != pooled.end())
        summed->pooled = std::move(found->second);
      run.norm->request_sums(*summed);
      kernels::gradient_sums(summed->pass());
    }
    const Tensor g = summed->g;
    const auto dz = run.norm->backward(*summed, run.places, gradients, pool_);
    summed.reset();
    terms.clear();
    if (needed.input || needed.weight) {
      const ops::BackwardOperands operands = run.operands->backward(*dz, needed);
      Gradient& of_x = flow(node.x);
      Tensor dx, dw;
      if (needed.input) dx = input_gradient(static_cast<int>(i), run, operands.bprop, of_x);
      if (needed.weight) {
        dw = ops::wtgrad(run.problem, run.x_wtgrad, operands.wtgrad,
                         pool_->take(run.problem.w_sizes, at::kFloat));
      }
      run.operands->observe_gradients(dx, dw);
      if (value(node.x).needs_gradient && !of_x.summed) of_x.terms.push_back(std::move(dx));
      if (needed.weight) {
        const bool is_done = !keeps_graph && run.operands->update_weight(node.weight(), dw);
        if (!is_done) gradients[static_cast<size_t>(run.places.weight)] = std::move(dw);
      }
    }
    if (run.residual_needed) flow(*node.residual).terms.push_back(g);
  }
  for (size_t i = 0; i < plan_->inputs.size(); ++i) {
    const auto& terms = flow(plan_->inputs[i]).terms;
    if (terms.empty()) continue;
    const Tensor other = sum(std::span(terms).subspan(1));
    gradients[i] = terms[0].to(at::kFloat);
    if (other.defined()) gradients[i] = gradients[i].add(other);
  }
  return gradients;
}

// A function of the autograd graph, made by hand: torch::autograd::Function takes no lists of tensors.
class FusedStage : public torch::autograd::Node {
 public:
  FusedStage(c10::intrusive_ptr<StageRun> run, torch::autograd::edge_list next)
      : Node(std::move(next)), run_(std::move(run)) {}

  std::string name() const override { return "BitdialStage"; }
  void release_variables() override { run_.reset(); }

  variable_list apply(variable_list&& dys) override {
    require(run_ != nullptr, "stage",
            "backward a second time: its tensors are freed unless retain_graph is set");
    if (!dys[0].defined()) return variable_list(num_outputs());
    variable_list gradients;
    {
      const at::NoGradGuard no_grad;
      gradients = run_->backward(dys[0], torch::autograd::get_current_graph_task_keep_graph());
    }
    return ops::forbid_double_backward(std::move(gradients), "stage");
  }

 private:
  c10::intrusive_ptr<StageRun> run_;
};

// LibTorch counts the nodes of its graph in shared_ptr or, lately, in intrusive_ptr.
using NodePointer = std::decay_t<decltype(std::declval<const Tensor&>().grad_fn())>;

template <class Pointer, class... Arguments>
Pointer make_node(Arguments&&... arguments) {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    return std::make_shared<FusedStage>(std::forward<Arguments>(arguments)...);
  } else {
    return c10::make_intrusive<FusedStage>(std::forward<Arguments>(arguments)...);
  }
}

}  // namespace

Tensor run_fused(std::shared_ptr<const Stage::Plan> plan, const std::vector<Tensor>& inputs,
                 const std::shared_ptr<SessionCore>& session) {
  auto run = c10::make_intrusive<StageRun>(std::move(plan), session);
  const variable_list tensors = run->tensors(inputs);
  const bool records = run->needs_gradients();
  Tensor y;
  {
    const at::NoGradGuard no_grad;
    y = run->forward(tensors, records);
  }
  if (records) {
    const auto node = make_node<NodePointer>(std::move(run), torch::autograd::collect_next_edges(tensors));
    torch::autograd::set_history(y, node);
  }
  return y;
}

}  // namespace bitdial::nn
