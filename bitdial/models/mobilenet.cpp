// MobileNetV2 (Sandler et al. 2018) for 32x32 images, with the strides and projected shortcuts of the CPT and
// FracTrain experiments (recipes.md, section 1).
#include <array>

#include "bitdial/core/error.h"
#include "bitdial/models/network.h"

namespace bitdial::models {

namespace {

/// 1x1 expand, 3x3 depth-wise, 1x1 project; at stride 1 plus the input, projected when its channels differ.
class InvertedResidual : public torch::nn::Module {
 public:
  InvertedResidual(LayerFactory& make, const std::string& prefix, int64_t expansion, int64_t channels,
                   int64_t stride, bool zero_gamma) {
    const ImageSize input = make.shape();
    const int64_t inner = expansion * input.channels;
    expand_ = add_conv(make, prefix, 1, inner, 1, 1, 1);
    depthwise_ = add_conv(make, prefix, 2, inner, 3, stride, inner);
    project_ = add_conv(make, prefix, 3, channels, 1, 1, 1);
    if (zero_gamma) torch::nn::init::zeros_(project_.norm.ptr()->named_parameters(false)["weight"]);
    adds_input_ = stride == 1;
    if (!adds_input_ || input.channels == channels) return;
    make.set_shape(input);
    shortcut_ = {make.conv(prefix + "shortcut.0", channels, 1, 1, 0, false),
                 make.norm(prefix + "shortcut.1")};
    register_module("shortcut", shortcut_.sequential());
  }

  nn::Stage::Value add_to(nn::Stage& stage, nn::Stage::Value x) const {
    auto y = expand_.add_to(stage, x, nn::Activation::kRelu);
    y = depthwise_.add_to(stage, y, nn::Activation::kRelu);
    if (!adds_input_) return project_.add_to(stage, y, nn::Activation::kNone);
    const auto residual = shortcut_.is_empty() ? x : shortcut_.add_to(stage, x, nn::Activation::kNone);
    return project_.add_to(stage, y, nn::Activation::kNone, residual);
  }

  /// The block on its own, for a gate; without its multiply-accumulates.
  nn::GatedBlock gated() const {
    nn::GatedBlock alone{.in_channels = expand_.conv->options.in_channels()};
    add_to(alone.block, alone.block.add_input());
    return alone;
  }

 private:
  NormalizedConv add_conv(LayerFactory& make, const std::string& prefix, int index, int64_t channels,
                          int64_t kernel, int64_t stride, int64_t groups) {
    const std::string conv = "conv" + std::to_string(index);
    const std::string norm = "bn" + std::to_string(index);
    NormalizedConv layers{make.conv(prefix + conv, channels, kernel, stride, kernel / 2, false, groups),
                          make.norm(prefix + norm)};
    layers.register_in(*this, conv, norm);
    return layers;
  }

  NormalizedConv expand_, depthwise_, project_, shortcut_;
  bool adds_input_ = false;
};

class MobileNetV2 : public Network {
 public:
  explicit MobileNetV2(const Options& options) {
    input_size_ = models::input_size(options, 3, 32);
    LayerFactory make(input_size_, options);
    const NormalizedConv stem = add_conv(make, "1", 32, 3);
    stem.add_to(stem_, stem_.add_input(), nn::Activation::kRelu);
    nn::Stage::Value x = stem.add_to(stage_, stage_.add_input(), nn::Activation::kRelu);
    x = add_blocks(make, options.zero_last_gamma, x);
    const NormalizedConv head = add_conv(make, "2", 1280, 1);
    make.global_avg_pool("avgpool");
    const nn::Linear linear = register_module("linear", make.linear("linear", options.classes));
    const auto add_head = [&](nn::Stage& stage, nn::Stage::Value features) {
      features = stage.add_average_pool(head.add_to(stage, features, nn::Activation::kRelu));
      stage.add_linear(linear, nn::Activation::kNone, features);
    };
    add_head(stage_, x);
    add_head(head_, head_.add_input());
    table_ = make.take_table();
    if (options.gate) add_gate(*options.gate);
  }

  torch::Tensor forward(torch::Tensor x) override {
    return has_gate() ? head_.forward({gate_->forward(stem_.forward({x}))}) : stage_.forward({x});
  }

 private:
  // As FracTrain's code: a gate on each of the 17 blocks, what they cost by their multiply-accumulates. After
  // all other parameters, which are drawn as without a gate.
  void add_gate(const GateRequest& request) {
    require(std::ranges::find(request.skips, true) == request.skips.end(), "models",
            "the blocks of mobilenet-v2-cifar cannot be skipped: give every option its bits");
    std::vector<nn::GatedBlock> gated;
    for (const auto& block : blocks_) {
      const std::string prefix = "layers." + std::to_string(gated.size()) + ".";
      nn::GatedBlock& one = gated.emplace_back(block->gated());
      for (const LayerRow& row : table_) {
        if (row.name.starts_with(prefix)) (row.groups > 1 ? one.depthwise_macs : one.macs) += row.macs;
      }
    }
    gate_ = register_module("gate", nn::PrecisionGate(request, std::move(gated)));
  }

  NormalizedConv add_conv(LayerFactory& make, const std::string& number, int64_t channels, int64_t kernel) {
    NormalizedConv layers{make.conv("conv" + number, channels, kernel, 1, kernel / 2, false),
                          make.norm("bn" + number)};
    layers.register_in(*this, "conv" + number, "bn" + number);
    return layers;
  }

  nn::Stage::Value add_blocks(LayerFactory& make, bool zero_gamma, nn::Stage::Value x) {
    struct Group {
      int64_t expansion, channels, blocks, stride;
    };
    constexpr std::array<Group, 7> kGroups{{{1, 16, 1, 1},
                                            {6, 24, 2, 1},
                                            {6, 32, 3, 2},
                                            {6, 64, 4, 2},
                                            {6, 96, 3, 1},
                                            {6, 160, 3, 2},
                                            {6, 320, 1, 1}}};
    torch::nn::ModuleList list;
    for (const Group& group : kGroups) {
      for (int64_t i = 0; i < group.blocks; ++i) {
        const std::string prefix = "layers." + std::to_string(list->size()) + ".";
        auto block = std::make_shared<InvertedResidual>(make, prefix, group.expansion, group.channels,
                                                        i == 0 ? group.stride : 1, zero_gamma);
        x = block->add_to(stage_, x);
        blocks_.push_back(block);
        list->push_back(std::move(block));
      }
    }
    register_module("layers", list);
    return x;
  }

  nn::Stage stage_;
  std::vector<std::shared_ptr<InvertedResidual>> blocks_;
  nn::Stage stem_, head_;  // with a gate: what is before and behind the blocks
};

}  // namespace

std::shared_ptr<Network> make_mobilenet_v2_cifar(const Options& options) {
  return std::make_shared<MobileNetV2>(options);
}

}  // namespace bitdial::models
