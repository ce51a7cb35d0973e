#include <gtest/gtest.h>
#include <torch/torch.h>

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
  for (const char* name : {"resnet20-cifar", "resnet18-imagenet", "resnet50-imagenet"}) {
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
    EXPECT_TRUE(has_residual_blocks(name));
    EXPECT_TRUE(at::allclose(network->forward(x), plain->forward(x), 1e-3, 1e-4)) << name;
  }
}

TEST(GatedNetwork, NetworksWithoutResidualBlocksAreRefused) {
  for (const char* name : {"lenet5", "vgg16-bn-cifar", "mobilenet-v2-cifar"}) {
    EXPECT_THROW(make(name, {.gate = small_gate()}), Error) << name;
    EXPECT_FALSE(has_residual_blocks(name));
  }
  try {
    make("lenet5", {.gate = small_gate()});
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "[models] lenet5 has no residual blocks, which the policy's gate acts on (use a ResNet)");
  }
}

}  // namespace
}  // namespace bitdial::models
