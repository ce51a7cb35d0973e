#include "bitdial/nn/stage.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/nn/norm.h"
#include "bitdial/nn/session.h"
#include "bitdial/policies/registry.h"

namespace bitdial::nn::stage_test {
namespace {

using torch::Tensor;

Conv2d make_conv(int64_t in, int64_t out, int64_t kernel, int64_t stride, bool bias = false,
                 int64_t groups = 1) {
  return Conv2d(
      torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(bias).groups(groups));
}

/// Everything that a stage knows: bias without norm, ReLU and ReLU6, a shortcut through a convolution and a
/// plain one, a pool, a depth-wise convolution, an odd number of channels.
class SmallNet : public torch::nn::Module {
 public:
  explicit SmallNet(Normalization normalization = Normalization::kBatch) {
    stem_ = register_module("stem", make_conv(3, 20, 3, 1, true));
    conv1_ = register_module("conv1", make_conv(20, 16, 3, 2));
    conv2_ = register_module("conv2", make_conv(16, 16, 3, 1));
    shortcut_ = register_module("shortcut", make_conv(20, 16, 1, 2));
    depthwise_ = register_module("depthwise", make_conv(16, 16, 3, 1, true, 16));
    last_ = register_module("last", make_conv(16, 10, 1, 1));
    pool_ =
        register_module("pool", torch::nn::MaxPool2d(torch::nn::MaxPool2dOptions(3).stride(2).padding(1)));
    for (const auto& [name, channels] :
         {std::pair("norm1", 16), {"norm2", 16}, {"norm3", 16}, {"norm4", 16}, {"norm5", 10}}) {
      norms_.push_back(make_norm2d(normalization, channels, std::ssize(norms_)));
      register_module(name, norms_.back().ptr());
    }
    auto x = stage_.add_block(stem_, {}, Activation::kRelu, stage_.add_input());
    const auto y = stage_.add_block(conv1_, norms_[0], Activation::kRelu, x);
    const auto side = stage_.add_block(shortcut_, norms_[1], Activation::kNone, x);
    x = stage_.add_block(conv2_, norms_[2], Activation::kRelu, y, side);
    x = stage_.add_block(depthwise_, norms_[3], Activation::kRelu6, x, x);
    x = stage_.add_max_pool(pool_, x);
    stage_.add_block(last_, norms_[4], Activation::kNone, x);
  }

  Tensor forward(const Tensor& x) { return stage_.forward({x}); }

 private:
  Conv2d stem_{nullptr}, conv1_{nullptr}, conv2_{nullptr}, shortcut_{nullptr}, depthwise_{nullptr},
      last_{nullptr};
  torch::nn::MaxPool2d pool_{nullptr};
  std::vector<torch::nn::AnyModule> norms_;
  Stage stage_;
};

struct Result {
  Tensor y, dx;
  std::vector<Tensor> gradients, buffers;
  nlohmann::json state;
  bool ran_fused = false;
};

struct Setting {
  std::string policy;
  Between between = Between::kFloat32;
  Arithmetic arithmetic = Arithmetic::kInteger;
};

Tensor images(int64_t batch) {
  return torch::randn({batch, 3, 12, 12}).contiguous(at::MemoryFormat::ChannelsLast);
}

/// Two training steps, the second one's results, and an evaluation at the end.
template <class Net, class... Inputs>
Result run(const Setting& setting, bool fused, const std::shared_ptr<Net>& net, const Inputs&... inputs) {
  SessionOptions options;
  options.arithmetic = setting.arithmetic;
  options.fused = fused;
  options.between = setting.between;
  Session session(policies::make(setting.policy), options);
  session.attach(*net);
  Result result;
  for (int64_t step = 0; step < 2; ++step) {
    const StepInfo info{.step = step, .total_steps = 10};
    session.begin_step(info);
    ForwardScope scope(session);
    net->zero_grad();
    std::array<Tensor, sizeof...(Inputs)> leaves = {inputs.detach().clone().requires_grad_()...};
    const Tensor y = std::apply([&](const auto&... x) { return net->forward(x...); }, leaves);
    const Tensor weights = torch::sin(torch::arange(y.numel(), torch::kFloat).mul(0.7)).view(y.sizes());
    (y * weights).sum().backward();
    session.end_step(info, {});
    result.y = y.detach();
    result.ran_fused = y.grad_fn()->name() == "BitdialStage";
    result.dx = leaves[0].grad();
  }
  for (const auto& item : net->named_parameters()) result.gradients.push_back(item.value().grad());
  for (const auto& buffer : net->buffers()) result.buffers.push_back(buffer.clone());
  result.state = session.state();
  return result;
}

template <class Net, class... Inputs>
std::pair<Result, Result> both(const Setting& setting, const std::function<std::shared_ptr<Net>()>& make,
                               const Inputs&... inputs) {
  torch::manual_seed(5);
  const Result plain = run(setting, false, make(), inputs...);
  torch::manual_seed(5);
  return {plain, run(setting, true, make(), inputs...)};
}

double distance(const Tensor& a, const Tensor& b) {
  return ((a - b).norm() / (b.norm() + 1e-12)).template item<double>();
}

/// The largest difference as a share of the largest value.
double worst(const Tensor& a, const Tensor& b) {
  return ((a - b).abs().max() / (b.abs().max() + 1e-12)).item<double>();
}

void expect_close(const Result& fused, const Result& plain, double forward, double backward) {
  EXPECT_TRUE(fused.ran_fused);
  EXPECT_FALSE(plain.ran_fused);
  EXPECT_LT(worst(fused.y, plain.y), forward);
  EXPECT_LT(distance(fused.dx, plain.dx), backward);
  ASSERT_EQ(fused.gradients.size(), plain.gradients.size());
  for (size_t i = 0; i < plain.gradients.size(); ++i) {
    ASSERT_TRUE(fused.gradients[i].defined());
    EXPECT_EQ(fused.gradients[i].sizes(), plain.gradients[i].sizes());
    // A bias before batch statistics has no gradient but rounding.
    if (plain.gradients[i].norm().item<double>() < 1e-3) {
      EXPECT_LT(fused.gradients[i].norm().item<double>(), 1e-3);
    } else {
      EXPECT_LT(distance(fused.gradients[i], plain.gradients[i]), backward) << "parameter " << i;
    }
  }
  for (size_t i = 0; i < plain.buffers.size(); ++i) {
    EXPECT_LT(worst(fused.buffers[i].to(torch::kDouble), plain.buffers[i].to(torch::kDouble)),
              std::max(forward, 1e-5));
  }
}

std::shared_ptr<SmallNet> small_net() { return std::make_shared<SmallNet>(); }

// With operands in float32 nothing amplifies a rounding error: the whole graph must agree.
TEST(Stage, EqualsItsModulesOneByOne) {
  for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
    const auto [plain, fused] =
        both<SmallNet>({.policy = "static:32/32/32", .arithmetic = arithmetic}, small_net, images(5));
    expect_close(fused, plain, 1e-5, 1e-4);
  }
}

TEST(Stage, EqualsItsModulesToHalfPrecisionInBFloat16) {
  for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
    const auto [plain, fused] =
        both<SmallNet>({.policy = "static:32/32/32", .between = Between::kBFloat16, .arithmetic = arithmetic},
                       small_net, images(5));
    EXPECT_LT(distance(fused.y, plain.y), 4 * 0x1p-7);
    EXPECT_LT(distance(fused.dx, plain.dx), 16 * 0x1p-7);
  }
}

// Codes near the middle between two steps may fall the other way.
TEST(Stage, EqualsItsModulesUpToCodesOnTheEdge) {
  for (const char* policy : {"static", "static:8/8/16", "apt"}) {
    for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
      const auto [plain, fused] =
          both<SmallNet>({.policy = policy, .arithmetic = arithmetic}, small_net, images(6));
      EXPECT_LT(distance(fused.y, plain.y), 0.02) << policy;
      EXPECT_LT(distance(fused.dx, plain.dx), 0.1) << policy;
    }
  }
}

// Its chunks need a number of values that 16 divides, down to the last 3x3 pixels.
TEST(Stage, EqualsItsModulesWithRangeNormalisation) {
  const auto make = [] { return std::make_shared<SmallNet>(Normalization::kRange); };
  for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
    const auto [plain, fused] =
        both<SmallNet>({.policy = "static:32/32/32", .arithmetic = arithmetic}, make, images(16));
    // Codes of its 8-bit input and gradient near the middle between two steps may fall the other way.
    EXPECT_TRUE(fused.ran_fused);
    EXPECT_LT(distance(fused.y, plain.y), 0.02);
    EXPECT_LT(distance(fused.dx, plain.dx), 0.1);
    ASSERT_EQ(fused.buffers.size(), plain.buffers.size());
    for (size_t i = 0; i < plain.buffers.size(); ++i) {
      EXPECT_LT(worst(fused.buffers[i].to(torch::kDouble), plain.buffers[i].to(torch::kDouble)), 0.02);
    }
  }
}

// Without the quantisers of Range BN nothing is discrete.
TEST(ConvBlock, EqualsItsModulesWithRangeNormalisation) {
  class Block : public torch::nn::Module {
   public:
    explicit Block(Activation activation) : conv_(make_conv(3, 16, 3, 1)) {
      register_module("conv", conv_);
      RangeBatchNorm2dOptions options(16);
      const RangeBatchNorm2d norm(options);
      register_module("norm", norm);
      stage_.add_block(conv_, torch::nn::AnyModule(norm), activation, stage_.add_input());
    }
    Tensor forward(const Tensor& x) { return stage_.forward({x}); }

   private:
    Conv2d conv_;
    Stage stage_;
  };
  for (const bool trains : {true, false}) {
    const auto make = [&] {
      auto block = std::make_shared<Block>(Activation::kRelu);
      block->train(trains);
      for (auto& item : block->named_buffers()) {
        if (item.key() == "norm.running_scale") item.value().fill_(0.7);
      }
      return block;
    };
    const auto [plain, fused] = both<Block>({.policy = "static:32/32/32"}, make, images(16));
    expect_close(fused, plain, 1e-5, 1e-4);
  }
}

/// Linear blocks of every activation that they know.
class Perceptron : public torch::nn::Module {
 public:
  explicit Perceptron(bool has_bias) {
    const std::array<int64_t, 6> features = {40, 33, 28, 24, 16, 10};
    const std::array<Activation, 5> activations = {Activation::kGelu, Activation::kRelu, Activation::kTanh,
                                                   Activation::kRelu6, Activation::kNone};
    auto x = stage_.add_input();
    for (size_t i = 0; i < activations.size(); ++i) {
      const Linear linear(torch::nn::LinearOptions(features[i], features[i + 1]).bias(has_bias));
      register_module("linear" + std::to_string(i), linear);
      x = stage_.add_linear(linear, activations[i], x);
    }
  }
  Tensor forward(const Tensor& x) { return stage_.forward({x}); }

 private:
  Stage stage_;
};

TEST(LinearBlock, EqualsItsModulesOneByOne) {
  const Tensor x = torch::randn({23, 40});
  for (const bool has_bias : {true, false}) {
    const auto make = [&] { return std::make_shared<Perceptron>(has_bias); };
    for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
      const auto [plain, fused] =
          both<Perceptron>({.policy = "static:32/32/32", .arithmetic = arithmetic}, make, x);
      expect_close(fused, plain, 1e-5, 1e-4);
      const auto [plain_8, fused_8] =
          both<Perceptron>({.policy = "static", .arithmetic = arithmetic}, make, x);
      EXPECT_TRUE(fused_8.ran_fused);
      EXPECT_LT(distance(fused_8.y, plain_8.y), 0.02);
      EXPECT_LT(distance(fused_8.dx, plain_8.dx), 0.1);
      const auto [plain_half, half] = both<Perceptron>(
          {.policy = "static:32/32/32", .between = Between::kBFloat16, .arithmetic = arithmetic}, make, x);
      EXPECT_LT(distance(half.y, plain_half.y), 4 * 0x1p-7);
    }
  }
}

/// A residual block, the average over its pixels, and a linear layer behind it or nothing.
class Averaging : public torch::nn::Module {
 public:
  explicit Averaging(bool has_linear) {
    auto first = register_module("first", make_conv(3, 20, 3, 1, true));
    auto second = register_module("second", make_conv(20, 20, 3, 1));
    auto norm = make_norm2d(Normalization::kBatch, 20);
    register_module("norm", norm.ptr());
    auto x = stage_.add_block(first, {}, Activation::kRelu, stage_.add_input());
    x = stage_.add_average_pool(stage_.add_block(second, norm, Activation::kRelu, x, x));
    if (!has_linear) return;
    const Linear linear = register_module("linear", Linear(torch::nn::LinearOptions(20, 7)));
    stage_.add_linear(linear, Activation::kNone, x);
  }
  Tensor forward(const Tensor& x) { return stage_.forward({x}); }

 private:
  Stage stage_;
};

TEST(Stage, AveragesPixels) {
  for (const bool has_linear : {false, true}) {
    const auto make = [&] { return std::make_shared<Averaging>(has_linear); };
    for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
      const auto [plain, fused] =
          both<Averaging>({.policy = "static:32/32/32", .arithmetic = arithmetic}, make, images(5));
      // All pixels have the same gradient: the images have none on ReLU's edge, which rounding would decide.
      expect_close(fused, plain, 1e-5, 1e-4);
      const auto [plain_half, half] = both<Averaging>(
          {.policy = "static:32/32/32", .between = Between::kBFloat16, .arithmetic = arithmetic}, make,
          images(5));
      EXPECT_TRUE(half.ran_fused);
      EXPECT_EQ(half.y.scalar_type(), at::kFloat);
      EXPECT_LT(distance(half.y, plain_half.y), 0x1p-7);
      // Batch norm cancels most of a gradient that is the same at all pixels; what rounding adds stays.
      EXPECT_LT(distance(half.dx, plain_half.dx), 0.08);
    }
  }
}

/// Tanh, average pools of windows that overlap and leave a row over, and linear layers behind images of one
/// pixel or more.
class Flattening : public torch::nn::Module {
 public:
  explicit Flattening(int64_t pixels) {
    const auto conv = register_module("conv", make_conv(3, 6, 3, 1, true));
    const auto second = register_module("second", make_conv(6, 10, 3, 1, true));
    auto x = stage_.add_block(conv, {}, Activation::kTanh, stage_.add_input());  // 12 x 12 pixels
    x = stage_.add_average_pool(torch::nn::AvgPool2d(torch::nn::AvgPool2dOptions({3, 4}).stride({2, 3})), x);
    x = stage_.add_block(second, {}, Activation::kTanh, x);  // 5 x 3
    if (pixels == 1) {
      x = stage_.add_average_pool(torch::nn::AvgPool2d(torch::nn::AvgPool2dOptions({5, 3})), x);
    }
    x = stage_.add_flatten(x);
    const auto first = register_module("first", Linear(torch::nn::LinearOptions(10 * pixels, 9)));
    const auto last = register_module("last", Linear(torch::nn::LinearOptions(9, 7)));
    stage_.add_linear(last, Activation::kNone, stage_.add_linear(first, Activation::kTanh, x));
  }
  Tensor forward(const Tensor& x) { return stage_.forward({x}); }

 private:
  Stage stage_;
};

TEST(Stage, AveragesWindowsAndFlattens) {
  for (const int64_t pixels : {1, 15}) {
    const auto make = [&] { return std::make_shared<Flattening>(pixels); };
    for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
      const auto [plain, fused] =
          both<Flattening>({.policy = "static:32/32/32", .arithmetic = arithmetic}, make, images(5));
      expect_close(fused, plain, 1e-5, 1e-4);
      const auto [plain_half, half] = both<Flattening>(
          {.policy = "static:32/32/32", .between = Between::kBFloat16, .arithmetic = arithmetic}, make,
          images(5));
      EXPECT_TRUE(half.ran_fused);
      EXPECT_LT(distance(half.y, plain_half.y), 0x1p-7);
      EXPECT_LT(distance(half.dx, plain_half.dx), 4 * 0x1p-7);
      const auto [plain_8, fused_8] =
          both<Flattening>({.policy = "static", .arithmetic = arithmetic}, make, images(5));
      EXPECT_TRUE(fused_8.ran_fused);
      EXPECT_LT(distance(fused_8.y, plain_8.y), 0.02);
      EXPECT_LT(distance(fused_8.dx, plain_8.dx), 0.1);
    }
  }
}

// Between passes in bfloat16 too: who trains wants to see small differences between logits.
TEST(Stage, LogitsAreNotRounded) {
  const auto make = [] { return std::make_shared<Averaging>(true); };
  const auto [plain, fused] =
      both<Averaging>({.policy = "static", .between = Between::kBFloat16}, make, images(5));
  EXPECT_FALSE(torch::equal(fused.y, fused.y.to(at::kBFloat16).to(at::kFloat)));
  EXPECT_LT(distance(fused.y, plain.y), 0.02);
}

TEST(Stage, RefusesPoolsThatDoNotFit) {
  Session session(policies::make("static"), SessionOptions{});
  auto net = std::make_shared<Flattening>(1);
  session.attach(*net);
  ForwardScope scope(session);
  EXPECT_THROW(net->forward(torch::randn({2, 3, 4, 3})), Error);
}

// One block reads the very same codes either way.
TEST(LinearBlock, GeluAndTanhAreLibTorchs) {
  for (const Activation activation : {Activation::kGelu, Activation::kTanh}) {
    const auto make = [&] {
      return std::make_shared<LinearBlockImpl>(torch::nn::LinearOptions(40, 24), activation);
    };
    for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
      const auto [plain, fused] = both<LinearBlockImpl>({.policy = "static", .arithmetic = arithmetic}, make,
                                                        2.0 * torch::randn({23, 40}));
      expect_close(fused, plain, 1e-5, 0.01);
    }
  }
}

TEST(Stage, RefusesGeluAndTanhBehindANormalisation) {
  Stage stage;
  const auto x = stage.add_input();
  for (const Activation activation : {Activation::kGelu, Activation::kTanh}) {
    EXPECT_THROW(stage.add_block(make_conv(3, 8, 3, 1), make_norm2d(Normalization::kBatch, 8), activation, x),
                 Error);
  }
}

ConvBlockOptions block_options(Activation activation) {
  ConvBlockOptions options(torch::nn::Conv2dOptions(3, 16, 3).padding(1).bias(false));
  options.activation = activation;
  return options;
}

// One block reads the very same codes either way.
TEST(ConvBlock, EqualsConvolutionNormAndActivation) {
  const Tensor x = images(4),
               residual = torch::randn({4, 16, 12, 12}).contiguous(at::MemoryFormat::ChannelsLast);
  for (const Activation activation : {Activation::kNone, Activation::kRelu, Activation::kRelu6}) {
    const auto make = [&] { return std::make_shared<ConvBlockImpl>(block_options(activation)); };
    for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
      const auto [plain, fused] =
          both<ConvBlockImpl>({.policy = "static", .arithmetic = arithmetic}, make, x, residual);
      expect_close(fused, plain, 1e-5, 0.01);
      const auto [plain_half, half] = both<ConvBlockImpl>(
          {.policy = "static", .between = Between::kBFloat16, .arithmetic = arithmetic}, make, x, residual);
      EXPECT_LT(worst(half.y, plain_half.y), 0x1p-7);
    }
  }
}

TEST(ConvBlock, WithoutASessionIsItsModules) {
  ConvBlock block(block_options(Activation::kRelu));
  const Tensor x = images(2);
  const Tensor expected = torch::batch_norm(torch::conv2d(x, block->conv->weight, {}, 1, 1), torch::ones(16),
                                            torch::zeros(16), {}, {}, true, 0.1, 1e-5, false)
                              .relu();
  EXPECT_TRUE(torch::allclose(block->forward(x), expected, 1e-4, 1e-5));
}

TEST(Stage, EvaluatesWithRunningStatisticsAndRecordsNothing) {
  torch::manual_seed(3);
  std::vector<Tensor> outputs;
  for (const bool fused : {false, true}) {
    torch::manual_seed(3);
    const auto net = small_net();
    SessionOptions options;
    options.fused = fused;
    options.between = Between::kFloat32;
    Session session(policies::make("static:32/32/32"), options);
    session.attach(*net);
    net->eval();
    torch::NoGradGuard no_grad;
    torch::manual_seed(9);
    outputs.push_back(net->forward(images(3)));
    EXPECT_FALSE(outputs.back().requires_grad());
  }
  EXPECT_LT(worst(outputs[1], outputs[0]), 1e-5);
}

class FusedSession {
 public:
  explicit FusedSession(torch::nn::Module& net) : session_(policies::make("static")) {
    session_.attach(net);
    session_.begin_step({});
  }

 private:
  Session session_;
};

TEST(Stage, FreesItsTensorsUnlessTheGraphIsRetained) {
  const auto net = small_net();
  const FusedSession session(*net);
  const Tensor x = images(2);
  const Tensor y = net->forward(x).sum();
  y.backward({}, true);
  y.backward();
  EXPECT_THROW(y.backward(), std::exception);
}

TEST(Stage, CannotBeDifferentiatedTwice) {
  const auto net = small_net();
  const FusedSession session(*net);
  const Tensor x = images(2).requires_grad_();
  const auto gradient = torch::autograd::grad({net->forward(x).sum()}, {x}, {}, true, true);
  EXPECT_THROW(gradient[0].sum().backward(), std::exception);
}

// Blocks hand each other float tensors: what is changed between two of them is what the second one reads.
TEST(ConvBlock, SeesInPlaceChangesOfItsInput) {
  torch::manual_seed(1);
  ConvBlock first(block_options(Activation::kRelu));
  ConvBlock second(ConvBlockOptions(torch::nn::Conv2dOptions(16, 8, 1)));
  torch::nn::Sequential net(first, second);
  const FusedSession session(*net);
  torch::NoGradGuard no_grad;
  const Tensor y = first->forward(images(2));
  const Tensor before = second->forward(y);
  y.mul_(0.5);
  const Tensor changed = second->forward(y), fresh = second->forward(y.clone());
  EXPECT_FALSE(torch::equal(before, changed));
  EXPECT_LT(distance(changed, fresh), 0.05);
}

TEST(Stage, WrongInputsAreErrors) {
  const Stage empty;
  EXPECT_THROW((void)empty.forward({}), Error);
  Stage stage;
  stage.add_block(make_conv(3, 8, 3, 1), {}, Activation::kRelu, stage.add_input());
  EXPECT_THROW((void)stage.forward({}), Error);
}

}  // namespace
}  // namespace bitdial::nn::stage_test
