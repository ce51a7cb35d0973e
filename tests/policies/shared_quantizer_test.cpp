#include "bitdial/policies/shared_quantizer.h"

#include <gtest/gtest.h>

#include "bitdial/core/error.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

std::vector<LayerInfo> cifar_layers() {
  return {{.name = "conv1", .kernel = 3, .is_first = true},
          {.name = "layer2.0.conv1", .kernel = 3, .stride = 2},
          {.name = "layer2.0.downsample.0", .kernel = 1, .stride = 2},
          {.name = "depthwise", .kind = LayerKind::kDepthwiseConv2d, .kernel = 3},
          {.name = "fc", .kind = LayerKind::kLinear, .is_last = true}};
}

std::vector<LayerInfo> imagenet_layers() {
  std::vector<LayerInfo> layers = cifar_layers();
  layers[0].kernel = 7;
  layers[0].stride = 2;
  return layers;
}

SharedQuantizer attached_quantizer(const json& options, const std::vector<LayerInfo>& layers) {
  OptionReader reader("test", options);
  SharedQuantizer quantizer(reader);
  reader.finish();
  quantizer.attach(layers);
  return quantizer;
}

// specs/sbm.md, "Shared affine fake-quantiser".
TEST(SharedQuantizer, Formats) {
  const Format w = shared_format(TensorRole::kWeight, 8);
  EXPECT_EQ(w, (Format{.rule = ScaleRule::kAffine, .word_length = 8, .granularity = Granularity::kChannel}));
  const Format x = shared_format(TensorRole::kInput, 6);
  EXPECT_EQ(x, (Format{.rule = ScaleRule::kAffine, .word_length = 6}));
  EXPECT_EQ(shared_format(TensorRole::kInputWtgrad, 6), x);
  const Format dy = shared_format(TensorRole::kGradBprop, 12);
  EXPECT_EQ(dy, (Format{.rule = ScaleRule::kAffine, .word_length = 12, .rounding = Rounding::kStochastic}));
  EXPECT_EQ(shared_format(TensorRole::kGradWtgrad, 12), dy) << "one dY feeds both products";
  EXPECT_TRUE(shared_format(TensorRole::kInput, 0).is_float());
  EXPECT_THROW(shared_format(TensorRole::kInput, 1), Error);
}

TEST(SharedQuantizer, StepsOfTheFormat) {
  const QuantParams params = choose_params(shared_format(TensorRole::kInput, 3), {-1.0F, 2.5F});
  EXPECT_EQ(params.scale, 0.5F) << "s = R / (2^b - 1)";
  EXPECT_EQ(params.offset, -1.0F) << "z = min";
  EXPECT_EQ(params.zero_code, 0);
  EXPECT_EQ(choose_params(shared_format(TensorRole::kInput, 8), {1.0F, 1.0F}).scale, 1e-8F);
}

TEST(SharedQuantizer, AboveSixteenBitsFixedPointIsCarriedInFloat32) {
  for (const int bits : {17, 24, 32}) {
    const Format format = shared_format(TensorRole::kInput, bits);
    EXPECT_FALSE(format.is_float()) << bits;
    EXPECT_EQ(container(format), Container::kFloat32) << bits;
    EXPECT_GT(choose_params(format, {0.0F, 1.0F}).scale, 0.0F) << bits;
  }
  EXPECT_EQ(container(shared_format(TensorRole::kInput, 16)), Container::kUInt16);
}

TEST(SharedQuantizer, LayersInFloat) {
  using Floats = std::vector<bool>;
  EXPECT_EQ(float_layers(SharedLayers::kAuto, cifar_layers()), (Floats{false, false, false, false, true}));
  EXPECT_EQ(float_layers(SharedLayers::kAuto, imagenet_layers()), (Floats{true, false, true, false, true}));
  EXPECT_EQ(float_layers(SharedLayers::kImageNet, cifar_layers()), (Floats{true, false, true, false, true}));
  EXPECT_EQ(float_layers(SharedLayers::kCifar, imagenet_layers()),
            (Floats{false, false, false, false, true}));
  EXPECT_EQ(float_layers(SharedLayers::kAll, imagenet_layers()), Floats(5, false));
}

TEST(SharedQuantizer, DepthwiseLayersKeepTheirBits) {
  const SharedQuantizer fixed = attached_quantizer(json::object(), cifar_layers());
  EXPECT_EQ(fixed.bits(0, {3, 6}), (SharedBits{3, 6}));
  EXPECT_EQ(fixed.bits(3, {3, 6}), (SharedBits{8, 16}));
  EXPECT_EQ(fixed.bits(4, {3, 6}), (SharedBits{0, 0}));
  EXPECT_TRUE(fixed.is_fixed(3));
  EXPECT_TRUE(fixed.is_fixed(4));
  EXPECT_FALSE(fixed.is_fixed(0));
  EXPECT_EQ(fixed.format({3, TensorRole::kGradBprop}, {3, 6}).word_length, 16);
  EXPECT_TRUE(fixed.format({4, TensorRole::kWeight}, {3, 6}).is_float());
  EXPECT_EQ(fixed.format({1, TensorRole::kWeight}, {3, 6}).word_length, 3);
  const SharedQuantizer follows = attached_quantizer({{"depthwise", "follow"}}, cifar_layers());
  EXPECT_EQ(follows.bits(3, {3, 6}), (SharedBits{3, 6}));
}

TEST(SharedQuantizer, RunningRange) {
  const SharedQuantizer quantizer = attached_quantizer(json::object(), cifar_layers());
  EXPECT_EQ(quantizer.running_range(TensorRole::kInput).momentum, 0.9);
  EXPECT_TRUE(quantizer.running_range(TensorRole::kInput).start_at_zero);
  EXPECT_EQ(quantizer.running_range(TensorRole::kWeight).momentum, 0.0);
  const SharedQuantizer changed =
      attached_quantizer({{"running_momentum", 0.1}, {"running_start", "first_value"}}, cifar_layers());
  EXPECT_EQ(changed.running_range(TensorRole::kInput).momentum, 0.1);
  EXPECT_FALSE(changed.running_range(TensorRole::kInput).start_at_zero);
}

/// Two bits more every step.
class ClimbingPolicy : public SharedPolicy {
 public:
  explicit ClimbingPolicy(OptionReader& options) : SharedPolicy(options) { keep_options(options); }
  std::string name() const override { return "climbing"; }
  int bits = 4;

 protected:
  SharedBits wanted_bits(int) const override { return {.forward = bits, .gradient = 8}; }
  void explain(TensorId, TensorPlan& plan) const override { plan.reason = fmt::format("{} now", bits); }
};

TEST(SharedQuantizer, PolicyAnnouncesWhatChanges) {
  OptionReader reader("climbing", json::object()), other("climbing", json::object());
  ClimbingPolicy policy(reader), copy(other);
  policy.attach(cifar_layers());
  VectorProbe probe({1.0F});
  const auto reason = [&](ClimbingPolicy& from, int layer, TensorRole role) {
    return from.plan({layer, role}, {}, probe).reason;
  };
  EXPECT_EQ(policy.plan({0, TensorRole::kInput}, {.training = false}, probe).reason, "");
  EXPECT_EQ(reason(policy, 0, TensorRole::kInput), "4 now");
  EXPECT_EQ(reason(policy, 0, TensorRole::kInput), "");
  EXPECT_EQ(reason(policy, 0, TensorRole::kGradBprop), "4 now");
  EXPECT_EQ(reason(policy, 3, TensorRole::kInput),
            "fixed by climbing: depth-wise convolutions have 8/16 bits");
  EXPECT_EQ(reason(policy, 4, TensorRole::kInput), "fixed by climbing: this layer is not quantised");
  policy.bits = copy.bits = 6;
  EXPECT_EQ(policy.evaluation_format({0, TensorRole::kInput}).word_length, 6);
  EXPECT_EQ(reason(policy, 0, TensorRole::kInput), "6 now");
  EXPECT_EQ(reason(policy, 0, TensorRole::kGradBprop), "") << "the gradient's bits are the same";
  EXPECT_EQ(reason(policy, 3, TensorRole::kInput), "");
  EXPECT_EQ(probe.measures, 0);

  copy.attach(cifar_layers());
  copy.load_state(json::parse(policy.state().dump()));
  EXPECT_EQ(reason(copy, 0, TensorRole::kInput), "");
  EXPECT_EQ(copy.state(), policy.state());
  EXPECT_THROW(copy.load_state({{"announced", json::array()}}), Error);
}

}  // namespace
}  // namespace bitdial::policies
