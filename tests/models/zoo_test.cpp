#include "bitdial/models/zoo.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <tuple>

#include "bitdial/core/error.h"
#include "bitdial/models/network.h"

namespace bitdial::models {
namespace {

Options with_classes(int64_t classes) {
  Options options;
  options.classes = classes;
  return options;
}

struct PublishedRow {
  const char* name;
  int64_t classes, macs, norm_elements, m_star;
};

// costs.md section 4.
constexpr PublishedRow kPublishedRows[] = {
    {"resnet20-cifar", 100, 40818944, 200704, 41224512},
    {"resnet38-cifar", 100, 83286272, 372736, 84035904},
    {"resnet74-cifar", 100, 168220928, 716800, 169658688},
    {"resnet110-cifar", 100, 253155584, 1060864, 255281472},
    {"resnet152-cifar", 100, 352246016, 1462272, 355174720},
    {"resnet164-cifar", 100, 380557568, 1576960, 383715648},
    {"mobilenet-v2-cifar", 100, 91270144, 1724928, 94720000},
    {"resnet18-imagenet", 1000, 1814073344, 2483712, 1819040768},
    {"resnet34-imagenet", 1000, 3663761408, 3738112, 3671237632},
    {"resnet50-imagenet", 1000, 4089184256, 11113984, 4111412224},
};

TEST(LayerTable, HasTheCountsOfThePublishedTable) {
  for (const auto& expected : kPublishedRows) {
    const auto table = layer_table(expected.name, with_classes(expected.classes));
    EXPECT_EQ(total_macs(table), expected.macs) << expected.name;
    EXPECT_EQ(total_norm_elements(table), expected.norm_elements) << expected.name;
    EXPECT_EQ(m_star(table), expected.m_star) << expected.name;
  }
}

// recipes.md section 1.
TEST(LayerTable, HasTheMacsOfTheNetworksWithoutPublishedCosts) {
  const std::tuple<const char*, int64_t, int64_t> expected[] = {
      {"alexnet-cifar", 10, 14957056},
      {"alexnet-imagenet", 1000, 714188480},
      {"lenet5", 10, 117600 + 240000 + 48000 + 10080 + 84 * 10},
      {"googlenet-cifar", 10, 1521756160}};
  for (const auto& [name, classes, macs] : expected) {
    EXPECT_EQ(total_macs(layer_table(name, with_classes(classes))), macs) << name;
  }
}

TEST(LayerTable, FollowsGoogLeNetModuleByModule) {
  const std::pair<const char*, int64_t> expected[] = {
      {"inception3a.", 168296448}, {"inception3b.", 432013312}, {"inception4a.", 98304000},
      {"inception4b.", 117964800}, {"inception4c.", 133562368}, {"inception4d.", 155844608},
      {"inception4e.", 243007488}, {"inception5a.", 71958528},  {"inception5b.", 95485952}};
  const auto table = layer_table("googlenet-cifar");
  for (const auto& [prefix, macs] : expected) {
    int64_t found = 0;
    for (const LayerRow& row : table) found += row.name.starts_with(prefix) ? row.macs : 0;
    EXPECT_EQ(found, macs) << prefix;
  }
}

// recipes.md section 1: 224 pixels, pools that round up.
TEST(LayerTable, ShrinksGoogLeNetsImagesAsPublished) {
  const std::pair<const char*, ImageSize> expected[] = {{"maxpool1", {64, 56, 56}},
                                                        {"maxpool2", {192, 28, 28}},
                                                        {"maxpool3", {480, 14, 14}},
                                                        {"maxpool4", {832, 7, 7}},
                                                        {"avgpool", {1024, 1, 1}}};
  const auto table = layer_table("googlenet-imagenet", with_classes(1000));
  for (const auto& [name, size] : expected) {
    const auto row = std::ranges::find(table, name, &LayerRow::name);
    ASSERT_NE(row, table.end()) << name;
    EXPECT_EQ(row->output, size) << name;
  }
}

TEST(LayerTable, CountsPanPerPixelOfTheSmallImage) {
  Options pixel;
  pixel.image_size = 1;
  const auto table = layer_table("pan-x4", pixel);
  const std::pair<const char*, int64_t> expected[] = {
      // MACs and bias adds, recipes.md section 1
      {"conv_first", 1120}, {"SCPA_trunk.", 230720}, {"trunk_conv", 14440}, {"upconv1", 34656},
      {"att1.", 2400},      {"HRconv1", 20832},      {"upconv2", 83328},    {"att2.", 9600},
      {"HRconv2", 83328},   {"conv_last", 10416}};
  int64_t body = 0, body_macs = 0;
  for (const LayerRow& row : table) {
    body += row.role == LayerRole::kBody ? row.macs + row.bias_adds : 0;
    body_macs += row.role == LayerRole::kBody ? row.macs : 0;
  }
  for (const auto& [prefix, operations] : expected) {
    int64_t found = 0;
    for (const LayerRow& row : table) {
      found += row.name.starts_with(prefix) ? row.macs + row.bias_adds : 0;
    }
    EXPECT_EQ(found, operations) << prefix;
  }
  EXPECT_EQ(total_macs(table), 488952);
  EXPECT_EQ(total_macs(table) + total_bias_adds(table), 490840);
  EXPECT_NEAR(static_cast<double>(body_macs) / 488952, 0.5007, 5e-5);
  EXPECT_NEAR(static_cast<double>(body) / 490840, 0.4995, 5e-5);
  // The published evaluation: images of 64x64.
  EXPECT_EQ(total_macs(layer_table("pan-x4")), 488952 * 4096);
}

TEST(LayerTable, TellsStemShortcutsAndHead) {
  struct Expected {
    const char* name;
    int64_t body, shortcuts, head;
  };
  constexpr Expected kExpected[] = {{"resnet20-cifar", 18, 2, 1},
                                    {"resnet50-imagenet", 48, 4, 1},
                                    {"mobilenet-v2-cifar", 52, 4, 1},
                                    {"googlenet-cifar", 9 * 7, 0, 1},
                                    {"lenet5", 3, 0, 1},
                                    {"pan-x4", 16 * 7 + 1, 0, 7}};
  for (const auto& expected : kExpected) {
    const auto table = layer_table(expected.name);
    const auto count = [&](LayerRole role) { return std::ranges::count(table, role, &LayerRow::role); };
    EXPECT_EQ(count(LayerRole::kStem), 1) << expected.name;
    EXPECT_EQ(count(LayerRole::kBody), expected.body) << expected.name;
    EXPECT_EQ(count(LayerRole::kShortcut), expected.shortcuts) << expected.name;
    EXPECT_EQ(count(LayerRole::kHead), expected.head) << expected.name;
    EXPECT_EQ(table.front().role, LayerRole::kStem) << expected.name;
    EXPECT_EQ(table.back().role, LayerRole::kHead) << expected.name;
  }
}

TEST(LayerTable, CountsBiasesBesideTheMacs) {
  const auto table = layer_table("lenet5");
  EXPECT_EQ(total_bias_adds(table), 28 * 28 * 6 + 10 * 10 * 16 + 120 + 84 + 10);
  EXPECT_EQ(total_bias_adds(layer_table("resnet20-cifar")), 10);
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
    EXPECT_EQ(row.groups, row.input.channels) << row.name;
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
    // The same code at other sizes.
    if (name.ends_with("imagenet") || name == "resnet110-cifar" || name == "resnet152-cifar" ||
        name == "resnet164-cifar") {
      continue;
    }
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
  for (const char* name :
       {"resnet18-imagenet", "resnet50-imagenet", "alexnet-imagenet", "googlenet-imagenet"}) {
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

  const auto resnet50 = make("resnet50-imagenet", with_classes(1000))->named_parameters();
  for (const char* name : {"layer1.0.conv3.weight", "layer1.0.downsample.0.weight", "layer3.5.bn3.bias"}) {
    EXPECT_TRUE(resnet50.contains(name)) << name;
  }
  EXPECT_EQ(resnet50.size(), 161U);  // torchvision's resnet50

  Options with_heads = with_classes(1000);
  with_heads.auxiliary_heads = true;
  const auto googlenet = make("googlenet-imagenet", with_heads)->named_parameters();
  for (const char* name :
       {"conv1.conv.weight", "conv3.bn.bias", "inception3a.branch1.conv.weight", "aux1.conv.conv.weight",
        "inception4e.branch2.1.bn.weight", "inception5b.branch4.1.conv.weight", "aux2.fc2.bias"}) {
    EXPECT_TRUE(googlenet.contains(name)) << name;
  }
  EXPECT_EQ(googlenet.size(), 187U);  // torchvision's googlenet with auxiliary heads

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

TEST(Zoo, RefusesToBuildWhatIsKnownByItsTableAlone) {
  ASSERT_EQ(table_only_names().size(), 1U);
  try {
    make(table_only_names().front());
    FAIL() << "a table was built";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "[models] pan-x4 is known by its layer table alone and cannot be built or trained");
  }
  EXPECT_THROW(layer_table("pan-x5"), Error);
}

TEST(Zoo, RefusesImpossibleOptions) {
  EXPECT_THROW(make("resnet20-cifar", with_classes(0)), Error);
  Options tiny;
  tiny.image_size = 8;
  EXPECT_THROW(make("lenet5", tiny), Error);
  Options heads;
  heads.auxiliary_heads = true;
  EXPECT_THROW(make("googlenet-cifar", heads), Error);
}

}  // namespace
}  // namespace bitdial::models
