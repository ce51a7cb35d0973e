#include "bitdial/models/initializer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "bitdial/core/error.h"
#include "bitdial/models/network.h"

namespace bitdial::models {
namespace {

Options truncated(double scale = 0.5) {
  Options options;
  options.initializer = Initializer::kTruncatedNormal;
  options.initializer_scale = scale;
  return options;
}

double largest(const torch::Tensor& values) { return values.abs().max().item<double>(); }

// specs/adapt.md: sigma = sqrt(s / fan-in), cut off at sqrt(3 s / fan-in); what the cut at sqrt(3) sigma
// leaves of the variance is 1 - 2 c phi(c) / erf(c / sqrt 2) with c = sqrt(3).
TEST(TruncatedNormal, HasTheMomentsOfTheCutOffNormal) {
  torch::manual_seed(1);
  const double c = std::sqrt(3.0), density = std::exp(-1.5) / std::sqrt(2.0 * M_PI);
  const double left = 1.0 - 2.0 * c * density / std::erf(c / std::sqrt(2.0));
  EXPECT_NEAR(left, 0.664, 0.001);
  for (const double scale : {0.5, 2.0}) {
    const auto parameters = make("resnet20-cifar", truncated(scale))->named_parameters();
    for (const auto& [name, fan_in] :
         {std::pair("layer3.1.conv2.weight", 9 * 64), std::pair("layer2.1.conv1.weight", 9 * 32)}) {
      const torch::Tensor weight = parameters[name];
      const double sigma = std::sqrt(scale / fan_in), bound = c * sigma;
      EXPECT_NEAR(weight.mean().item<double>(), 0.0, 0.03 * sigma) << name;
      EXPECT_NEAR(weight.var().item<double>(), left * sigma * sigma, 0.04 * sigma * sigma) << name;
      EXPECT_LE(largest(weight), bound * (1 + 1e-6)) << name;
      EXPECT_GT(largest(weight), 0.99 * bound) << name;
      // A normal distribution, not a uniform one of the same bounds: more than a third lies within half
      // sigma.
      EXPECT_NEAR(weight.abs().lt(0.5 * sigma).to(torch::kFloat).mean().item<double>(),
                  std::erf(0.5 / std::sqrt(2.0)) / std::erf(c / std::sqrt(2.0)), 0.02)
          << name;
    }
  }
}

TEST(TruncatedNormal, DrawsBiasesUniformlyAndShiftsToo) {
  torch::manual_seed(1);
  const auto resnet = make("resnet20-cifar", truncated())->named_parameters();
  EXPECT_LE(largest(resnet["fc.bias"]), 0.5);
  EXPECT_GT(largest(resnet["fc.bias"]), 0.25);
  EXPECT_LE(largest(resnet["layer3.0.bn1.bias"]), 0.5);
  EXPECT_GT(largest(resnet["layer3.0.bn1.bias"]), 0.4);
  EXPECT_EQ(resnet["layer3.0.bn1.weight"].min().item<double>(), 1.0);
  EXPECT_EQ(resnet["layer3.0.bn1.weight"].max().item<double>(), 1.0);
  // Linear: fan-in 64.
  EXPECT_LE(largest(resnet["fc.weight"]), std::sqrt(3 * 0.5 / 64) * (1 + 1e-6));
  EXPECT_GT(largest(resnet["fc.weight"]), 0.9 * std::sqrt(3 * 0.5 / 64));
}

TEST(TruncatedNormal, BoundsAlexNetsBiasesByInputChannels) {
  torch::manual_seed(1);
  const auto alexnet = make("alexnet-cifar", truncated())->named_parameters();
  for (const auto& [name, channels] : {std::pair("features.0.bias", 3), std::pair("features.3.bias", 64),
                                       std::pair("features.6.bias", 192)}) {
    const double bound = 1.0 / std::sqrt(channels);
    EXPECT_LE(largest(alexnet[name]), bound) << name;
    EXPECT_GT(largest(alexnet[name]), 0.9 * bound) << name;
  }
}

TEST(Initializer, TheOtherKeepsThePublishedOne) {
  torch::manual_seed(1);
  const torch::Tensor published = make("resnet20-cifar")->named_parameters()["conv1.weight"];
  torch::manual_seed(1);
  EXPECT_TRUE(make("resnet20-cifar", Options{})->named_parameters()["conv1.weight"].equal(published));
  torch::manual_seed(1);
  EXPECT_FALSE(make("resnet20-cifar", truncated())->named_parameters()["conv1.weight"].equal(published));
  EXPECT_THROW(make("resnet20-cifar", truncated(0.0)), Error);
}

TEST(Initializer, DrawsTheLastLayerOnRequest) {
  torch::manual_seed(1);
  Options options;
  options.classes = 1000;
  options.linear_std = 0.01;
  const auto parameters = make("resnet18-imagenet", options)->named_parameters();
  EXPECT_NEAR(parameters["fc.weight"].std().item<double>(), 0.01, 1e-4);
  EXPECT_EQ(largest(parameters["fc.bias"]), 0.0);
  torch::nn::Sequential no_linear{torch::nn::ReLU()};
  EXPECT_THROW(init_last_linear(*no_linear, 0.01), Error);
}

}  // namespace
}  // namespace bitdial::models
