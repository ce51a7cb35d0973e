#include "bitdial/nn/session.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitdial/core/error.h"
#include "bitdial/nn/conv2d.h"
#include "bitdial/nn/convert.h"
#include "bitdial/nn/linear.h"
#include "bitdial/nn/norm.h"
#include "bitdial/ops/gemm.h"
#include "tests/nn/table_policy.h"

namespace bitdial::nn {
namespace {

using torch::Tensor;

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no bitdial::Error";
}

// The same network from bitdial's layers and from LibTorch's.
template <class Conv, class Linear>
struct NetImpl : torch::nn::Module {
  NetImpl()
      : conv1(register_module("conv1", Conv(torch::nn::Conv2dOptions(3, 8, 3).padding(1).bias(false)))),
        norm(register_module("norm", torch::nn::BatchNorm2d(8))),
        conv2(register_module("conv2", Conv(torch::nn::Conv2dOptions(8, 8, 3).stride(2).groups(8)))),
        same(register_module("same", Conv(torch::nn::Conv2dOptions(8, 6, {2, 3}).padding(torch::kSame)))),
        up(register_module("up", torch::nn::ConvTranspose2d(torch::nn::ConvTranspose2dOptions(6, 6, 2)))),
        fc1(register_module("fc1", Linear(torch::nn::LinearOptions(6, 12).bias(false)))),
        fc2(register_module("fc2", Linear(12, 5))) {}
  Tensor forward(Tensor x) {
    x = torch::relu(norm->forward(conv1->forward(x)));
    x = up->forward(torch::relu(same->forward(conv2->forward(x))));
    x = x.mean({2, 3});
    return fc2->forward(torch::relu(fc1->forward(x)));
  }
  Conv conv1;
  torch::nn::BatchNorm2d norm;
  Conv conv2, same;
  torch::nn::ConvTranspose2d up;
  Linear fc1, fc2;
};
using Net = NetImpl<Conv2d, Linear>;
using ForeignNet = NetImpl<torch::nn::Conv2d, torch::nn::Linear>;

template <class Network>
std::shared_ptr<Network> make_net() {
  torch::manual_seed(11);
  return std::make_shared<Network>();
}

Tensor images(int64_t n = 4) {
  torch::manual_seed(12);
  return torch::randn({n, 3, 9, 9});
}

// One training step; returns the loss.
template <class Network>
double train_step(Network& net, Session& session, torch::optim::Optimizer& optimizer, int64_t step) {
  torch::manual_seed(100 + static_cast<uint64_t>(step));
  const Tensor x = torch::randn({4, 3, 9, 9}), target = torch::randint(5, {4}, at::kLong);
  session.begin_step({.step = step, .total_steps = 10});
  Tensor loss;
  {
    ForwardScope scope(session);
    loss = torch::nn::functional::cross_entropy(net.forward(x), target);
  }
  optimizer.zero_grad();
  loss.backward();
  optimizer.step();
  session.end_step({.step = step, .total_steps = 10}, {.loss = loss.item<double>()});
  return loss.item<double>();
}

template <class Network>
torch::optim::SGD sgd(Network& net) {
  return torch::optim::SGD(net.parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
}

TEST(Layers, WithoutSessionEqualPyTorch) {
  auto ours = make_net<Net>();
  auto theirs = make_net<ForeignNet>();
  const auto names = ours->named_parameters();
  for (const auto& item : theirs->named_parameters()) EXPECT_TRUE(at::equal(names[item.key()], item.value()));
  EXPECT_TRUE(ours->conv1->weight.is_contiguous(at::MemoryFormat::ChannelsLast));
  const Tensor a = ours->forward(images()), b = theirs->forward(images());
  EXPECT_TRUE(at::allclose(a, b, 1e-5, 1e-6));
  a.sum().backward();
  b.sum().backward();
  for (const auto& item : theirs->named_parameters()) {
    EXPECT_TRUE(at::allclose(names[item.key()].grad(), item.value().grad(), 1e-4, 1e-5)) << item.key();
  }
}

TEST(Layers, CloneCopiesParametersAndBelongsToNoSession) {
  auto net = make_net<Net>();
  Session session(TablePolicy::all(ScaleRule::kSymmetric, 4));
  session.attach(*net);
  net->eval();
  const auto copy = std::dynamic_pointer_cast<Conv2dImpl>(net->conv1->clone());
  ASSERT_TRUE(copy);
  EXPECT_TRUE(at::equal(copy->weight, net->conv1->weight));
  EXPECT_NE(copy->weight.data_ptr(), net->conv1->weight.data_ptr());
  EXPECT_FALSE(copy->is_training());
  EXPECT_FALSE(at::allclose(copy->forward(images()), net->conv1->forward(images()), 1e-3, 1e-3));
}

TEST(Layers, PaddingModesAndUnbatchedInput) {
  for (const auto& mode : std::vector<torch::nn::detail::conv_padding_mode_t>{
           torch::kZeros, torch::kReflect, torch::kReplicate, torch::kCircular}) {
    torch::manual_seed(1);
    Conv2d ours(torch::nn::Conv2dOptions(3, 4, {3, 2}).padding({1, 2}).padding_mode(mode));
    Session session(TablePolicy::all(ScaleRule::kSymmetric, 16));
    session.attach(*ours);
    session.begin_step({});
    const Tensor x = images()[0];
    const Tensor y = ours->forward(x);
    EXPECT_EQ(y.dim(), 3);
    EXPECT_TRUE(at::allclose(y, ours->torch::nn::Conv2dImpl::forward(x), 1e-3, 1e-3));
  }
}

TEST(Session, TellsThePolicyEveryLayer) {
  auto net = make_net<Net>();
  auto policy = TablePolicy::all(ScaleRule::kSymmetric, 8);
  Session session(policy);
  session.attach(*net);
  ASSERT_EQ(session.layers().size(), 5U);
  EXPECT_EQ(session.layers()[0].name, "conv1");
  EXPECT_EQ(session.layers()[1].kind, LayerKind::kDepthwiseConv2d);
  EXPECT_EQ(session.layers()[4].kind, LayerKind::kLinear);
  EXPECT_EQ(session.layers()[4].weights, 60);
  EXPECT_TRUE(session.layers()[0].is_first);
  EXPECT_TRUE(session.layers()[4].is_last);
  EXPECT_FALSE(session.layers()[4].is_first);
  EXPECT_EQ(session.layers()[0].macs, 0);
  auto optimizer = sgd(*net);
  train_step(*net, session, optimizer, 0);
  EXPECT_EQ(session.layers()[0].macs, 8 * 9 * 9 * 27);
  EXPECT_EQ(session.layers()[1].macs, 8 * 4 * 4 * 9);
  EXPECT_EQ(session.layers()[4].macs, 60);
  using R = TensorRole;
  // Forward order, then backward; the first layer has no dX.
  const std::vector<std::pair<int, R>> first = {{0, R::kWeight}, {0, R::kInput}, {0, R::kInputWtgrad}};
  EXPECT_TRUE(std::equal(first.begin(), first.end(), policy->asked.begin()));
  EXPECT_EQ(policy->asked.back(), std::pair(0, R::kGradWtgrad));
  EXPECT_EQ(policy->asked.size(), 5U * 5U - 1U);
  EXPECT_EQ((policy->observed[{1, R::kGradBprop}].count), (policy->observed[{1, R::kGradWtgrad}].count));
  EXPECT_EQ((policy->observed[{0, R::kInput}].count), 4 * 3 * 9 * 9);
  EXPECT_FALSE(policy->observed.contains({0, R::kGradBprop}));
}

TEST(Session, MisuseIsNamed) {
  auto net = make_net<Net>();
  Session session(TablePolicy::all(ScaleRule::kSymmetric, 8));
  EXPECT_EQ(error_of([&] { session.begin_step({}); }), "[session] begin_step before attach");
  session.attach(*net);
  EXPECT_EQ(error_of([&] { net->forward(images()); }),
            "[session] begin_step must be called before a forward in training mode");
  EXPECT_EQ(error_of([&] { session.attach(*net); }), "[session] a session is attached to one network, once");
  torch::nn::Linear plain(2, 2);
  Session other(TablePolicy::all(ScaleRule::kSymmetric, 8));
  EXPECT_NE(error_of([&] { other.attach(*plain); }).find("no bitdial::nn::Conv2d or Linear"),
            std::string::npos);
  EXPECT_EQ(error_of([&] { Session none(nullptr); }), "[session] no policy given");
}

TEST(Session, NonFiniteTensorIsNamed) {
  auto net = make_net<Net>();
  for (const bool previous : {false, true}) {
    Format f = format_of(ScaleRule::kSymmetric, 8);
    f.range_source = previous ? RangeSource::kPrevious : RangeSource::kExact;
    Session session(TablePolicy::all(f));
    session.attach(*net);
    session.begin_step({.step = 6});
    net->forward(images());
    session.begin_step({.step = 7});
    Tensor x = images();
    x[0][1][2][3] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(error_of([&] { net->forward(x); }), "[quantize] conv1: x is not finite at step 7");
    const Tensor y = net->forward(images());
    EXPECT_EQ(error_of([&] { y.mul(std::numeric_limits<float>::infinity()).sum().backward(); }),
              "[quantize] fc2: dy_bprop is not finite at step 7");
  }
}

TEST(Session, PolicyThatQuantisesNothingRunsPyTorch) {
  auto net = make_net<Net>();
  auto policy = TablePolicy::all(Format::float32());
  policy->is_on = false;
  const Tensor want = net->forward(images());
  Session session(policy);
  session.attach(*net);
  EXPECT_TRUE(at::equal(net->forward(images()), want));
  EXPECT_EQ(session.summary().bits_w, 32.0);
  EXPECT_EQ(session.summary().float_layers, 1.0);
  EXPECT_TRUE(policy->asked.empty());
}

TEST(Session, AutocastOnlyInsideTheScope) {
  auto net = make_net<Net>();
  auto policy = TablePolicy::all(Format::float32());
  policy->is_on = false;
  policy->arithmetic = FloatArithmetic::kBFloat16Autocast;
  Session session(policy);
  session.attach(*net);
  Tensor before;
  {
    ForwardScope scope(session);
    EXPECT_EQ(net->conv1->forward(images()).scalar_type(), at::kBFloat16);
    const torch::NoGradGuard no_grad;
    before = net->forward(images());
    net->fc2->weight.mul_(2.0);
  }
  EXPECT_EQ(net->conv1->forward(images()).scalar_type(), at::kFloat);
  ForwardScope scope(session);
  const torch::NoGradGuard no_grad;
  EXPECT_FALSE(at::allclose(net->forward(images()), before, 1e-2, 1e-2)) << "stale cached weight";
  EXPECT_EQ(session.summary().bits_w, 16.0);
}

TEST(Session, QuantisedLayersComputeTheSameUnderAutocast) {
  auto net = make_net<Net>();
  auto policy = TablePolicy::all(ScaleRule::kSymmetric, 8);
  Session session(policy, {.arithmetic = Arithmetic::kSimulated});
  session.attach(*net);
  session.begin_step({});
  const Tensor want = net->conv1->forward(images());
  policy->arithmetic = FloatArithmetic::kBFloat16Autocast;
  ForwardScope scope(session);
  EXPECT_TRUE(at::equal(net->conv1->forward(images()), want));
}

// Layers through a session give what the autograd functions give with the same formats.
TEST(Session, LayersMatchOps) {
  for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
    torch::manual_seed(3);
    Conv2d conv(torch::nn::Conv2dOptions(5, 7, 3).padding(1));
    Format w = format_of(ScaleRule::kSymmetric, 8);
    w.granularity = Granularity::kChannel;
    const Format x = format_of(ScaleRule::kAffine, 8), g = format_of(ScaleRule::kPowerOfTwo, 16);
    Session session(std::make_shared<TablePolicy>(w, x, x, g, g),
                    {.arithmetic = arithmetic, .reduced_axis = ReducedAxis::kRequantise});
    session.attach(*conv);
    session.begin_step({});
    const Tensor a = torch::randn({3, 5, 6, 6}).requires_grad_();
    const Tensor b = a.detach().clone().requires_grad_();
    const Tensor weight = conv->weight.detach().clone().requires_grad_();
    const Tensor y = conv->forward(a);
    const Tensor z = ops::conv2d(b, weight, conv->bias, {.padding = {1, 1}}, arithmetic,
                                 ops::fixed_operands({w, x, x, g, g}, ReducedAxis::kRequantise, 0));
    const Tensor dy = torch::randn_like(y);
    y.backward(dy);
    z.backward(dy);
    EXPECT_TRUE(at::equal(y, z));
    EXPECT_TRUE(at::equal(a.grad(), b.grad()));
    EXPECT_TRUE(at::equal(conv->weight.grad(), weight.grad()));
  }
}

// SBM: the forward is the plain quantised layer, dW comes from the unquantised dY, dX from the quantised one.
TEST(Session, GradientBifurcation) {
  torch::manual_seed(4);
  Linear layer(torch::nn::LinearOptions(20, 10).bias(false));
  const Format eight = format_of(ScaleRule::kAffine, 8);
  Format g = eight;
  g.rounding = Rounding::kStochastic;
  Session session(std::make_shared<TablePolicy>(eight, eight, eight, g, Format::float32()));
  session.attach(*layer);
  session.begin_step({});
  const Tensor x = torch::randn({6, 20}).requires_grad_();
  const Tensor y = layer->forward(x);
  const Tensor dy = torch::randn({6, 10});
  y.backward(dy);
  const auto grid = [](const Tensor& t, const Format& f) {
    const auto ranges = ops::measure_range(t.detach(), Granularity::kTensor, RangeStatistic::kExtreme);
    return ops::dequantize(ops::quantize(t.detach(), f, ops::choose_params(f, ranges), {}), at::kDouble);
  };
  const Tensor xq = grid(x, eight), wq = grid(layer->weight, eight);
  EXPECT_TRUE(at::allclose(y.to(at::kDouble), xq.matmul(wq.t()), 1e-6, 1e-6));
  EXPECT_TRUE(
      at::allclose(layer->weight.grad().to(at::kDouble), dy.to(at::kDouble).t().matmul(xq), 1e-5, 1e-5));
  const Tensor full = dy.to(at::kDouble).matmul(wq);
  EXPECT_FALSE(at::allclose(x.grad().to(at::kDouble), full, 1e-4, 1e-4)) << "dX came from the unquantised dY";
  // One step of dY's grid per product at most.
  const double step = (dy.max() - dy.min()).item<double>() / 255;
  const Tensor bound = wq.abs().sum(0).mul(step).expand_as(full);
  EXPECT_TRUE(x.grad().to(at::kDouble).sub(full).abs().le(bound).all().item<bool>());
}

TEST(Session, EventsNameEveryDecision) {
  auto net = make_net<Net>();
  auto policy = TablePolicy::all(ScaleRule::kPowerOfTwo, 8);
  std::vector<PrecisionEvent> events;
  Session session(policy, {.on_event = [&](const PrecisionEvent& event) { events.push_back(event); }});
  session.attach(*net);
  auto optimizer = sgd(*net);
  train_step(*net, session, optimizer, 0);
  EXPECT_EQ(events.size(), 5U * 4U - 1U);  // w, x, dy_bprop, dy_wtgrad; no dy_bprop in the first layer
  EXPECT_EQ(events[0].layer, "conv1");
  EXPECT_EQ(events[0].tensor, TensorRole::kWeight);
  EXPECT_EQ(events[0].bits, 8);
  EXPECT_EQ(events[0].arithmetic, "int8");
  EXPECT_EQ(events[0].reason, "first step");
  ASSERT_TRUE(events[0].scale_log2.has_value());
  EXPECT_EQ(*events[0].scale_log2, std::round(*events[0].scale_log2));
  EXPECT_EQ(session.summary().bits_dy, 8.0);
  EXPECT_EQ(session.summary().int8_layers, 1.0);

  events.clear();
  train_step(*net, session, optimizer, 1);
  EXPECT_TRUE(events.empty());

  policy->on_plan = [&](TensorId id, const StepInfo&, TensorProbe& probe) {
    TensorPlan plan;
    plan.format = policy->formats[static_cast<size_t>(id.role)];
    const bool is_gradient = id.role == TensorRole::kGradBprop || id.role == TensorRole::kGradWtgrad;
    if (id.layer == 3 && is_gradient) {
      plan.format.word_length = 16;
      plan.reason = "wider";
      plan.evidence = {{"sum", probe.abs_sum()}};
    }
    return plan;
  };
  train_step(*net, session, optimizer, 2);
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].layer, "fc1");
  EXPECT_EQ(events[0].tensor, TensorRole::kGradBprop);
  EXPECT_EQ(events[0].bits, 16);
  EXPECT_EQ(events[0].arithmetic, "int8xint16");
  EXPECT_EQ(events[1].reason, "wider");
  EXPECT_GT(events[0].evidence.at("sum").get<double>(), 0.0);
  EXPECT_DOUBLE_EQ(session.summary().int8_layers, 0.8);
  EXPECT_DOUBLE_EQ(session.summary().int16_layers, 0.2);
}

TEST(Session, EventsNameFloatAndSimulatedArithmetic) {
  const Format eight = format_of(ScaleRule::kSymmetric, 8);
  for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
    auto net = make_net<Net>();
    std::map<TensorRole, std::string> names;
    Session session(std::make_shared<TablePolicy>(eight, eight, eight, eight, Format::float32()),
                    {.arithmetic = arithmetic, .on_event = [&](const PrecisionEvent& event) {
                       if (event.layer == "fc2") names[event.tensor] = event.arithmetic;
                     }});
    session.attach(*net);
    auto optimizer = sgd(*net);
    train_step(*net, session, optimizer, 0);
    const bool is_integer = arithmetic == Arithmetic::kInteger;
    EXPECT_EQ(names[TensorRole::kWeight], is_integer ? "int8" : "simulated");
    EXPECT_EQ(names[TensorRole::kGradWtgrad], is_integer ? "float32" : "simulated");
    EXPECT_DOUBLE_EQ(session.summary().float_layers, 1.0);
    EXPECT_DOUBLE_EQ(session.summary().bits_dy, (5 * 32 + 4 * 8) / 9.0);
  }
}

TEST(Session, EventsNameBFloat16) {
  const Format eight = format_of(ScaleRule::kSymmetric, 8), narrow = Format::bfloat16();
  auto net = make_net<Net>();
  std::map<TensorRole, PrecisionEvent> events;
  Session session(std::make_shared<TablePolicy>(eight, eight, narrow, eight, narrow),
                  {.on_event = [&](const PrecisionEvent& event) {
                    if (event.layer == "fc2") events[event.tensor] = event;
                  }});
  session.attach(*net);
  auto optimizer = sgd(*net);
  train_step(*net, session, optimizer, 0);
  EXPECT_EQ(events[TensorRole::kWeight].arithmetic, "int8");
  EXPECT_EQ(events[TensorRole::kGradWtgrad].arithmetic, "bfloat16");
  EXPECT_EQ(events[TensorRole::kGradWtgrad].bits, 16);
  EXPECT_DOUBLE_EQ(session.summary().float_layers, 1.0);
  Session other(std::make_shared<TablePolicy>(eight, eight, narrow, eight, narrow));
  auto copy = make_net<Net>();
  other.attach(*copy);
  other.load_state(session.state());
  EXPECT_EQ(other.state(), session.state());
}

TEST(Session, PreviousRangesAndSaturation) {
  Format f = format_of(ScaleRule::kSymmetric, 8);
  f.range_source = RangeSource::kPrevious;
  Linear layer(torch::nn::LinearOptions(4, 2).bias(false));
  auto policy = TablePolicy::all(f);
  Session session(policy);
  session.attach(*layer);
  const auto saturated = [&](int64_t step, float amplitude) {
    session.begin_step({.step = step});
    layer->forward(torch::full({5, 4}, amplitude));
    return policy->observed[{0, TensorRole::kInput}].saturated;
  };
  EXPECT_EQ(saturated(0, 1.0F), 0);   // measured
  EXPECT_EQ(saturated(1, 2.0F), 20);  // the range of step 0: clamped, all counted
  EXPECT_EQ(saturated(2, 3.0F), 0);   // measured anew after saturation
  EXPECT_EQ(saturated(3, 1.0F), 0);   // in-hindsight: 3
  EXPECT_EQ(saturated(4, 2.75F), 0);  // 0.9 * 3 + 0.1 * 1 = 2.8
  EXPECT_EQ(saturated(5, 3.0F), 20);  // 0.9 * 2.8 + 0.1 * 2.75 = 2.795
  policy->formats[1].word_length = 16;
  EXPECT_EQ(saturated(6, 9.0F), 0);  // another format: measured
}

TEST(Session, EvaluationUsesRunningRanges) {
  Linear layer(torch::nn::LinearOptions(4, 2).bias(false));
  // Weights that quantise exactly: what is left is the error of the input.
  torch::nn::init::constant_(layer->weight, 0.5);
  const auto values_at = [&](const RunningRange& running, const std::vector<float>& amplitudes) {
    auto policy = TablePolicy::all(ScaleRule::kSymmetric, 8);
    policy->running = running;
    Session session(policy);
    layer->train();
    session.attach(*layer);
    for (size_t i = 0; i < amplitudes.size(); ++i) {
      session.begin_step({.step = static_cast<int64_t>(i)});
      layer->forward(torch::full({5, 4}, amplitudes[i]));
    }
    layer->eval();
    const torch::NoGradGuard no_grad;
    // An input far outside comes out as the largest value of the range.
    const Tensor y = layer->forward(torch::full({1, 4}, 1000.0F));
    return (y / layer->weight.sum(1)).mean().item<double>();
  };
  EXPECT_NEAR(values_at({}, {1.0F, 3.0F}), 3.0, 0.05);                 // the last step's range
  EXPECT_NEAR(values_at({.momentum = 0.5}, {1.0F, 3.0F}), 2.0, 0.05);  // the first is taken whole
  EXPECT_NEAR(values_at({.momentum = 0.9, .start_at_zero = true}, {2.0F, 2.0F}), 0.38, 0.02);  // v (1 - m^k)
  EXPECT_NEAR(values_at({.momentum = 0.9}, {}), 1000.0, 10.0);  // never trained: measured
}

TEST(Session, EvaluationKeepsPrescribedParams) {
  Linear layer(torch::nn::LinearOptions(4, 2).bias(false));
  auto policy = TablePolicy::all(ScaleRule::kPowerOfTwo, 8);
  policy->on_plan = [&](TensorId id, const StepInfo&, TensorProbe&) {
    TensorPlan plan;
    plan.format = policy->formats[static_cast<size_t>(id.role)];
    plan.params = QuantParams{.scale = 0x1p-7F};
    return plan;
  };
  Session session(policy);
  session.attach(*layer);
  session.begin_step({});
  layer->forward(torch::full({5, 4}, 0.1F));
  layer->eval();
  torch::nn::init::constant_(layer->weight, 0.5);
  const torch::NoGradGuard no_grad;
  EXPECT_FLOAT_EQ(layer->forward(torch::full({1, 4}, 1000.0F))[0][0].item<float>(),
                  4 * 0.5F * 127.0F / 128.0F);
}

// Save after three steps, restore into a fresh network and session: the next steps and the evaluation are the
// same bits.
TEST(Session, StateRoundTripIsExact) {
  Format gradient = format_of(ScaleRule::kAffine, 8);
  gradient.rounding = Rounding::kStochastic;
  gradient.range_source = RangeSource::kPrevious;
  Format input = format_of(ScaleRule::kAffine, 8);
  input.range_statistic = RangeStatistic::kSampleMean;
  const Format weight = format_of(ScaleRule::kSymmetric, 8);
  const auto make_policy = [&] {
    auto policy = std::make_shared<TablePolicy>(weight, input, input, gradient, gradient);
    policy->running = {.momentum = 0.1, .start_at_zero = true};
    return policy;
  };
  auto net = make_net<Net>();
  auto policy = make_policy();
  Session session(policy, {.seed = 5});
  session.attach(*net);
  auto optimizer = sgd(*net);
  for (int64_t step = 0; step < 3; ++step) train_step(*net, session, optimizer, step);
  const nlohmann::json saved = nlohmann::json::parse(session.state().dump());
  std::stringstream weights, momentum;
  torch::serialize::OutputArchive archive;
  net->save(archive);
  archive.save_to(weights);
  torch::save(optimizer, momentum);

  auto copy = make_net<Net>();
  torch::serialize::InputArchive input_archive;
  input_archive.load_from(weights);
  copy->load(input_archive);
  auto copy_policy = make_policy();
  int copied_events = 0;
  Session restored(copy_policy, {.seed = 5, .on_event = [&](const PrecisionEvent&) { ++copied_events; }});
  restored.attach(*copy);
  auto copy_optimizer = sgd(*copy);
  torch::load(copy_optimizer, momentum);
  restored.load_state(saved);
  EXPECT_EQ(restored.state(), session.state());
  EXPECT_EQ(copy_policy->counter, 3);
  for (int64_t step = 3; step < 6; ++step) {
    EXPECT_EQ(train_step(*net, session, optimizer, step), train_step(*copy, restored, copy_optimizer, step));
  }
  EXPECT_EQ(copied_events, 0);
  EXPECT_EQ(restored.state(), session.state());
  net->eval();
  copy->eval();
  EXPECT_TRUE(at::equal(net->forward(images()), copy->forward(images())));
}

TEST(Session, ForeignStateIsRefused) {
  auto net = make_net<Net>();
  Session session(TablePolicy::all(ScaleRule::kSymmetric, 8));
  session.attach(*net);
  nlohmann::json state = session.state();
  state["layers"][1]["name"] = "other";
  EXPECT_EQ(error_of([&] { session.load_state(state); }),
            "[session] layer 1 of the state is other, the network has conv2");
  state["policy"] = "apt";
  EXPECT_EQ(error_of([&] { session.load_state(state); }),
            "[session] the state belongs to policy apt, this session has table");
}

TEST(Session, EndsBeforeItsNetwork) {
  auto net = make_net<Net>();
  const Tensor want = net->conv1->forward(images());
  Tensor y;
  {
    Session session(TablePolicy::all(ScaleRule::kSymmetric, 8));
    session.attach(*net);
    session.begin_step({});
    y = net->forward(images());
  }
  EXPECT_EQ(error_of([&] { y.sum().backward(); }),
            "[session] the session ended between a layer's forward and its backward");
  EXPECT_TRUE(at::equal(net->conv1->forward(images()), want));
}

// A network written for LibTorch, trained through the dispatcher, equals the one written with bitdial's
// layers.
TEST(Convert, EqualsBitdialLayers) {
  for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
    auto ours = make_net<Net>();
    auto foreign = make_net<ForeignNet>();
    Session session(TablePolicy::all(ScaleRule::kPowerOfTwo, 8), {.arithmetic = arithmetic});
    session.attach(*ours);
    Session converted =
        convert(*foreign, TablePolicy::all(ScaleRule::kPowerOfTwo, 8), {.arithmetic = arithmetic});
    ASSERT_EQ(converted.layers().size(), 5U);
    EXPECT_EQ(converted.layers()[1].kind, LayerKind::kDepthwiseConv2d);
    auto our_optimizer = sgd(*ours);
    auto foreign_optimizer = sgd(*foreign);
    for (int64_t step = 0; step < 3; ++step) {
      EXPECT_NEAR(train_step(*ours, session, our_optimizer, step),
                  train_step(*foreign, converted, foreign_optimizer, step), 1e-6);
    }
    EXPECT_EQ(converted.summary().int8_layers, 1.0);
    for (size_t i = 0; i < 5; ++i) EXPECT_EQ(converted.layers()[i].macs, session.layers()[i].macs);
    ours->eval();
    foreign->eval();
    const torch::NoGradGuard no_grad;
    Tensor inside;
    {
      ForwardScope scope(converted);
      inside = foreign->forward(images());
    }
    EXPECT_TRUE(at::allclose(inside, ours->forward(images()), 1e-5, 1e-6));
    EXPECT_FALSE(at::equal(inside, foreign->forward(images()))) << "outside of a scope it is float32";
  }
}

TEST(Convert, OnlyKnownWeightsAreTouched) {
  auto foreign = make_net<ForeignNet>();
  auto policy = TablePolicy::all(ScaleRule::kSymmetric, 8);
  Session session = convert(*foreign, policy);
  session.begin_step({});
  ForwardScope scope(session);
  const Tensor a = torch::randn({4, 6}), b = torch::randn({6, 12});
  EXPECT_TRUE(at::equal(a.matmul(b), at::mm(a, b)));
  at::conv2d(images(), torch::randn({2, 3, 3, 3}));
  at::matmul(torch::randn({4, 12}), foreign->fc1->weight);  // not the transpose that the layer multiplies by
  EXPECT_TRUE(policy->asked.empty());
}

}  // namespace
}  // namespace bitdial::nn
