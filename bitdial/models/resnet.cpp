// Residual networks of He et al. 2016; names of parameters as in torchvision.
#include <cmath>

#include "bitdial/core/error.h"
#include "bitdial/models/network.h"

namespace bitdial::models {

namespace {

void init_norm(torch::nn::AnyModule& norm, double gamma) {
  torch::NoGradGuard no_grad;
  for (auto& parameter : norm.ptr()->named_parameters(false)) {
    parameter.value().fill_(parameter.key() == "weight" ? gamma : 0.0);
  }
}

/// Two 3x3 convolutions, or a bottleneck: 1x1, 3x3, 1x1 to four times the channels. The first 3x3 has the
/// stride.
class ResidualBlock : public torch::nn::Module {
 public:
  ResidualBlock(LayerFactory& make, const std::string& prefix, bool is_bottleneck, int64_t channels,
                int64_t stride, double last_gamma) {
    const ImageSize input = make.shape();
    if (is_bottleneck) {
      add_layers(make, prefix, channels, 1, 1);
      add_layers(make, prefix, channels, 3, stride);
      add_layers(make, prefix, 4 * channels, 1, 1);
    } else {
      add_layers(make, prefix, channels, 3, stride);
      add_layers(make, prefix, channels, 3, 1);
    }
    for (NormalizedConv& layers : main_) init_he_fan_out(layers.conv);
    for (NormalizedConv& layers : main_) init_norm(layers.norm, &layers == &main_.back() ? last_gamma : 1.0);
    const int64_t out_channels = make.shape().channels;
    if (stride != 1 || input.channels != out_channels) {
      add_shortcut(make, prefix, input, out_channels, stride);
    }
  }

  /// The block on its own, for a gate. All blocks count alike in its cost, as released.
  nn::GatedBlock gated() const {
    nn::GatedBlock alone{.in_channels = main_.front().conv->options.in_channels()};
    add_to(alone.block, alone.block.add_input());
    if (!shortcut_.is_empty()) {
      alone.shortcut.emplace();
      shortcut_.add_to(*alone.shortcut, alone.shortcut->add_input(), nn::Activation::kNone);
    }
    return alone;
  }

  nn::Stage::Value add_to(nn::Stage& stage, nn::Stage::Value x) const {
    nn::Stage::Value y = x;
    for (size_t i = 0; i + 1 < main_.size(); ++i) {
      y = main_[i].add_to(stage, y, nn::Activation::kRelu);
    }
    const auto shortcut = shortcut_.is_empty() ? x : shortcut_.add_to(stage, x, nn::Activation::kNone);
    return main_.back().add_to(stage, y, nn::Activation::kRelu, shortcut);
  }

 private:
  void add_layers(LayerFactory& make, const std::string& prefix, int64_t channels, int64_t kernel,
                  int64_t stride) {
    const std::string number = std::to_string(main_.size() + 1);
    NormalizedConv layers{make.conv(prefix + "conv" + number, channels, kernel, stride, kernel / 2, false),
                          make.norm(prefix + "bn" + number)};
    layers.register_in(*this, "conv" + number, "bn" + number);
    main_.push_back(std::move(layers));
  }

  void add_shortcut(LayerFactory& make, const std::string& prefix, ImageSize input, int64_t channels,
                    int64_t stride) {
    make.set_shape(input);
    shortcut_.conv = make.conv(prefix + "downsample.0", channels, 1, stride, 0, false);
    shortcut_.norm = make.norm(prefix + "downsample.1");
    init_he_fan_out(shortcut_.conv);
    init_norm(shortcut_.norm, 1.0);
    register_module("downsample", shortcut_.sequential());
  }

  std::vector<NormalizedConv> main_;
  NormalizedConv shortcut_;
};

struct ResNetShape {
  ImageSize input;
  int64_t stem_channels = 16;
  int64_t stem_kernel = 3;
  int64_t stem_stride = 1;
  bool max_pool = false;
  std::vector<int64_t> stage_channels;
  std::vector<int64_t> blocks;  ///< of each stage
  bool is_bottleneck = false;
  bool charges_pool = false;  ///< LayerRow::charged_pool_operations
  double linear_std = 0.0;    ///< of the last layer's normal initialiser; 0: torch::nn::Linear's own
};

class ResNet : public Network {
 public:
  ResNet(const ResNetShape& shape, const Options& options) {
    input_size_ = shape.input;
    LayerFactory make(shape.input, options);
    conv1_ = register_module("conv1", make.conv("conv1", shape.stem_channels, shape.stem_kernel,
                                                shape.stem_stride, shape.stem_kernel / 2, false));
    init_he_fan_out(conv1_);
    bn1_ = make.norm("bn1");
    register_module("bn1", bn1_.ptr());
    init_norm(bn1_, 1.0);
    nn::Stage::Value x = stage_.add_block(conv1_, bn1_, nn::Activation::kRelu, stage_.add_input());
    const auto stem = stem_.add_block(conv1_, bn1_, nn::Activation::kRelu, stem_.add_input());
    if (shape.max_pool) {
      const auto pool = register_module("maxpool", make.max_pool("maxpool", 3, 2, 1));
      x = stage_.add_max_pool(pool, x);
      stem_.add_max_pool(pool, stem);
    }
    for (size_t stage = 0; stage < shape.stage_channels.size(); ++stage) {
      x = add_stage(make, shape, stage, options.zero_last_gamma ? 0.0 : 1.0, x);
    }
    LayerRow& pool = make.global_avg_pool("avgpool");
    if (shape.charges_pool)
      pool.charged_pool_operations = (pool.kernel * pool.kernel + 1) * pool.output_elements();
    const nn::Linear fc = register_module("fc", make.linear("fc", options.classes));
    if (shape.linear_std > 0.0) {
      torch::NoGradGuard no_grad;
      fc->weight.normal_(0.0, shape.linear_std);
      fc->bias.zero_();
    }
    stage_.add_linear(fc, nn::Activation::kNone, stage_.add_average_pool(x));
    tail_.add_linear(fc, nn::Activation::kNone, tail_.add_average_pool(tail_.add_input()));
    table_ = make.take_table();
    if (options.gate) add_gate(*options.gate);
  }

  torch::Tensor forward(torch::Tensor x) override {
    return has_gate() ? tail_.forward({gate_->forward(stem_.forward({x}))}) : stage_.forward({x});
  }

 private:
  // After all other parameters: they are drawn as without a gate.
  void add_gate(const GateRequest& request) {
    std::vector<nn::GatedBlock> gated;
    for (const auto& block : blocks_) gated.push_back(block->gated());
    gate_ = register_module("gate", nn::PrecisionGate(request, std::move(gated)));
  }

  nn::Stage::Value add_stage(LayerFactory& make, const ResNetShape& shape, size_t stage, double last_gamma,
                             nn::Stage::Value x) {
    const std::string name = "layer" + std::to_string(stage + 1);
    torch::nn::ModuleList list;
    for (int64_t i = 0; i < shape.blocks[stage]; ++i) {
      const std::string prefix = name + "." + std::to_string(i) + ".";
      const int64_t stride = stage > 0 && i == 0 ? 2 : 1;
      auto block = std::make_shared<ResidualBlock>(make, prefix, shape.is_bottleneck,
                                                   shape.stage_channels[stage], stride, last_gamma);
      x = block->add_to(stage_, x);
      blocks_.push_back(block);
      list->push_back(std::move(block));
    }
    register_module(name, list);
    return x;
  }

  nn::Conv2d conv1_{nullptr};
  torch::nn::AnyModule bn1_;
  nn::Stage stage_;
  std::vector<std::shared_ptr<ResidualBlock>> blocks_;
  nn::Stage stem_, tail_;  // with a gate: what is before and behind the blocks
};

}  // namespace

std::shared_ptr<Network> make_resnet_cifar(int64_t n, const Options& options) {
  ResNetShape shape;
  shape.input = input_size(options, 3, 32);
  shape.stage_channels = {16, 32, 64};
  shape.blocks = {n, n, n};
  shape.charges_pool = true;
  // The initialiser of the SkipNet setting (recipes.md, section 1).
  shape.linear_std = std::sqrt(2.0 / static_cast<double>(64 * options.classes));
  return std::make_shared<ResNet>(shape, options);
}

std::shared_ptr<Network> make_resnet18_cifar(const Options& options) {
  ResNetShape shape;
  shape.input = input_size(options, 3, 32);
  shape.stem_channels = 64;
  shape.stage_channels = {64, 128, 256, 512};
  shape.blocks = {2, 2, 2, 2};
  return std::make_shared<ResNet>(shape, options);
}

std::shared_ptr<Network> make_resnet_imagenet(int64_t layers, const Options& options) {
  require(layers == 18 || layers == 34 || layers == 50, "models",
          "there is no ResNet-{} for ImageNet, expected 18, 34 or 50", layers);
  ResNetShape shape;
  shape.input = input_size(options, 3, 224);
  shape.stem_channels = 64;
  shape.stem_kernel = 7;
  shape.stem_stride = 2;
  shape.max_pool = true;
  shape.stage_channels = {64, 128, 256, 512};
  shape.blocks = layers == 18 ? std::vector<int64_t>{2, 2, 2, 2} : std::vector<int64_t>{3, 4, 6, 3};
  shape.is_bottleneck = layers == 50;
  return std::make_shared<ResNet>(shape, options);
}

}  // namespace bitdial::models
