#include <gtest/gtest.h>
#include <torch/torch.h>

#include <array>

#include "bitdial/nn/convert.h"
#include "bitdial/nn/stage.h"
#include "table_policy.h"

namespace bitdial::nn {
namespace {

/// Float operands; results in 6 bits with the fixed step 1/8.
class ResultPolicy : public TablePolicy {
 public:
  explicit ResultPolicy(ResultQuantization wanted)
      : TablePolicy(Format::float32(), Format::float32(), Format::float32(), Format::float32(),
                    Format::float32()),
        wanted_(wanted) {
    for (const TensorRole role : {TensorRole::kInput, TensorRole::kOutput, TensorRole::kGradInput}) {
      if (role == TensorRole::kInput && !wanted.inputs_in_place) continue;
      formats[static_cast<size_t>(role)] = {
          .rule = ScaleRule::kFixed, .word_length = 6, .fraction_length = 3};
    }
  }
  ResultQuantization results() const override { return wanted_; }

 private:
  ResultQuantization wanted_;
};

bool on_eighths(const torch::Tensor& x) {
  const torch::Tensor steps = x.detach().mul(8.0);
  return steps.eq(steps.round()).all().item<bool>() && x.abs().max().item<float>() <= 4.0F;
}

/// Convolution, batch norm, average pool over all pixels.
struct Fixture {
  explicit Fixture(ResultQuantization wanted)
      : policy(std::make_shared<ResultPolicy>(wanted)), session(policy, {.seed = 3}) {
    torch::manual_seed(4);
    root = std::make_shared<torch::nn::Module>();
    conv = root->register_module("conv", Conv2d(torch::nn::Conv2dOptions(2, 3, 3).padding(1)));
    norm = root->register_module("norm", torch::nn::BatchNorm2d(3));
    session.attach(*root);
    session.begin_step({});
    x = torch::randn({2, 2, 4, 4}).requires_grad_();
  }

  std::shared_ptr<torch::nn::Module> root;
  std::shared_ptr<ResultPolicy> policy;
  Session session;
  Conv2d conv{nullptr};
  torch::nn::BatchNorm2d norm{nullptr};
  torch::Tensor x;
};

TEST(Results, OutputsLieOnTheirGridAndGradientsPassUnchanged) {
  Fixture plain({}), quantized({.outputs = true});
  const torch::Tensor y = plain.conv->forward(plain.x), yq = quantized.conv->forward(quantized.x);
  EXPECT_FALSE(on_eighths(y));
  EXPECT_TRUE(on_eighths(yq));
  EXPECT_TRUE(yq.allclose(y, 0.0, 0.0625 + 1e-5));
  const torch::Tensor gradient = torch::randn_like(y);
  y.backward(gradient);
  yq.backward(gradient);
  EXPECT_TRUE(plain.x.grad().equal(quantized.x.grad()));
  EXPECT_TRUE(plain.conv->weight.grad().equal(quantized.conv->weight.grad()));
}

TEST(Results, GradientsOfInputsLieOnTheirGrid) {
  Fixture run({.grad_inputs = true});
  const torch::Tensor y = run.conv->forward(run.x);
  y.backward(torch::randn_like(y));
  EXPECT_FALSE(on_eighths(y));
  EXPECT_TRUE(on_eighths(run.x.grad()));
  EXPECT_EQ(run.policy->asked.back(), (std::pair{0, TensorRole::kGradInput}));
}

TEST(Results, NormsAndPoolsFollowTheLayerBeforeThem) {
  Fixture run({.norm_outputs = true, .pool_outputs = true});
  const ForwardScope scope(run.session);
  const torch::Tensor normalized = run.norm->forward(run.conv->forward(run.x));
  EXPECT_TRUE(on_eighths(normalized));
  EXPECT_TRUE(on_eighths(normalized.mean({2, 3})));
  EXPECT_TRUE(on_eighths(torch::avg_pool2d(normalized, 2)));
  EXPECT_TRUE(on_eighths(torch::adaptive_avg_pool2d(normalized, {1, 1})));
  EXPECT_FALSE(on_eighths(normalized.mean()));  // no pool
  // The layers' own outputs are not asked for.
  EXPECT_FALSE(on_eighths(run.conv->forward(run.x)));
}

TEST(Results, InputsOfNormsAndPoolsAreOnTheGridOfTheLayerBefore) {
  // The same as quantising the layer's output, for whoever reads it through a norm or pool alone.
  Fixture inputs({.norm_inputs = true, .pool_inputs = true}), outputs({.outputs = true});
  for (Fixture* run : {&inputs, &outputs}) run->x.set_requires_grad(false);
  const auto results = [](Fixture& run) {
    const ForwardScope scope(run.session);
    const torch::Tensor y = run.conv->forward(run.x);
    return std::array{y, run.norm->forward(y), torch::avg_pool2d(y, 2), y.mean({2, 3})};
  };
  const auto with_inputs = results(inputs), with_outputs = results(outputs);
  EXPECT_FALSE(on_eighths(with_inputs[0]));
  for (size_t i = 1; i < with_inputs.size(); ++i) {
    EXPECT_TRUE(with_inputs[i].equal(with_outputs[i])) << i;
    EXPECT_FALSE(on_eighths(with_inputs[i])) << i;
  }
}

TEST(Results, NothingIsQuantisedBeforeTheFirstLayerOrOutsideTheScope) {
  Fixture run({.pool_outputs = true});
  EXPECT_FALSE(on_eighths(torch::avg_pool2d(run.x, 2)));
  const ForwardScope scope(run.session);
  EXPECT_FALSE(on_eighths(torch::avg_pool2d(run.x, 2)));
}

TEST(Results, InputsInPlaceReachOtherReaders) {
  Fixture run({.inputs_in_place = true});
  const torch::Tensor before = run.x.detach().clone();
  run.conv->forward(run.x);
  EXPECT_TRUE(on_eighths(run.x));
  EXPECT_TRUE(run.x.allclose(before.clamp(-4.0, 3.875), 0.0, 0.0625 + 1e-5));
}

TEST(Results, StagesRunOneModuleAfterTheOther) {
  Fixture run({.outputs = true});
  Stage stage;
  stage.add_block(run.conv, torch::nn::AnyModule(), kernels::Activation::kNone, stage.add_input());
  EXPECT_TRUE(on_eighths(stage.forward({run.x.detach()})));
}

TEST(Results, EvaluationQuantisesTheSame) {
  Fixture run({.outputs = true});
  const torch::Tensor y = run.conv->forward(run.x.detach());
  run.conv->eval();
  EXPECT_TRUE(run.conv->forward(run.x.detach()).equal(y));
}

}  // namespace
}  // namespace bitdial::nn
