// A stage as one autograd node: see stage.h. Forward visits the nodes in order, backward in reverse; tensors
// between them are float32 or bfloat16 (`dtype_`) and never leave.
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/graph_task.h>

#include <array>
#include <cmath>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/nn/buffer_pool.h"
#include "bitdial/nn/layer_operands.h"
#include "bitdial/nn/stage_plan.h"
#include "bitdial/ops/gemm_problem.h"

namespace bitdial::nn {
namespace {

using at::Tensor;
using ops::QuantizedTensor;
using torch::autograd::variable_list;

kernels::OutputType type_of(const Tensor& x) {
  return x.scalar_type() == at::kBFloat16 ? kernels::OutputType::kBFloat16 : kernels::OutputType::kFloat32;
}

kernels::TensorShape shape_of(const Tensor& x) {
  return {.outer = x.size(0),
          .channels = x.size(1),
          .inner = x.size(2) * x.size(3),
          .order = kernels::MemoryOrder::kInterleaved};
}

const void* data_or_null(const Tensor& x) { return x.defined() ? x.const_data_ptr() : nullptr; }

/// Per-channel factors of a pass; empty: none.
using Row = std::vector<float>;
const float* row_or_null(const Row& row) { return row.empty() ? nullptr : row.data(); }

/// activation(scale_a * a + scale_b * b + shift), computed in the pass that quantises it or, when someone
/// asks for its range or its values first, in a pass of its own.
class ComputedSource : public OperandSource {
 public:
  struct Terms {
    Tensor a, b;
    Row scale_a, scale_b, shift;
    Activation activation = Activation::kNone;
    Tensor mask;  ///< int16 words, written
  };

  /// `keeps_values`: someone will ask for values() later, so that quantising keeps them.
  ComputedSource(Terms terms, bool keeps_values, std::shared_ptr<BufferPool> pool)
      : terms_(std::move(terms)), keeps_values_(keeps_values), pool_(std::move(pool)) {}

  const Tensor& values() override {
    if (!values_.defined()) {
      values_ = pool_->take(terms_.a.sizes(), terms_.a.scalar_type());
      range_ = kernels::compute(affine(values_.mutable_data_ptr()));
      release_terms();
    }
    return values_;
  }

  QuantizedTensor quantize(const Format& format, std::span<const QuantParams> params, RandomKey key,
                           QuantizeStatistics& statistics) override {
    const bool is_known = known_.defined() && known_.format == format &&
                          format.rounding == Rounding::kNearestEven &&
                          std::ranges::equal(known_.params, params);
    if (!is_known) {
      known_ = has_integer_codes(format) ? quantize_anew(format, params, key)
                                         : OperandSource::quantize(format, params, key, statistics_);
    }
    statistics = statistics_;
    return known_;
  }

 private:
  QuantizedTensor quantize_anew(const Format& format, std::span<const QuantParams> params, RandomKey key) {
    const Tensor& like = values_.defined() ? values_ : terms_.a;
    QuantizedTensor result{.codes = pool_->take(like.sizes(), ops::code_dtype(container(format))),
                           .params = {params.begin(), params.end()},
                           .format = format};
    if (values_.defined()) {
      statistics_ = ops::quantize_into(values_, format, params, key, result.codes);
    } else {
      Tensor kept = keeps_values_ ? pool_->take(like.sizes(), like.scalar_type()) : Tensor();
      statistics_ = kernels::compute_and_quantize(affine(kept.defined() ? kept.mutable_data_ptr() : nullptr),
                                                  format, params, key, result.codes.mutable_data_ptr());
      range_ = statistics_.range;
      if (kept.defined()) {
        values_ = std::move(kept);
        release_terms();
      }
    }
    return result;
  }

  kernels::AffineTensor affine(void* values) const {
    return {.shape = shape_of(terms_.a),
            .type = type_of(terms_.a),
            .a = terms_.a.const_data_ptr(),
            .b = data_or_null(terms_.b),
            .scale_a = row_or_null(terms_.scale_a),
            .scale_b = row_or_null(terms_.scale_b),
            .shift = row_or_null(terms_.shift),
            .activation = terms_.activation,
            .mask = terms_.mask.defined() ? reinterpret_cast<uint16_t*>(terms_.mask.data_ptr<int16_t>())
                                          : nullptr,
            .values = values};
  }

  void release_terms() {
    terms_.a.reset();
    terms_.b.reset();
    terms_.mask.reset();
  }

  Terms terms_;
  bool keeps_values_;
  std::shared_ptr<BufferPool> pool_;
  Tensor values_;
  QuantizedTensor known_;
  QuantizeStatistics statistics_;
};

/// Which gradients a node has to deliver, and where its parameters stand among the autograd node's inputs.
struct Parameters {
  int weight = -1, bias = -1, gamma = -1, beta = -1;
};

/// What forward leaves of a node for backward.
struct NodeRun {
  ops::Needed needed;
  bool residual_needed = false;
  ops::GemmProblem problem;
  std::shared_ptr<LayerOperands> operands;
  QuantizedTensor x_wtgrad, w_bprop;
  Tensor z;     ///< the convolution's output, where a batch norm follows
  Tensor mask;  ///< undefined without activation
  bool batch_statistics = false;
  Row mean, inverse_deviation, gain;  ///< gain = gamma * inverse_deviation; all empty without batch norm
  kernels::PoolShape pool;
  Tensor where;
};

class StageRun : public torch::CustomClassHolder {
 public:
  StageRun(std::shared_ptr<const Stage::Plan> plan, std::shared_ptr<SessionCore> session)
      : plan_(std::move(plan)),
        session_(std::move(session)),
        pool_(session_->buffers()),
        dtype_(session_->between() == Between::kBFloat16 ? at::kBFloat16 : at::kFloat) {
    count_readers();
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

  void count_readers();
  Value& value(Stage::Value id) { return values_[static_cast<size_t>(id)]; }
  void read(Stage::Value id) {
    if (--value(id).readers_left == 0) value(id).source.reset();
  }
  void run_block(const Stage::Plan::Node& node, const Parameters& parameters, NodeRun& run,
                 const variable_list& tensors);
  void run_pool(const Stage::Plan::Node& node, NodeRun& run);
  Row normalise(const Stage::Plan::Node& node, NodeRun& run, const kernels::ChannelSums& sums,
                int64_t pixels);
  std::unique_ptr<OperandSource> convolution_gradient(const Parameters& parameters, NodeRun& run,
                                                      const Tensor& g, const Tensor& other,
                                                      variable_list& gradients);
  Tensor as_between(const Tensor& x) const { return ops::to_dense(x, true).to(dtype_); }
  Tensor two_or_less(std::vector<Tensor>& terms);

  const std::shared_ptr<const Stage::Plan> plan_;
  std::shared_ptr<SessionCore> session_;
  std::shared_ptr<BufferPool> pool_;
  at::ScalarType dtype_;
  std::vector<Value> values_;
  std::vector<bool> needs_values_;  ///< somebody other than a convolution reads the value
  std::vector<Parameters> parameters_;
  std::vector<NodeRun> runs_;
  int tensors_ = 0;
  bool needs_gradients_ = false;
};

void StageRun::count_readers() {
  values_.resize(static_cast<size_t>(plan_->values));
  needs_values_.resize(values_.size());
  runs_.resize(plan_->nodes.size());
  for (const auto& node : plan_->nodes) {
    ++value(node.x).readers_left;
    if (!node.is_block()) needs_values_[static_cast<size_t>(node.x)] = true;
    if (!node.residual) continue;
    ++value(*node.residual).readers_left;
    needs_values_[static_cast<size_t>(*node.residual)] = true;
  }
  const Stage::Value out = plan_->nodes.back().out;
  ++value(out).readers_left;
  needs_values_[static_cast<size_t>(out)] = true;
}

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
    Parameters parameters;
    bool trains = false;
    if (node.is_block()) {
      parameters.weight = add(node.conv->weight, run.needed.weight);
      trains = run.needed.weight;
      parameters.bias = add(node.conv->bias, trains);
      if (!node.batch_norm.is_empty()) {
        parameters.gamma = add(node.batch_norm->weight, trains);
        parameters.beta = add(node.batch_norm->bias, trains);
      }
    }
    parameters_.push_back(parameters);
    run.needed.input = value(node.x).needs_gradient;
    run.residual_needed = node.residual && value(*node.residual).needs_gradient;
    value(node.out).needs_gradient = trains || run.needed.input || run.residual_needed;
  }
  needs_gradients_ = value(plan_->nodes.back().out).needs_gradient;
  tensors_ = static_cast<int>(all.size());
  return all;
}

Tensor StageRun::forward(const variable_list& tensors, bool records) {
  for (size_t i = 0; i < plan_->inputs.size(); ++i) {
    Value& input = value(plan_->inputs[i]);
    const bool is_float = needs_values_[static_cast<size_t>(plan_->inputs[i])];
    input.sizes = tensors[i].sizes().vec();
    input.source =
        std::make_shared<TensorSource>(is_float ? as_between(tensors[i]) : ops::to_dense(tensors[i], true));
  }
  for (size_t i = 0; i < plan_->nodes.size(); ++i) {
    const auto& node = plan_->nodes[i];
    if (node.is_block()) {
      run_block(node, parameters_[i], runs_[i], tensors);
    } else {
      run_pool(node, runs_[i]);
    }
    if (!records) runs_[i] = {};
  }
  return value(plan_->nodes.back().out).source->values().to(at::kFloat);
}

void StageRun::run_block(const Stage::Plan::Node& node, const Parameters& parameters, NodeRun& run,
                         const variable_list& tensors) {
  const Tensor& weight = tensors[static_cast<size_t>(parameters.weight)];
  const Tensor bias = parameters.bias < 0 ? Tensor() : tensors[static_cast<size_t>(parameters.bias)].detach();
  Value& out = value(node.out);
  run.problem = ops::conv_problem(value(node.x).sizes, weight.sizes(), *node.conv->gemm_options(),
                                  session_->options().arithmetic, dtype_);
  run.operands = node.conv->binding()->begin(node.conv->is_training(), run.problem.shape);
  ops::ForwardOperands operands =
      run.operands->forward(*value(node.x).source, ops::to_dense(weight, true), run.needed);
  read(node.x);

  const auto channels = static_cast<size_t>(run.problem.shape.out_channels);
  const bool normalises = !node.batch_norm.is_empty();
  run.batch_statistics = normalises && node.batch_norm->is_training();
  std::vector<double> sum(channels), squares(channels);
  Row near;
  if (run.batch_statistics) {
    const auto* mean = node.batch_norm->running_mean.const_data_ptr<float>();
    near.assign(mean, mean + channels);
  }
  const kernels::ChannelSums sums{.shift = near.data(), .sum = sum.data(), .sum_squares = squares.data()};
  Tensor z = ops::fprop(run.problem, operands.x, operands.w, bias, run.batch_statistics ? &sums : nullptr,
                        pool_->take(run.problem.y_sizes, dtype_));
  out.sizes = run.problem.y_sizes;

  ComputedSource::Terms terms;
  terms.a = z;
  if (normalises) {
    terms.shift = normalise(node, run, sums, z.numel() / z.size(1));
    terms.scale_a = run.gain;
    if (out.needs_gradient) run.z = z;
  }
  if (node.residual) {
    terms.b = value(*node.residual).source->values();
    read(*node.residual);
  }
  terms.activation = node.activation;
  if (node.activation != Activation::kNone && out.needs_gradient) {
    terms.mask = run.mask = pool_->take({kernels::mask_words(z.numel())}, at::kShort);
  }
  const bool is_plain = !normalises && !node.residual && node.activation == Activation::kNone;
  if (is_plain) {
    out.source = std::make_shared<TensorSource>(z);
  } else {
    out.source = std::make_shared<ComputedSource>(std::move(terms),
                                                  needs_values_[static_cast<size_t>(node.out)], pool_);
  }
  run.x_wtgrad = std::move(operands.x_wtgrad);
  run.w_bprop = std::move(operands.w_bprop);
}

/// Mean, deviation and gain of this batch or of the running statistics; returns the shift.
Row StageRun::normalise(const Stage::Plan::Node& node, NodeRun& run, const kernels::ChannelSums& sums,
                        int64_t pixels) {
  auto& norm = *node.batch_norm.ptr();
  const auto channels = static_cast<size_t>(norm.options.num_features());
  const auto* gamma = norm.weight.const_data_ptr<float>();
  const auto* beta = norm.bias.const_data_ptr<float>();
  auto* running_mean = norm.running_mean.mutable_data_ptr<float>();
  auto* running_var = norm.running_var.mutable_data_ptr<float>();
  double momentum = 0.0;
  if (run.batch_statistics) {
    require(pixels > 1, "batch_norm",
            "a channel has one value only: its deviation is not defined in training");
    norm.num_batches_tracked.add_(1);
    momentum = norm.options.momentum() ? *norm.options.momentum()
                                       : 1.0 / static_cast<double>(norm.num_batches_tracked.item<int64_t>());
  }
  const auto n = static_cast<double>(pixels);
  run.mean.resize(channels);
  run.inverse_deviation.resize(channels);
  run.gain.resize(channels);
  Row shift(channels);
  for (size_t c = 0; c < channels; ++c) {
    double mean = running_mean[c], variance = running_var[c];
    if (run.batch_statistics) {
      const double offset = sums.sum[c] / n;
      mean += offset;
      variance = std::max(0.0, sums.sum_squares[c] / n - offset * offset);
      const double unbiased = variance * n / (n - 1.0);
      running_mean[c] = static_cast<float>(running_mean[c] + momentum * (mean - running_mean[c]));
      running_var[c] = static_cast<float>(running_var[c] + momentum * (unbiased - running_var[c]));
    }
    const double inverse = 1.0 / std::sqrt(variance + norm.options.eps());
    run.mean[c] = static_cast<float>(mean);
    run.inverse_deviation[c] = static_cast<float>(inverse);
    run.gain[c] = static_cast<float>(static_cast<double>(gamma[c]) * inverse);
    shift[c] =
        static_cast<float>(static_cast<double>(beta[c]) - mean * static_cast<double>(gamma[c]) * inverse);
  }
  return shift;
}

void StageRun::run_pool(const Stage::Plan::Node& node, NodeRun& run) {
  const Tensor x = value(node.x).source->values();
  const auto& options = node.pool->options;
  run.pool = {.batch = x.size(0),
              .channels = x.size(1),
              .in_height = x.size(2),
              .in_width = x.size(3),
              .kernel = (*options.kernel_size())[0],
              .stride = (*options.stride())[0],
              .padding = (*options.padding())[0]};
  Value& out = value(node.out);
  out.sizes = {x.size(0), x.size(1), run.pool.out_height(), run.pool.out_width()};
  Tensor y = pool_->take(out.sizes, dtype_);
  run.where = pool_->take(out.sizes, at::kByte);
  kernels::max_pool(run.pool, type_of(x), x.const_data_ptr(), y.mutable_data_ptr(),
                    run.where.mutable_data_ptr<uint8_t>());
  read(node.x);
  out.source = std::make_shared<TensorSource>(std::move(y));
}

/// Adds up all but the first two of them in place.
Tensor StageRun::two_or_less(std::vector<Tensor>& terms) {
  for (; terms.size() > 2; terms.pop_back()) terms[0].add_(terms.back());
  return terms.size() == 2 ? terms[1] : Tensor();
}

variable_list StageRun::backward(const Tensor& dy, bool keeps_graph) {
  variable_list gradients(static_cast<size_t>(tensors_));
  std::vector<std::vector<Tensor>> flowing(static_cast<size_t>(plan_->values));
  // Gradients are changed in place on their way: autograd's own must not be.
  Tensor first = pool_->take(dy.sizes(), dtype_);
  first.copy_(dy);
  flowing[static_cast<size_t>(plan_->nodes.back().out)].push_back(std::move(first));
  for (size_t i = plan_->nodes.size(); i-- > 0;) {
    const auto& node = plan_->nodes[i];
    auto terms = std::exchange(flowing[static_cast<size_t>(node.out)], {});
    if (terms.empty()) continue;
    NodeRun run = keeps_graph ? runs_[i] : std::exchange(runs_[i], {});
    const Tensor other = two_or_less(terms);
    if (!node.is_block()) {
      if (!run.needed.input) continue;
      if (other.defined()) terms[0].add_(other);
      Tensor dx =
          pool_->take({run.pool.batch, run.pool.channels, run.pool.in_height, run.pool.in_width}, dtype_);
      kernels::max_pool_backward(run.pool, type_of(dx), terms[0].const_data_ptr(),
                                 run.where.const_data_ptr<uint8_t>(), dx.mutable_data_ptr());
      flowing[static_cast<size_t>(node.x)].push_back(std::move(dx));
      continue;
    }
    const Tensor g = terms[0];
    const auto dz = convolution_gradient(parameters_[i], run, g, other, gradients);
    terms.clear();
    const ops::Needed needed = run.needed;
    if (needed.input || needed.weight) {
      const ops::BackwardOperands operands = run.operands->backward(*dz, needed);
      if (needed.input) {
        flowing[static_cast<size_t>(node.x)].push_back(
            ops::bprop(run.problem, operands.bprop, run.w_bprop, pool_->take(run.problem.x_sizes, dtype_)));
      }
      if (needed.weight) {
        gradients[static_cast<size_t>(parameters_[i].weight)] = ops::wtgrad(
            run.problem, run.x_wtgrad, operands.wtgrad, pool_->take(run.problem.w_sizes, at::kFloat));
      }
    }
    if (run.residual_needed) flowing[static_cast<size_t>(*node.residual)].push_back(g);
  }
  for (size_t i = 0; i < plan_->inputs.size(); ++i) {
    auto& terms = flowing[static_cast<size_t>(plan_->inputs[i])];
    if (terms.empty()) continue;
    const Tensor other = two_or_less(terms);
    gradients[i] = terms[0].to(at::kFloat);
    if (other.defined()) gradients[i] = gradients[i].add(other);
  }
  return gradients;
}

/// The gradient of the convolution's output. On the way g becomes the gradient before the activation, and
/// the gradients of the normalisation and of the bias are filled in.
std::unique_ptr<OperandSource> StageRun::convolution_gradient(const Parameters& parameters, NodeRun& run,
                                                              const Tensor& g, const Tensor& other,
                                                              variable_list& gradients) {
  const int64_t channels = g.size(1), pixels = g.numel() / g.size(1);
  const auto size = static_cast<size_t>(channels);
  const bool normalises = !run.gain.empty();
  std::vector<double> sum(size), product(size);
  kernels::gradient_sums({.type = type_of(g),
                          .pixels = pixels,
                          .channels = channels,
                          .g = g.mutable_data_ptr(),
                          .other = data_or_null(other),
                          .mask = run.mask.defined()
                                      ? reinterpret_cast<const uint16_t*>(run.mask.const_data_ptr<int16_t>())
                                      : nullptr,
                          .z = normalises ? run.z.const_data_ptr() : nullptr,
                          .shift = normalises ? run.mean.data() : nullptr,
                          .sum = sum.data(),
                          .product_sum = normalises ? product.data() : nullptr});
  const auto row = [&](int index, const auto& entry) {
    if (index < 0) return;
    Tensor gradient = at::empty({channels}, at::kFloat);
    for (size_t c = 0; c < size; ++c) gradient.mutable_data_ptr<float>()[c] = static_cast<float>(entry(c));
    gradients[static_cast<size_t>(index)] = std::move(gradient);
  };
  if (!normalises) {
    row(parameters.bias, [&](size_t c) { return sum[c]; });
    return std::make_unique<TensorSource>(g);
  }
  const auto inverse = [&](size_t c) { return static_cast<double>(run.inverse_deviation[c]); };
  const auto gain = [&](size_t c) { return static_cast<double>(run.gain[c]); };
  row(parameters.gamma, [&](size_t c) { return product[c] * inverse(c); });
  row(parameters.beta, [&](size_t c) { return sum[c]; });
  // A bias in front of batch statistics changes nothing.
  row(parameters.bias, [&](size_t c) { return run.batch_statistics ? 0.0 : sum[c] * gain(c); });

  ComputedSource::Terms terms;
  terms.a = g;
  terms.scale_a = run.gain;
  if (run.batch_statistics) {
    // dz = gain * (g - mean(g) - xhat * mean(g * xhat)), xhat = (z - mean) * inverse (Ioffe and Szegedy 2015)
    terms.b = run.z;
    terms.scale_b.resize(size);
    terms.shift.resize(size);
    const auto n = static_cast<double>(pixels);
    for (size_t c = 0; c < size; ++c) {
      const double slope = -gain(c) * inverse(c) * inverse(c) * product[c] / n;
      terms.scale_b[c] = static_cast<float>(slope);
      terms.shift[c] = static_cast<float>(-gain(c) * sum[c] / n - slope * static_cast<double>(run.mean[c]));
    }
  }
  return std::make_unique<ComputedSource>(std::move(terms), false, pool_);
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
