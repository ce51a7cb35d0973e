#include "bitdial/models/zoo.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitdial/core/error.h"
#include "bitdial/models/network.h"

namespace bitdial::models {
namespace {

Options with_classes(int64_t classes) {
  Options options;
  options.classes = classes;
  return options;
}

struct ExpectedMacs {
  const char* name;
  int64_t classes;
  int64_t macs;
};

// costs.md section 4, recipes.md section 1.
constexpr ExpectedMacs kExpectedMacs[] = {
    {"resnet20-cifar", 100, 40818944},
    {"resnet38-cifar", 100, 83286272},
    {"resnet74-cifar", 100, 168220928},
    {"resnet110-cifar", 100, 253155584},
    {"mobilenet-v2-cifar", 100, 91270144},
    {"resnet18-imagenet", 1000, 1814073344},
    {"alexnet-cifar", 10, 14957056},
    {"alexnet-imagenet", 1000, 714188480},
    {"lenet5", 10, 117600 + 240000 + 48000 + 10080 + 84 * 10},
};

TEST(LayerTable, HasTheMacsOfThePublishedTables) {
  for (const auto& expected : kExpectedMacs) {
    EXPECT_EQ(total_macs(layer_table(expected.name, with_classes(expected.classes))), expected.macs)
        << expected.name;
  }
}

TEST(LayerTable, HasTheBatchNormElementsOfThePublishedTable) {
  const std::pair<const char*, int64_t> expected[] = {
      {"resnet20-cifar", 200704},   {"resnet38-cifar", 372736},      {"resnet74-cifar", 716800},
      {"resnet110-cifar", 1060864}, {"mobilenet-v2-cifar", 1724928}, {"resnet18-imagenet", 2483712}};
  for (const auto& [name, elements] : expected) {
    int64_t found = 0;
    for (const LayerRow& row : layer_table(name)) {
      if (row.kind == "norm2d") found += row.output.channels * row.output.height * row.output.width;
    }
    EXPECT_EQ(found, elements) << name;
  }
}

TEST(LayerTable, FollowsAlexNetLayerByLayer) {
  std::vector<int64_t> macs;
  for (const LayerRow& row : layer_table("alexnet-cifar")) {
    if (row.macs > 0) macs.push_back(row.macs);
  }
  EXPECT_EQ(macs, (std::vector<int64_t>{1486848, 4915200, 2654208, 3538944, 2359296, 2560}));
  Options grey;
  grey.in_channels = 1;
  EXPECT_EQ(layer_table("alexnet-cifar", grey).front().macs, 495616);  // recipes.md: (E)MNIST variant
}

TEST(LayerTable, ListsMobileNetsDepthWiseLayersAndShortcuts) {
  int64_t depthwise = 0, layers = 0, shortcuts = 0;
  for (const LayerRow& row : layer_table("mobilenet-v2-cifar")) {
    if (row.kind != "conv2d") continue;
    shortcuts += row.name.ends_with("shortcut.0") ? 1 : 0;
    if (row.kernel != 3 || row.input.channels == 3) continue;
    ++layers;
    depthwise += row.macs;
    EXPECT_EQ(row.parameters, 9 * row.output.channels) << row.name;
  }
  EXPECT_EQ(layers, 17);
  EXPECT_EQ(depthwise, 5879808);  // recipes.md
  EXPECT_EQ(shortcuts, 4);
}

TEST(LayerTable, CountsTheParametersThatTheNetworkHas) {
  for (const std::string_view name : names()) {
    const auto network = make(name);
    int64_t parameters = 0;
    for (const auto& parameter : network->parameters()) parameters += parameter.numel();
    EXPECT_EQ(total_parameters(network->layer_table()), parameters) << name;
  }
}

// The trace: what the layers themselves report after a forward pass must be what the table says.
TEST(LayerTable, AgreesWithAForwardPass) {
  torch::NoGradGuard no_grad;
  for (const std::string_view name : names()) {
    if (name.ends_with("imagenet") || name == "resnet110-cifar") continue;  // the same code at other sizes
    const auto network = make(name);
    network->eval();
    const ImageSize size = network->input_size();
    EXPECT_EQ(network->forward(torch::randn({2, size.channels, size.height, size.width})).sizes(),
              (std::vector<int64_t>{2, 10}))
        << name;
    // Every row with MACs is a module of that name, in the order of registration within the tree.
    const auto modules = network->named_modules();
    for (const LayerRow& row : network->layer_table()) {
      if (row.macs == 0) continue;
      EXPECT_TRUE(modules.contains(row.name)) << name << " " << row.name;
    }
  }
}

TEST(Zoo, NetworksForImageNetTakeOtherSizes) {
  torch::NoGradGuard no_grad;
  Options options = with_classes(7);
  options.image_size = 96;
  for (const char* name : {"resnet18-imagenet", "alexnet-imagenet"}) {
    const auto network = make(name, options);
    network->eval();
    EXPECT_EQ(network->forward(torch::randn({1, 3, 96, 96})).sizes(), (std::vector<int64_t>{1, 7})) << name;
  }
}

TEST(Zoo, NamesParametersAsTorchvision) {
  const auto network = make("resnet18-imagenet", with_classes(1000));
  const auto parameters = network->named_parameters();
  const auto buffers = network->named_buffers();
  for (const char* name : {"conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight",
                           "layer1.1.bn2.bias", "layer2.0.downsample.0.weight",
                           "layer2.0.downsample.1.weight", "layer4.1.conv2.weight", "fc.weight", "fc.bias"}) {
    EXPECT_TRUE(parameters.contains(name)) << name;
  }
  EXPECT_EQ(parameters.size(), 62U);  // torchvision's resnet18
  EXPECT_EQ(buffers.size(), 60U);
  EXPECT_TRUE(buffers.contains("layer3.0.downsample.1.running_var"));

  const auto alexnet = make("alexnet-imagenet", with_classes(1000))->named_parameters();
  for (const char* name : {"features.0.weight", "features.3.weight", "features.6.bias", "features.10.weight",
                           "classifier.1.weight", "classifier.4.bias", "classifier.6.weight"}) {
    EXPECT_TRUE(alexnet.contains(name)) << name;
  }
}

TEST(Zoo, InitialisesConvolutionsByFanOut) {
  torch::manual_seed(3);
  const auto network = make("resnet20-cifar");
  const auto weight = network->named_parameters()["layer3.1.conv2.weight"];
  const double expected = std::sqrt(2.0 / (9 * 64));
  EXPECT_NEAR(weight.std().item<double>(), expected, 0.02 * expected);
  EXPECT_NEAR(weight.mean().item<double>(), 0.0, 0.02 * expected);
}

TEST(Zoo, ZeroesTheLastGammaOfABlockOnRequest) {
  Options options;
  options.zero_last_gamma = true;
  const auto parameters = make("resnet20-cifar", options)->named_parameters();
  EXPECT_EQ(parameters["layer2.1.bn2.weight"].abs().sum().item<float>(), 0.0F);
  EXPECT_EQ(parameters["layer2.1.bn1.weight"].sum().item<float>(), 32.0F);
}

TEST(Zoo, BuildsRangeBatchNorm) {
  Options options;
  options.normalization = Normalization::kRange;
  const auto network = make("resnet20-cifar", options);
  EXPECT_EQ(network->forward(torch::randn({16, 3, 32, 32})).sizes(), (std::vector<int64_t>{16, 10}));
}

TEST(Zoo, SuggestsTheNearestName) {
  try {
    make("resnet-20-cifar");
    FAIL() << "an unknown name was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("resnet20-cifar"), std::string::npos) << error.what();
  }
}

TEST(Zoo, RefusesImpossibleOptions) {
  EXPECT_THROW(make("resnet20-cifar", with_classes(0)), Error);
  Options tiny;
  tiny.image_size = 8;
  EXPECT_THROW(make("lenet5", tiny), Error);
}

}  // namespace
}  // namespace bitdial::models
