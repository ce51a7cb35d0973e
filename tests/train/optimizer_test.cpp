#include "bitdial/train/optimizer.h"

#include <gtest/gtest.h>

#include <functional>

#include "bitdial/core/error.h"
#include "bitdial/nn/session.h"
#include "bitdial/nn/stage.h"
#include "bitdial/policies/registry.h"
#include "tests/nn/table_policy.h"

namespace bitdial::train {
namespace {

/// A convolution in channels_last, a normalisation and a linear layer: every memory order and kind of
/// parameter.
struct NetImpl : torch::nn::Module {
  NetImpl()
      : conv(register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).bias(false)))),
        norm(register_module("norm", torch::nn::BatchNorm2d(8))),
        linear(register_module("linear", torch::nn::Linear(8, 5))) {
    conv->weight.set_data(conv->weight.contiguous(torch::MemoryFormat::ChannelsLast));
  }
  torch::Tensor forward(const torch::Tensor& x) { return linear(norm(conv(x)).relu().mean({2, 3})); }

  torch::nn::Conv2d conv;
  torch::nn::BatchNorm2d norm;
  torch::nn::Linear linear;
};
TORCH_MODULE(Net);

Net make_net() {
  torch::manual_seed(11);
  return Net();
}

void backward(Net& net, int step) {
  torch::manual_seed(static_cast<uint64_t>(100 + step));
  const auto x = torch::randn({6, 3, 8, 8}).contiguous(torch::MemoryFormat::ChannelsLast);
  net->forward(x).pow(2).sum().backward();
}

void expect_close(Net& ours, Net& theirs) {
  const auto expected = theirs->named_parameters();
  for (const auto& item : ours->named_parameters()) {
    EXPECT_TRUE(torch::allclose(item.value(), expected[item.key()], 1e-5, 1e-6)) << item.key();
  }
}

template <class Reference>
void compare(const OptimizerRecipe& recipe, Reference&& make_reference) {
  Net ours = make_net();
  Net theirs = make_net();
  Optimizer optimizer(recipe, *ours);
  auto reference = make_reference(theirs->parameters());
  for (int step = 0; step < 6; ++step) {
    optimizer.zero_grad();
    reference.zero_grad();
    backward(ours, step);
    backward(theirs, step);
    optimizer.step(recipe.learning_rate);
    reference.step();
  }
  expect_close(ours, theirs);
}

TEST(Optimizer, SgdIsTorchs) {
  for (const auto& [momentum, dampening, nesterov] :
       {std::tuple(0.0, 0.0, false), std::tuple(0.9, 0.0, false), std::tuple(0.9, 0.0, true),
        std::tuple(0.9, 0.5, false)}) {
    OptimizerRecipe recipe;
    recipe.learning_rate = 0.01;
    recipe.momentum = momentum;
    recipe.dampening = dampening;
    recipe.nesterov = nesterov;
    recipe.weight_decay = 0.01;
    compare(recipe, [&](const std::vector<torch::Tensor>& parameters) {
      return torch::optim::SGD(parameters, torch::optim::SGDOptions(0.01)
                                               .momentum(recipe.momentum)
                                               .dampening(recipe.dampening)
                                               .nesterov(recipe.nesterov)
                                               .weight_decay(0.01));
    });
  }
}

TEST(Optimizer, AdamIsTorchs) {
  OptimizerRecipe recipe;
  recipe.name = "adam";
  recipe.learning_rate = 0.01;
  recipe.weight_decay = 0.02;
  compare(recipe, [](const std::vector<torch::Tensor>& parameters) {
    return torch::optim::Adam(parameters, torch::optim::AdamOptions(0.01).weight_decay(0.02));
  });
}

TEST(Optimizer, AdamWIsTorchs) {
  OptimizerRecipe recipe;
  recipe.name = "adamw";
  recipe.learning_rate = 0.01;
  recipe.weight_decay = 0.1;
  compare(recipe, [](const std::vector<torch::Tensor>& parameters) {
    return torch::optim::AdamW(parameters, torch::optim::AdamWOptions(0.01).weight_decay(0.1));
  });
}

// Three steps of torch's SGD on the loss plus its L1 penalty, two of them with weight decay.
TEST(Optimizer, AddsL1AndEndsTheWeightDecay) {
  OptimizerRecipe recipe;
  recipe.learning_rate = 0.01;
  recipe.weight_decay = 0.1;
  recipe.l1 = 0.05;
  Net ours = make_net();
  Net theirs = make_net();
  Optimizer optimizer(recipe, *ours);
  torch::optim::SGD reference(theirs->parameters(),
                              torch::optim::SGDOptions(0.01).momentum(0.9).weight_decay(0.1));
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    reference.zero_grad();
    backward(ours, step);
    backward(theirs, step);
    torch::Tensor penalty = torch::zeros({});
    for (const torch::Tensor& parameter : theirs->parameters()) penalty = penalty + parameter.abs().sum();
    (0.05 * penalty).backward();
    if (step == 2) {
      optimizer.end_weight_decay();
      static_cast<torch::optim::SGDOptions&>(reference.param_groups()[0].options()).weight_decay(0.0);
    }
    optimizer.step(recipe.learning_rate);
    reference.step();
  }
  expect_close(ours, theirs);
}

TEST(Optimizer, SparesNormsAndBiasesFromDecayOnRequest) {
  OptimizerRecipe recipe;
  recipe.momentum = 0.0;
  recipe.weight_decay = 0.5;
  recipe.decay_norm_and_bias = false;
  Net net = make_net();
  Optimizer optimizer(recipe, *net);
  for (auto& parameter : net->parameters()) parameter.mutable_grad() = torch::zeros_like(parameter);
  const auto weight = net->linear->weight.detach().clone();
  const auto bias = net->linear->bias.detach().clone();
  optimizer.step(0.1);
  EXPECT_TRUE(torch::allclose(net->linear->weight, weight * (1 - 0.1 * 0.5)));
  EXPECT_TRUE(torch::equal(net->linear->bias, bias));
  EXPECT_TRUE(torch::equal(net->norm->weight, torch::ones(8)));
}

TEST(Optimizer, GoesOnFromItsState) {
  for (const char* name : {"sgd", "adam"}) {
    OptimizerRecipe recipe;
    recipe.name = name;
    recipe.learning_rate = 0.01;
    Net whole = make_net();
    Net parts = make_net();
    Optimizer one(recipe, *whole);
    std::optional<Optimizer> other(std::in_place, recipe, *parts);
    for (int step = 0; step < 5; ++step) {
      if (step == 2) {
        std::map<std::string, torch::Tensor> state;
        for (const auto& [key, tensor] : other->state()) state[key] = tensor.clone();
        other.emplace(recipe, *parts);
        other->load_state(state);
      }
      one.zero_grad();
      other->zero_grad();
      backward(whole, step);
      backward(parts, step);
      one.step(0.01);
      other->step(0.01);
    }
    const auto expected = whole->named_parameters();
    for (const auto& item : parts->named_parameters())
      EXPECT_TRUE(torch::equal(item.value(), expected[item.key()]));
  }
}

TEST(Optimizer, MeasuresAndScalesGradients) {
  Net net = make_net();
  Optimizer optimizer({}, *net);
  backward(net, 0);
  double sum = 0.0;
  for (const auto& parameter : net->parameters())
    sum += parameter.grad().to(torch::kDouble).pow(2).sum().item<double>();
  EXPECT_NEAR(optimizer.gradient_norm(), std::sqrt(sum), 1e-4 * std::sqrt(sum));
  optimizer.scale_gradients(0.5);
  EXPECT_NEAR(optimizer.gradient_norm(), 0.5 * std::sqrt(sum), 1e-4 * std::sqrt(sum));
  EXPECT_EQ(optimizer.first_non_finite_gradient(), "");
  net->conv->weight.mutable_grad()[0][0][0][0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(optimizer.first_non_finite_gradient(), "conv.weight");
}

/// Blocks, whose weights may be updated in backward, behind and in front of layers whose may not.
struct BlocksImpl : torch::nn::Module {
  BlocksImpl() {
    first = register_module(
        "first",
        nn::ConvBlock(nn::ConvBlockOptions(torch::nn::Conv2dOptions(3, 16, 3).padding(1).bias(false))));
    second =
        register_module("second", nn::ConvBlock(nn::ConvBlockOptions(torch::nn::Conv2dOptions(16, 16, 3))));
    hidden = register_module("hidden", nn::LinearBlock(torch::nn::LinearOptions(16, 6)));
    last = register_module("last", nn::Linear(6, 5));
  }
  torch::Tensor forward(const torch::Tensor& x) { return last(hidden(second(first(x)).mean({2, 3}))); }

  nn::ConvBlock first{nullptr}, second{nullptr};
  nn::LinearBlock hidden{nullptr};
  nn::Linear last{nullptr};
};
TORCH_MODULE(Blocks);

struct Training {
  bool early = false;
  std::string policy = "static";
  std::shared_ptr<Policy> other = nullptr;  ///< in its place
  OptimizerRecipe recipe = {};
  std::function<void(Blocks&)> after_step = [](Blocks&) {};
};

std::vector<torch::Tensor> train(const Training& training, int steps = 5) {
  torch::manual_seed(11);
  Blocks net;
  nn::Session session(training.other ? training.other : policies::make(training.policy),
                      {.between = Between::kFloat32});
  session.attach(*net);
  Optimizer optimizer(training.recipe, *net);
  session.set_weight_updater(&optimizer);
  for (int step = 0; step < steps; ++step) {
    optimizer.zero_grad();
    if (training.early) optimizer.update_in_backward(0.05);
    const StepInfo info{.step = step, .total_steps = steps};
    session.begin_step(info);
    torch::manual_seed(static_cast<uint64_t>(100 + step));
    const auto x = torch::randn({6, 3, 8, 8}).contiguous(torch::MemoryFormat::ChannelsLast);
    net->forward(x).pow(2).sum().backward();
    EXPECT_EQ(net->first->conv->weight.grad().defined(), !training.early);
    EXPECT_EQ(net->hidden->linear->weight.grad().defined(), !training.early);
    EXPECT_TRUE(net->last->weight.grad().defined());
    optimizer.step(0.05);
    session.end_step(info, {});
    training.after_step(net);
  }
  std::vector<torch::Tensor> weights;
  for (const auto& weight : net->parameters()) weights.push_back(weight.detach().clone());
  return weights;
}

TEST(Optimizer, UpdatesInBackwardAreTheSameUpdates) {
  for (const bool nesterov : {false, true}) {
    OptimizerRecipe recipe;
    recipe.momentum = 0.9;
    recipe.nesterov = nesterov;
    recipe.weight_decay = 1e-2;
    const auto late = train({.policy = "static:32/32/32", .recipe = recipe});
    const auto early = train({.early = true, .policy = "static:32/32/32", .recipe = recipe});
    ASSERT_EQ(late.size(), early.size());
    for (size_t i = 0; i < late.size(); ++i) EXPECT_TRUE(torch::allclose(early[i], late[i], 1e-3, 1e-5)) << i;
  }
}

// The codes that an update leaves are those that the next forward would make.
TEST(Optimizer, UpdatesInBackwardLeaveTheCodesOfTheNextStep) {
  for (const char* policy : {"static", "static:8/8/16", "apt"}) {
    const auto kept = train({.early = true, .policy = policy});
    const auto dropped = train({.early = true, .policy = policy, .after_step = [](Blocks& net) {
                                  for (auto& parameter : net->parameters()) {
                                    parameter.unsafeGetTensorImpl()->bump_version();
                                  }
                                }});
    for (size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(torch::equal(kept[i], dropped[i])) << policy << i;
  }
}

// Codes that an update left are made anew where the policy decides otherwise, and so are their packed forms.
TEST(Optimizer, CodesOfAnotherFormatAreNotUsed) {
  const auto alternating = [] {
    auto policy = nn::TablePolicy::all(ScaleRule::kFixed, 8);
    policy->on_plan = [](TensorId, const StepInfo& step, TensorProbe&) {
      TensorPlan plan;
      plan.format = {
          .rule = ScaleRule::kFixed, .word_length = 8, .fraction_length = step.step % 2 == 0 ? 6 : 4};
      return plan;
    };
    return policy;
  };
  const auto kept = train({.early = true, .other = alternating()});
  const auto dropped = train({.early = true, .other = alternating(), .after_step = [](Blocks& net) {
                                for (auto& parameter : net->parameters()) {
                                  parameter.unsafeGetTensorImpl()->bump_version();
                                }
                              }});
  for (size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(torch::equal(kept[i], dropped[i])) << i;
}

TEST(Optimizer, StaleCodesAreNotUsed) {
  const auto halve = [](Blocks& net) {
    const torch::NoGradGuard no_grad;
    net->first->conv->weight.mul_(0.5);
  };
  const auto early = train({.early = true, .policy = "static", .after_step = halve}, 2);
  const auto late = train({.policy = "static", .after_step = halve}, 2);
  for (size_t i = 0; i < late.size(); ++i) EXPECT_TRUE(torch::allclose(early[i], late[i], 0.05, 5e-3)) << i;
}

TEST(Optimizer, SaysWhichGradientUsedUpInBackwardWasNotFinite) {
  torch::manual_seed(3);
  Blocks net;
  Optimizer optimizer({}, *net);
  optimizer.update_in_backward(0.1);
  const torch::Tensor& weight = net->second->conv->weight;
  ASSERT_TRUE(optimizer.begin(weight).has_value());
  EXPECT_FALSE(optimizer.begin(weight.detach()).has_value());  // not a parameter
  optimizer.end(weight, Range{0.0F, std::numeric_limits<float>::infinity()});
  EXPECT_TRUE(std::isnan(optimizer.gradient_norm()));
  EXPECT_EQ(optimizer.first_non_finite_gradient(), "second.conv.weight");
  optimizer.zero_grad();
  EXPECT_EQ(optimizer.first_non_finite_gradient(), "");
  EXPECT_FALSE(optimizer.begin(weight).has_value());  // not until asked again
}

}  // namespace
}  // namespace bitdial::train
