#include "bitdial/nn/precision_gate.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <tuple>

#include "bitdial/nn/norm.h"
#include "bitdial/nn/option_scope.h"
#include "bitdial/nn/session.h"
#include "bitdial/ops/quantized_tensor.h"
#include "bitdial/policies/dfq.h"
#include "tests/nn/table_policy.h"

namespace bitdial::nn::precision_gate_test {
namespace {

using policies::DfqPolicy;
using torch::Tensor;

std::shared_ptr<DfqPolicy> make_dfq(const nlohmann::json& options) {
  policies::OptionReader reader("dfq", options);
  auto policy = std::make_shared<DfqPolicy>(reader);
  reader.finish();
  return policy;
}

TEST(StraightThrough, IsOneHotInValueAndHasTheGradientOfP) {
  torch::manual_seed(1);
  const Tensor logits = torch::randn({6, 5}).requires_grad_(true);
  const Tensor p = logits.softmax(1);
  const Tensor m = straight_through(p);
  EXPECT_TRUE(at::equal(m.sum(1), torch::ones({6})));
  EXPECT_TRUE(at::equal(m.detach().amax(1), torch::ones({6})));
  EXPECT_TRUE(at::equal(m.argmax(1), p.argmax(1)));
  const Tensor weights = torch::randn({6, 5});
  const Tensor by_m = torch::autograd::grad({(m * weights).sum()}, {logits}, {}, true)[0];
  const Tensor by_p = torch::autograd::grad({(p * weights).sum()}, {logits})[0];
  EXPECT_TRUE(at::equal(by_m, by_p));
}

TEST(StraightThrough, TiesGoToTheLowestIndex) {
  const Tensor p = torch::tensor({{0.2F, 0.4F, 0.4F}, {1.0F / 3, 1.0F / 3, 1.0F / 3}});
  EXPECT_TRUE(at::equal(straight_through(p), torch::tensor({{0.F, 1.F, 0.F}, {1.F, 0.F, 0.F}})));
}

TEST(OptionScope, NestsAndEnds) {
  EXPECT_EQ(OptionScope::current().index, kNoOption);
  {
    const OptionScope outer(2);
    {
      const OptionScope inner(4);
      EXPECT_EQ(OptionScope::current().index, 4);
    }
    EXPECT_EQ(OptionScope::current().index, 2);
  }
  EXPECT_EQ(OptionScope::current().index, kNoOption);
}

/// A stem and one residual block behind a gate.
struct GatedNet : torch::nn::Module {
  explicit GatedNet(const GateRequest& request) {
    torch::manual_seed(5);
    stem = register_module("stem", Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1).bias(false)));
    conv1 = register_module("conv1", Conv2d(torch::nn::Conv2dOptions(8, 8, 3).padding(1).bias(false)));
    conv2 = register_module("conv2", Conv2d(torch::nn::Conv2dOptions(8, 8, 3).padding(1).bias(false)));
    torch::nn::AnyModule norm1 = make_norm2d(Normalization::kBatch, 8, 0);
    torch::nn::AnyModule norm2 = make_norm2d(Normalization::kBatch, 8, 1);
    register_module("norm1", norm1.ptr());
    register_module("norm2", norm2.ptr());
    const auto x = block.add_input();
    block.add_block(conv2, norm2, Activation::kRelu, block.add_block(conv1, norm1, Activation::kRelu, x), x);
    gate = register_module(
        "gate", PrecisionGate(request, std::vector<GatedBlock>{{.in_channels = 8, .block = block}}));
  }
  Tensor forward(const Tensor& x) {
    gate->begin();
    const Tensor y = stem->forward(x).relu();
    m = gate->choose(y);
    if (m.requires_grad()) m.retain_grad();
    return gate->run(0, y, m);
  }

  Conv2d stem{nullptr}, conv1{nullptr}, conv2{nullptr};
  Stage block;
  PrecisionGate gate{nullptr};
  Tensor m;
};

Tensor images() {
  torch::manual_seed(9);
  const Tensor contrast = torch::linspace(0.2, 3.0, 12).view({-1, 1, 1, 1});
  const Tensor pixels = torch::randn({12, 3, 8, 8}) * contrast;
  return pixels + torch::randn({12, 3, 1, 1});
}

// A fresh gate says the same of every sample: its biases weigh most.
void spread_choices(PrecisionGateImpl& gate) {
  const torch::NoGradGuard no_grad;
  for (auto& parameter : gate.parameters()) parameter.mul_(parameter.dim() < 2 ? 0.0 : 4.0);
}

int64_t options_chosen(const Tensor& m) { return m.sum(0).gt(0).sum().item<int64_t>(); }

struct Outcome {
  Tensor y, m, dm, d_stem, d_head, d_conv1;
};

Outcome train_once(const nlohmann::json& options, const SessionOptions& session_options) {
  const auto policy = make_dfq(options);
  GatedNet net(*policy->gate());
  spread_choices(*net.gate);
  Session session(policy, session_options);
  session.attach(net);
  const StepInfo step{};
  session.begin_step(step);
  Outcome outcome;
  {
    const ForwardScope scope(session);
    outcome.y = net.forward(images());
  }
  const Tensor loss = outcome.y.square().mean();
  const Tensor total = loss + net.gate->cost(session.policy(), step, loss.item<double>());
  total.backward();
  session.end_step(step, {.loss = total.item<double>()});
  outcome.y = outcome.y.detach();
  outcome.m = net.m.detach();
  outcome.dm = net.m.grad();
  outcome.d_stem = net.stem->weight.grad();
  outcome.d_conv1 = net.conv1->weight.grad();
  for (const auto& item : net.gate->named_parameters()) {
    if (item.key() == "head.weight") outcome.d_head = item.value().grad();
  }
  return outcome;
}

// Task losses of plain SGD steps.
std::vector<double> train_steps(const nlohmann::json& options, const SessionOptions& session_options,
                                int64_t steps) {
  const auto policy = make_dfq(options);
  GatedNet net(*policy->gate());
  spread_choices(*net.gate);
  Session session(policy, session_options);
  session.attach(net);
  torch::optim::SGD optimizer(net.parameters(), torch::optim::SGDOptions(0.05));
  std::vector<double> losses;
  for (int64_t i = 0; i < steps; ++i) {
    const StepInfo step{.step = i, .total_steps = steps};
    session.begin_step(step);
    optimizer.zero_grad();
    Tensor y;
    {
      const ForwardScope scope(session);
      y = net.forward(images());
    }
    const Tensor loss = y.square().mean();
    losses.push_back(loss.item<double>());
    const Tensor total = loss + net.gate->cost(session.policy(), step, losses.back());
    total.backward();
    optimizer.step();
    session.end_step(step, {.loss = total.item<double>()});
  }
  return losses;
}

double relative(const Tensor& got, const Tensor& want) {
  return ((got - want).norm() / want.norm()).item<double>();
}

TEST(PrecisionGate, EveryFormTrainsTheGateAndTheLayers) {
  for (const char* form : {"block", "operand"}) {
    for (const char* gate : {"exact", "chosen"}) {
      const Outcome outcome = train_once({{"gate_form", form}, {"gate", gate}}, {});
      ASSERT_GE(options_chosen(outcome.m), 2) << "samples differ in what they choose";
      for (const Tensor& gradient : {outcome.dm, outcome.d_stem, outcome.d_conv1, outcome.d_head}) {
        ASSERT_TRUE(gradient.defined()) << form << " " << gate;
        EXPECT_TRUE(at::isfinite(gradient).all().item<bool>());
        EXPECT_GT(gradient.abs().sum().item<double>(), 0.0) << form << " " << gate;
      }
    }
  }
}

// The gradient of m in the block form: what the output of each option contributes.
TEST(PrecisionGate, MixesTheOutputsOfAllOptions) {
  const auto policy = make_dfq({{"beta", 0.0}});
  GatedNet net(*policy->gate());
  Session session(policy);
  session.attach(net);
  session.begin_step({});
  const Tensor y = net.forward(images());
  y.square().mean().backward();
  const auto again = make_dfq({{"beta", 0.0}});
  GatedNet same(*again->gate());
  Session other(again);
  other.attach(same);
  other.begin_step({});
  const torch::NoGradGuard no_grad;
  const Tensor x = same.stem->forward(images()).relu();
  Tensor mixed = torch::zeros_like(y);
  for (int option = 0; option < 5; ++option) {
    const OptionScope scope(option);
    const Tensor output = same.block.forward({x});
    mixed += output * net.m.detach().select(1, option).view({-1, 1, 1, 1});
    const Tensor expected = (2.0 / static_cast<double>(y.numel()) * y * output).flatten(1).sum(1);
    EXPECT_LE(relative(net.m.grad().select(1, option), expected), 1e-4) << option;
  }
  EXPECT_LE(relative(y, mixed), 1e-6);
}

// In the operand form dm is the product of dX with X as each option quantises it, in the range of all
// samples.
TEST(PrecisionGate, MixesTheQuantisedInputsOfAllOptions) {
  torch::manual_seed(4);
  Conv2d conv(torch::nn::Conv2dOptions(3, 6, 3).padding(1).bias(false));
  Stage block;
  block.add_block(conv, {}, Activation::kNone, block.add_input());
  const auto policy = make_dfq({{"layers", "all"}});
  Session session(policy);
  session.attach(*conv);
  session.begin_step({});
  const Tensor x = images().requires_grad_(true);
  const Tensor choice = torch::arange(12).remainder(5);
  const Tensor m = torch::one_hot(choice, 5).to(torch::kFloat32).requires_grad_(true);
  block.forward_by_option(x, m, Mixed::kOperands).square().sum().backward();
  const auto ranges = ops::measure_range(x.detach(), Granularity::kTensor, RangeStatistic::kExtreme);
  for (int option = 0; option < 5; ++option) {
    const Format format =
        policy->evaluation_format({.layer = 0, .role = TensorRole::kInput, .option = option});
    const auto q = ops::quantize(x.detach(), format, ops::choose_params(format, ranges), {});
    const Tensor expected = (x.grad() * ops::dequantize(q, at::kFloat)).flatten(1).sum(1);
    EXPECT_LE(relative(m.grad().select(1, option), expected), 1e-5) << option;
  }
}

// With one option for all there is nothing to choose: every form is the plain block.
TEST(PrecisionGate, OneOptionIsThePlainBlock) {
  const nlohmann::json one = {{"activation_options", {6}}, {"gradient_options", {8}}};
  const SessionOptions simulated{.arithmetic = Arithmetic::kSimulated, .fused = false};
  const Outcome block = train_once(one, simulated);
  for (const auto& [form, gate] :
       {std::tuple("block", "chosen"), {"operand", "exact"}, {"operand", "chosen"}}) {
    nlohmann::json options = one;
    options["gate_form"] = form;
    options["gate"] = gate;
    const Outcome other = train_once(options, simulated);
    EXPECT_LE(relative(other.y, block.y), 1e-5) << form << gate;
    EXPECT_LE(relative(other.d_conv1, block.d_conv1), 0.02) << form << gate;
  }
}

TEST(PrecisionGate, IntegerAndSimulatedAgree) {
  for (const auto& [form, gate] : {std::tuple("block", "exact"), {"operand", "exact"}, {"block", "chosen"}}) {
    const nlohmann::json options = {{"gate_form", form}, {"gate", gate}};
    SessionOptions simulated{.arithmetic = Arithmetic::kSimulated, .reduced_axis = ReducedAxis::kRequantise};
    const Outcome want = train_once(options, simulated);
    const Outcome got = train_once(options, {});
    EXPECT_TRUE(at::equal(got.m, want.m)) << form << gate;
    EXPECT_LE(relative(got.y, want.y), 1e-4) << form << gate;
    EXPECT_LE(relative(got.d_conv1, want.d_conv1), 0.02) << form << gate;
    EXPECT_LE(relative(got.dm, want.dm), 1e-2) << form << gate;
  }
}

// Both arithmetics go the same way for several updates: same choices, losses side by side.
TEST(PrecisionGate, IntegerAndSimulatedTrainAlike) {
  for (const auto& [form, gate] : {std::tuple("block", "exact"), {"operand", "exact"}, {"block", "chosen"}}) {
    const nlohmann::json options = {{"gate_form", form}, {"gate", gate}};
    const SessionOptions simulated{.arithmetic = Arithmetic::kSimulated,
                                   .reduced_axis = ReducedAxis::kRequantise};
    const std::vector<double> want = train_steps(options, simulated, 6);
    const std::vector<double> got = train_steps(options, {}, 6);
    EXPECT_LT(want.back(), want.front()) << "it learns";
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_NEAR(got[i], want[i], 0.02 * want[0]) << form << gate << i;
  }
}

// Samples that skip go around the block, the others through it, each with its place and its gradient.
TEST(PrecisionGate, SkippedSamplesKeepTheirInput) {
  for (const char* gate : {"exact", "chosen"}) {
    const auto policy =
        make_dfq({{"activation_options", {0, 6}}, {"gradient_options", {0, 8}}, {"gate", gate}});
    GatedNet net(*policy->gate());
    spread_choices(*net.gate);
    Session session(policy);
    session.attach(net);
    session.begin_step({});
    const Tensor y = net.forward(images());
    const Tensor choice = net.m.detach().argmax(1);
    ASSERT_GT(choice.sum().item<int64_t>(), 0);
    ASSERT_LT(choice.sum().item<int64_t>(), 12);
    y.square().mean().backward();
    for (const Tensor& gradient : {net.m.grad(), net.stem->weight.grad(), net.conv1->weight.grad()}) {
      EXPECT_GT(gradient.abs().sum().item<double>(), 0.0);
    }
    const torch::NoGradGuard no_grad;
    const Tensor x = net.stem->forward(images()).relu();
    for (int64_t n = 0; n < 12; ++n) {
      const bool is_input = at::allclose(y[n], x[n], 1e-6, 1e-6);
      EXPECT_EQ(is_input, choice[n].item<int64_t>() == 0) << gate << n;
    }
  }
}

// Samples are sorted by option on the way; each must come back to its place with its own option's precision.
TEST(PrecisionGate, EvaluationRunsEachSampleInItsOwnOption) {
  const auto policy = make_dfq({});
  GatedNet net(*policy->gate());
  spread_choices(*net.gate);
  Session session(policy, {.fused = false});
  session.attach(net);
  session.begin_step({});
  net.forward(images());
  net.eval();
  const torch::NoGradGuard no_grad;
  const Tensor y = net.forward(images());
  const Tensor x = net.stem->forward(images()).relu();
  ASSERT_GE(options_chosen(net.m), 2);
  for (int64_t n = 0; n < 12; ++n) {
    const OptionScope scope(static_cast<int>(net.m[n].argmax().item<int64_t>()));
    const Tensor alone = net.block.forward({x.narrow(0, n, 1)});
    EXPECT_LE(relative(y.narrow(0, n, 1), alone), 1e-5) << n;
  }
}

}  // namespace
}  // namespace bitdial::nn::precision_gate_test
