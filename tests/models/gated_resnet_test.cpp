#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <numeric>

#include "bitdial/core/error.h"
#include "bitdial/models/network.h"

namespace bitdial::models {
namespace {

GateRequest small_gate() { return {.options = 3, .features = {8, 4}, .hidden = 6}; }

TEST(GatedNetwork, HasOneGateWithAPlaceForEveryBlock) {
  torch::manual_seed(2);
  const auto network = make("resnet20-cifar", {.gate = small_gate()});
  torch::manual_seed(2);
  const auto plain = make("resnet20-cifar");
  EXPECT_TRUE(network->has_gate());
  EXPECT_FALSE(plain->has_gate());
  const auto parameters = network->named_parameters();
  EXPECT_TRUE(parameters.contains("gate.features8.2.weight"));
  EXPECT_FALSE(parameters.contains("gate.features9.0.weight"));
  EXPECT_EQ(parameters["gate.features3.0.weight"].sizes(), (std::vector<int64_t>{8, 16, 1, 1}))
      << "the input of layer2.0 has 16 channels";
  EXPECT_EQ(parameters["gate.head.weight"].sizes(), (std::vector<int64_t>{3, 6}));
  for (const auto& item : plain->named_parameters()) {
    EXPECT_TRUE(at::equal(item.value(), parameters[item.key()])) << item.key();
  }
}

// Without a session nothing is quantised: whatever the gate chooses, the network is the plain one.
TEST(GatedNetwork, WithoutQuantisationIsThePlainNetwork) {
  for (const char* name :
       {"resnet20-cifar", "resnet18-imagenet", "resnet50-imagenet", "mobilenet-v2-cifar"}) {
    const Options options{.image_size = 32};
    Options gated = options;
    gated.gate = small_gate();
    torch::manual_seed(2);
    const auto network = make(name, gated);
    torch::manual_seed(2);
    const auto plain = make(name, options);
    network->eval();
    plain->eval();
    const torch::NoGradGuard no_grad;
    const auto x = torch::randn({3, 3, 32, 32});
    EXPECT_TRUE(at::allclose(network->forward(x), plain->forward(x), 1e-3, 1e-4)) << name;
  }
}

// What an option that skips leaves of a block: its shortcut, or its input.
TEST(GatedNetwork, SkippedBlocksLeaveTheirShortcuts) {
  GateRequest request = small_gate();
  request.skips = {true, true, true};
  torch::manual_seed(2);
  const auto network = make("resnet20-cifar", {.gate = request});
  const auto parameters = network->named_parameters();
  network->eval();
  const torch::NoGradGuard no_grad;
  const auto x = torch::randn({2, 3, 32, 32});
  const double fresh = 1.0 / std::sqrt(1.0 + 1e-5);  // of batch norm with its first statistics
  auto y = (torch::conv2d(x, parameters["conv1.weight"], {}, 1, 1) * fresh).relu();
  for (const char* name : {"layer2.0.downsample.0.weight", "layer3.0.downsample.0.weight"}) {
    y = torch::conv2d(y, parameters[name], {}, 2) * fresh;
  }
  const auto expected = torch::linear(y.mean({2, 3}), parameters["fc.weight"], parameters["fc.bias"]);
  EXPECT_TRUE(at::allclose(network->forward(x), expected, 1e-3, 1e-4));
  EXPECT_THROW(make("mobilenet-v2-cifar", {.gate = request}), Error);
}

// 17 blocks; MACs of all and of the depth-wise ones as in specs/recipes.md less stem, head and last layer.
TEST(GatedNetwork, MobileNetV2WeighsItsBlocks) {
  struct Reader : Policy {
    std::string name() const override { return "reader"; }
    TensorPlan plan(TensorId, const StepInfo&, TensorProbe&) override { return {}; }
    Format evaluation_format(TensorId) const override { return Format::float32(); }
    std::vector<double> weigh_gate(const GateUse& seen, const StepInfo&) override {
      use = seen;
      return std::vector<double>(seen.samples.size(), 0.0);
    }
    GateUse use;
  } reader;
  const auto network = make("mobilenet-v2-cifar", {.classes = 100, .gate = small_gate()});
  network->forward(torch::randn({2, 3, 32, 32}));
  network->with_gate_cost(torch::zeros({}), reader, {});
  EXPECT_EQ(reader.use.blocks, 17);
  const auto sum = [](const std::vector<double>& of) { return std::accumulate(of.begin(), of.end(), 0.0); };
  EXPECT_EQ(sum(reader.use.depthwise_macs), 5879808.0);
  const double outside = 27.0 * 32 * 1024 + 320.0 * 1280 * 16 + 1280.0 * 100;
  EXPECT_EQ(sum(reader.use.macs), 91270144.0 - 5879808.0 - outside);
}

TEST(GatedNetwork, NetworksWithoutResidualBlocksAreRefused) {
  for (const char* name : {"lenet5", "vgg16-bn-cifar"}) {
    EXPECT_THROW(make(name, {.gate = small_gate()}), Error) << name;
  }
  try {
    make("lenet5", {.gate = small_gate()});
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "[models] lenet5 has no residual blocks, which the policy's gate acts on (use a ResNet or "
                 "mobilenet-v2-cifar)");
  }
}

}  // namespace
}  // namespace bitdial::models
