#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/nn/norm.h"
#include "bitdial/nn/session.h"
#include "bitdial/nn/stage.h"
#include "bitdial/ops/rounding_residual.h"
#include "bitdial/policies/ldp.h"

namespace bitdial::nn::step_gradient_test {
namespace {

using nlohmann::json;
using policies::LdpPolicy;
using torch::Tensor;

std::shared_ptr<LdpPolicy> make_ldp(const json& options) {
  policies::OptionReader reader("ldp", options);
  auto policy = std::make_shared<LdpPolicy>(reader);
  reader.finish();
  return policy;
}

/// Two convolutions with a ReLU between, and a linear layer on their mean.
struct Net : torch::nn::Module {
  explicit Net(bool with_norm = false) {
    torch::manual_seed(3);
    conv1 = register_module("conv1", Conv2d(torch::nn::Conv2dOptions(3, 4, 3).padding(1).bias(false)));
    conv2 = register_module("conv2", Conv2d(torch::nn::Conv2dOptions(4, 6, 3).stride(2).bias(false)));
    fc = register_module("fc", Linear(6, 5));
    torch::nn::AnyModule norm1, norm2;
    if (with_norm) {
      norm1 = make_norm2d(Normalization::kBatch, 4, 0);
      norm2 = make_norm2d(Normalization::kBatch, 6, 1);
      register_module("norm1", norm1.ptr());
      register_module("norm2", norm2.ptr());
    }
    const auto x = stage.add_block(conv1, norm1, Activation::kRelu, stage.add_input());
    stage.add_block(conv2, norm2, Activation::kRelu, x);
  }
  Tensor forward(const Tensor& x) { return fc->forward(stage.forward({x}).mean({2, 3})); }

  Conv2d conv1{nullptr}, conv2{nullptr};
  Linear fc{nullptr};
  Stage stage;
};

struct Batch {
  Tensor x, target;
};

Batch make_batch(uint64_t seed) {
  torch::manual_seed(seed);
  return {torch::randn({8, 3, 9, 9}), torch::randint(5, {8}, at::kLong)};
}

void train_step(Net& net, Session& session, int64_t step) {
  const Batch batch = make_batch(100 + static_cast<uint64_t>(step));
  const StepInfo info{.step = step, .total_steps = 100};
  net.zero_grad();
  session.begin_step(info);
  Tensor loss;
  {
    const ForwardScope scope(session);
    loss = torch::nn::functional::cross_entropy(net.forward(batch.x), batch.target);
  }
  loss.backward();
  const torch::NoGradGuard no_grad;
  for (auto& parameter : net.parameters()) parameter.sub_(0.05 * parameter.grad());
  session.end_step(info, {.loss = loss.item<double>()});
}

std::vector<double> task_gradients(const Policy& policy) {
  std::vector<double> all;
  const json state = policy.state();
  for (const json& layer : state.at("layers")) all.push_back(layer.at(1).get<double>());
  return all;
}

// The shared quantiser in float64 with beta in the graph: rounding passes gradients unchanged, range and zero
// point have none.
Tensor quantize_by(const Tensor& x, const Tensor& beta, bool by_channel, double width, double min_bits) {
  const Tensor flat = by_channel ? x.detach().reshape({x.size(0), -1}) : x.detach().reshape({1, -1});
  const auto [low, high] = flat.aminmax(1);
  std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
  shape[0] = flat.size(0);
  const Tensor z = low.view(shape), range = high.view(shape) - z;
  const Tensor real_bits = beta * width + min_bits;
  const Tensor bits = real_bits + (real_bits.round() - real_bits).detach();
  const Tensor levels = torch::pow(2.0, bits) - 1.0;
  const Tensor s = range / levels;
  const Tensor u = (x - z) / s;
  const Tensor q = u + (u.detach().clamp(torch::zeros_like(levels), levels.detach()).round() - u).detach();
  return s * q + z;
}

std::vector<double> gradients_by_autograd(Net& net, const Batch& batch, const std::vector<double>& betas) {
  std::vector<Tensor> beta;
  for (const double value : betas) {
    beta.push_back(torch::full({}, value, torch::kFloat64).requires_grad_(true));
  }
  const auto q = [&](const Tensor& x, size_t layer, bool is_weight) {
    return quantize_by(x, beta[layer], is_weight, 5.0, 3.0);
  };
  const auto weight = [&](const Tensor& w, size_t layer) {
    return q(w.detach().to(torch::kFloat64), layer, true);
  };
  Tensor x = batch.x.to(torch::kFloat64);
  x = torch::conv2d(q(x, 0, false), weight(net.conv1->weight, 0), {}, 1, 1).relu();
  x = torch::conv2d(q(x, 1, false), weight(net.conv2->weight, 1), {}, 2).relu().mean({2, 3});
  x = torch::linear(q(x, 2, false), weight(net.fc->weight, 2), net.fc->bias.detach().to(torch::kFloat64));
  torch::nn::functional::cross_entropy(x, batch.target).backward();
  std::vector<double> gradients;
  for (const Tensor& one : beta) gradients.push_back(one.grad().item<double>());
  return gradients;
}

// Rounded to 24 bits dY hardly differs from its float form, which automatic differentiation works with.
TEST(StepGradients, BetaLearnsByTheGradientOfAutomaticDifferentiation) {
  for (const double beta0 : {0.0, 0.2, 0.5, 1.0}) {
    Net net;
    const auto policy =
        make_ldp({{"layers", "all"}, {"gradient_bits", 24}, {"beta0", beta0}, {"lr_beta", 0.0}});
    Session session(policy, {.arithmetic = Arithmetic::kSimulated});
    session.attach(net);
    const auto expected = gradients_by_autograd(net, make_batch(100), {beta0, beta0, beta0});
    train_step(net, session, 0);
    const auto got = task_gradients(*policy);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_NE(expected[i], 0.0);
      EXPECT_NEAR(got[i], expected[i], 2e-3 * std::fabs(expected[i]) + 2e-5)
          << "beta " << beta0 << " layer " << i;
    }
  }
}

std::vector<std::vector<double>> run(const json& options, const SessionOptions& session_options,
                                     bool with_norm = true) {
  Net net(with_norm);
  const auto policy = make_ldp(options);
  Session session(policy, session_options);
  session.attach(net);
  std::vector<std::vector<double>> gradients;
  for (int64_t step = 0; step < 3; ++step) {
    train_step(net, session, step);
    gradients.push_back(task_gradients(*policy));
  }
  return gradients;
}

void expect_near(const std::vector<std::vector<double>>& got, const std::vector<std::vector<double>>& want,
                 double tolerance, const std::string& what) {
  for (size_t step = 0; step < want.size(); ++step) {
    for (size_t i = 0; i < want[step].size(); ++i) {
      EXPECT_NEAR(got[step][i], want[step][i], tolerance * (std::fabs(want[step][i]) + 0.01))
          << what << ", step " << step << ", layer " << i;
    }
  }
}

TEST(StepGradients, FusedIntegerAndSimulatedAgree) {
  const json options = {{"lr_beta", 0.01}};
  const SessionOptions simulated{
      .arithmetic = Arithmetic::kSimulated, .reduced_axis = ReducedAxis::kRequantise, .fused = false};
  const auto want = run(options, simulated);
  ASSERT_NE(want[0][0], 0.0) << "the first layer's dX is computed for its beta";
  EXPECT_EQ(want[0][2], 0.0) << "the linear layer stays in float32";
  for (const bool fused : {false, true}) {
    SessionOptions integer;
    integer.fused = fused;
    expect_near(run(options, integer), want, 1e-3, fused ? "fused" : "unfused");
  }
}

TEST(StepGradients, ResidualsMayBeStoredOrComputedAgain) {
  for (const bool fused : {false, true}) {
    SessionOptions session;
    session.fused = fused;
    const auto want = run({{"residual", "float"}}, session);
    EXPECT_EQ(run({{"residual", "recompute"}}, session), want);
    const auto packed = run({{"residual", "int8"}}, session);
    EXPECT_NE(packed, want);
    expect_near(packed, want, 0.02, "int8");
  }
}

// dX of the first layer is computed for its beta alone: the same gradient, whether or not X wants one, and
// only in the latter case does X get it.
TEST(StepGradients, FirstLayerKeepsItsPlaceInTheGraph) {
  for (const bool fused : {false, true}) {
    std::vector<double> beta_gradients[2];
    for (const bool wants_dx : {false, true}) {
      Net net(true);
      const auto policy = make_ldp({{"lr_beta", 0.0}});
      SessionOptions options;
      options.fused = fused;
      Session session(policy, options);
      session.attach(net);
      Batch batch = make_batch(1);
      batch.x.requires_grad_(wants_dx);
      session.begin_step({});
      {
        const ForwardScope scope(session);
        torch::nn::functional::cross_entropy(net.forward(batch.x), batch.target).backward();
      }
      session.end_step({}, {.loss = 1.0});
      EXPECT_EQ(batch.x.grad().defined(), wants_dx);
      if (wants_dx) {
        EXPECT_GT(batch.x.grad().abs().sum().item<float>(), 0.0F);
      }
      beta_gradients[wants_dx ? 1 : 0] = task_gradients(*policy);
    }
    EXPECT_NE(beta_gradients[0][0], 0.0);
    EXPECT_EQ(beta_gradients[0], beta_gradients[1]) << (fused ? "fused" : "unfused");
  }
}

struct Path {
  std::vector<double> betas;  // of both convolutions, step by step
  std::vector<int> bits;      // of their X
  int limited_steps = 0;      // with a penalty on cost
};

Path learn(const SessionOptions& session_options) {
  Net net(true);
  const auto policy = make_ldp({{"lr_beta", 4.0}, {"T", 0.35}});
  Session session(policy, session_options);
  session.attach(net);
  Path path;
  for (int64_t step = 0; step < 8; ++step) {
    train_step(net, session, step);
    if (policy->state().at("layers").at(0).at(2) != 0.0) ++path.limited_steps;
    for (const int layer : {0, 1}) {
      path.betas.push_back(policy->beta(layer));
      path.bits.push_back(policy->evaluation_format({layer, TensorRole::kInput}).word_length);
    }
  }
  return path;
}

// While beta moves, the limit on cost is reached and bits change, both arithmetics learn the same.
TEST(StepGradients, BitsThatMoveAreThoseOfSimulatedArithmetic) {
  const Path want =
      learn({.arithmetic = Arithmetic::kSimulated, .reduced_axis = ReducedAxis::kRequantise, .fused = false});
  ASSERT_NE(*std::max_element(want.bits.begin(), want.bits.end()),
            *std::min_element(want.bits.begin(), want.bits.end()));
  ASSERT_GT(want.limited_steps, 0);
  for (const bool fused : {false, true}) {
    SessionOptions integer;
    integer.fused = fused;
    const Path got = learn(integer);
    EXPECT_EQ(got.limited_steps, want.limited_steps);
    EXPECT_EQ(got.bits, want.bits) << (fused ? "fused" : "unfused");
    for (size_t i = 0; i < want.betas.size(); ++i) {
      EXPECT_NEAR(got.betas[i], want.betas[i], 1e-4) << "step " << i / 2 << ", layer " << i % 2;
    }
  }
}

TEST(StepGradients, ChangedInputIsNamed) {
  Net net;
  Session session(make_ldp({{"residual", "recompute"}}));
  session.attach(net);
  session.begin_step({});
  const Batch batch = make_batch(1);
  const Tensor x = batch.x.contiguous(at::MemoryFormat::ChannelsLast);
  const Tensor y = net.conv1->forward(x);
  x.add_(1.0);
  EXPECT_THROW(y.sum().backward(), Error);
}

TEST(RoundingResidual, IsTheDistanceToTheCode) {
  torch::manual_seed(7);
  const Tensor x = torch::randn({6, 5, 7, 9}).contiguous(at::MemoryFormat::ChannelsLast);
  for (const int bits : {3, 8, 12, 16}) {
    for (const auto granularity : {Granularity::kTensor, Granularity::kChannel}) {
      const Format format{.rule = ScaleRule::kAffine, .word_length = bits, .granularity = granularity};
      const auto ranges = ops::measure_range(x, granularity, RangeStatistic::kExtreme);
      const auto q = ops::quantize(x, format, ops::choose_params(format, ranges), {});
      const Tensor residual = ops::rounding_residual(x, q);
      EXPECT_LE(residual.abs().max().item<float>(), 0.5F + 0.02F);
      std::vector<double> steps;
      for (const QuantParams& params : q.params) steps.push_back(static_cast<double>(params.scale));
      Tensor scale = torch::tensor(steps, torch::kFloat64).view({-1, 1, 1, 1});
      const Tensor moved = (ops::dequantize(q, at::kDouble) - x.to(at::kDouble)) / scale;
      EXPECT_LE((moved - residual).abs().max().item<double>(), 1e-6 * std::ldexp(1.0, bits));
      const Tensor gradient = torch::randn_like(x, at::MemoryFormat::Contiguous);
      const auto sums = ops::step_gradients(gradient, residual, q.params.size());
      const Tensor products = gradient.to(at::kDouble) * residual.to(at::kDouble);
      const Tensor expected =
          granularity == Granularity::kChannel ? products.sum({1, 2, 3}) : products.sum().view({1});
      ASSERT_EQ(static_cast<int64_t>(sums.size()), expected.numel());
      for (size_t i = 0; i < sums.size(); ++i) {
        EXPECT_NEAR(sums[i], expected[static_cast<int64_t>(i)].item<double>(), 1e-9);
      }
      const auto packed = ops::step_gradients(gradient, ops::pack_residual(residual), q.params.size());
      EXPECT_NEAR(packed[0], sums[0], 0.5 / 254 * gradient.abs().sum().item<double>());
    }
  }
}

/// What a run asks and tells a policy, to be told again.
class Recorder : public Policy {
 public:
  explicit Recorder(std::shared_ptr<Policy> policy) : policy_(std::move(policy)) {}
  std::string name() const override { return policy_->name(); }
  void attach(std::span<const LayerInfo> layers) override {
    attached_.assign(layers.begin(), layers.end());
    policy_->attach(layers);
  }
  void set_macs(int layer, int64_t macs) override {
    calls_.emplace_back([=](Policy& policy) { policy.set_macs(layer, macs); });
    policy_->set_macs(layer, macs);
  }
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override {
    TensorPlan plan = policy_->plan(id, step, probe);
    calls_.emplace_back([=](Policy& policy) {
      struct NoProbe : TensorProbe {
        Range range() override { return {}; }
        double abs_sum() override { return 0.0; }
        double quantized_abs_sum(int, float) override { return 0.0; }
      } none;
      const TensorPlan again = policy.plan(id, step, none);
      EXPECT_EQ(again.format, plan.format);
      EXPECT_EQ(again.reason, plan.reason);
      EXPECT_EQ(again.evidence, plan.evidence);
    });
    return plan;
  }
  std::optional<KeptResidual> step_gradients(int layer) const override {
    return policy_->step_gradients(layer);
  }
  void observe_step_gradients(TensorId id, const StepInfo& step, const StepGradients& gradients) override {
    calls_.emplace_back([=](Policy& policy) { policy.observe_step_gradients(id, step, gradients); });
    policy_->observe_step_gradients(id, step, gradients);
  }
  void end_step(const StepInfo& step, const StepReport& report) override {
    calls_.emplace_back([=](Policy& policy) { policy.end_step(step, report); });
    policy_->end_step(step, report);
  }
  Format evaluation_format(TensorId id) const override { return policy_->evaluation_format(id); }
  RunningRange running_range(TensorId id) const override { return policy_->running_range(id); }

  void replay(Policy& other) const {
    other.attach(attached_);
    for (const auto& call : calls_) call(other);
  }
  size_t size() const { return calls_.size(); }

 private:
  std::shared_ptr<Policy> policy_;
  std::vector<LayerInfo> attached_;
  std::vector<std::function<void(Policy&)>> calls_;
};

TEST(StepGradients, RecordedRunIsReplayedThroughThePolicyAlone) {
  const json options = {{"lr_beta", 3.0}, {"T", 0.5}};
  Net net(true);
  const auto policy = make_ldp(options);
  const auto recorder = std::make_shared<Recorder>(policy);
  Session session(recorder);
  session.attach(net);
  for (int64_t step = 0; step < 12; ++step) train_step(net, session, step);
  ASSERT_GT(recorder->size(), 12U * 15U);
  EXPECT_NE(policy->beta(0), 0.0);
  const auto again = make_ldp(options);
  recorder->replay(*again);
  EXPECT_EQ(again->state(), policy->state());
}

TEST(StepGradients, SessionResumesExactly) {
  const json options = {{"lr_beta", 1.0}, {"T", 0.4}};
  Net whole(true);
  const auto policy = make_ldp(options);
  Session session(policy);
  session.attach(whole);
  Net part(true);
  auto first = std::make_unique<Session>(make_ldp(options));
  first->attach(part);
  for (int64_t step = 0; step < 6; ++step) {
    train_step(whole, session, step);
    if (step < 3) train_step(part, *first, step);
  }
  const json saved = json::parse(first->state().dump());
  first.reset();
  const auto second_policy = make_ldp(options);
  Session second(second_policy);
  second.attach(part);
  second.load_state(saved);
  for (int64_t step = 3; step < 6; ++step) train_step(part, second, step);
  EXPECT_EQ(second_policy->state(), policy->state());
  EXPECT_TRUE(at::equal(part.conv1->weight, whole.conv1->weight));
}

}  // namespace
}  // namespace bitdial::nn::step_gradient_test
