// Residual networks of He et al. 2016 with basic blocks; names of parameters as in torchvision.
#include <cmath>

#include "bitdial/models/network.h"

namespace bitdial::models {

namespace {

void init_norm(torch::nn::AnyModule& norm, double gamma) {
  torch::NoGradGuard no_grad;
  for (auto& parameter : norm.ptr()->named_parameters(false)) {
    parameter.value().fill_(parameter.key() == "weight" ? gamma : 0.0);
  }
}

class BasicBlock : public torch::nn::Module {
 public:
  BasicBlock(LayerFactory& make, const std::string& prefix, int64_t channels, int64_t stride,
             double last_gamma) {
    const ImageSize input = make.shape();
    conv1_ = register_module("conv1", make.conv(prefix + "conv1", channels, 3, stride, 1, false));
    bn1_ = make.norm(prefix + "bn1");
    register_module("bn1", bn1_.ptr());
    conv2_ = register_module("conv2", make.conv(prefix + "conv2", channels, 3, 1, 1, false));
    bn2_ = make.norm(prefix + "bn2");
    register_module("bn2", bn2_.ptr());
    init_he_fan_out(conv1_);
    init_he_fan_out(conv2_);
    init_norm(bn1_, 1.0);
    init_norm(bn2_, last_gamma);
    if (stride != 1 || input.channels != channels) add_shortcut(make, prefix, input, channels, stride);
  }

  nn::Stage::Value add_to(nn::Stage& stage, nn::Stage::Value x) const {
    const auto y = stage.add_block(conv1_, bn1_, nn::Activation::kRelu, x);
    const auto shortcut =
        shortcut_.is_empty() ? x : stage.add_block(shortcut_, shortcut_norm_, nn::Activation::kNone, x);
    return stage.add_block(conv2_, bn2_, nn::Activation::kRelu, y, shortcut);
  }

 private:
  void add_shortcut(LayerFactory& make, const std::string& prefix, ImageSize input, int64_t channels,
                    int64_t stride) {
    make.set_shape(input);
    shortcut_ = make.conv(prefix + "downsample.0", channels, 1, stride, 0, false);
    shortcut_norm_ = make.norm(prefix + "downsample.1");
    init_he_fan_out(shortcut_);
    init_norm(shortcut_norm_, 1.0);
    torch::nn::Sequential downsample;
    downsample->push_back(shortcut_);
    downsample->push_back(shortcut_norm_);
    register_module("downsample", downsample);
  }

  nn::Conv2d conv1_{nullptr}, conv2_{nullptr}, shortcut_{nullptr};
  torch::nn::AnyModule bn1_, bn2_, shortcut_norm_;
};

struct ResNetShape {
  ImageSize input;
  int64_t stem_channels = 16;
  int64_t stem_kernel = 3;
  int64_t stem_stride = 1;
  bool max_pool = false;
  std::vector<int64_t> stage_channels;
  int64_t blocks_per_stage = 1;
  double linear_std = 0.0;  ///< of the last layer's normal initialiser; 0: torch::nn::Linear's own
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
    if (shape.max_pool) {
      x = stage_.add_max_pool(register_module("maxpool", make.max_pool("maxpool", 3, 2, 1)), x);
    }
    for (size_t stage = 0; stage < shape.stage_channels.size(); ++stage) {
      x = add_stage(make, shape, stage, options.zero_last_gamma ? 0.0 : 1.0, x);
    }
    make.global_avg_pool("avgpool");
    fc_ = register_module("fc", make.linear("fc", options.classes));
    if (shape.linear_std > 0.0) {
      torch::NoGradGuard no_grad;
      fc_->weight.normal_(0.0, shape.linear_std);
      fc_->bias.zero_();
    }
    table_ = make.take_table();
  }

  torch::Tensor forward(torch::Tensor x) override { return fc_->forward(stage_.forward({x}).mean({2, 3})); }

 private:
  nn::Stage::Value add_stage(LayerFactory& make, const ResNetShape& shape, size_t stage, double last_gamma,
                             nn::Stage::Value x) {
    const std::string name = "layer" + std::to_string(stage + 1);
    torch::nn::ModuleList list;
    for (int64_t i = 0; i < shape.blocks_per_stage; ++i) {
      const std::string prefix = name + "." + std::to_string(i) + ".";
      const int64_t stride = stage > 0 && i == 0 ? 2 : 1;
      auto block =
          std::make_shared<BasicBlock>(make, prefix, shape.stage_channels[stage], stride, last_gamma);
      x = block->add_to(stage_, x);
      list->push_back(std::move(block));
    }
    register_module(name, list);
    return x;
  }

  nn::Conv2d conv1_{nullptr};
  torch::nn::AnyModule bn1_;
  nn::Linear fc_{nullptr};
  nn::Stage stage_;  // everything before the average pool
};

}  // namespace

std::shared_ptr<Network> make_resnet_cifar(int64_t n, const Options& options) {
  ResNetShape shape;
  shape.input = input_size(options, 3, 32);
  shape.stage_channels = {16, 32, 64};
  shape.blocks_per_stage = n;
  // The initialiser of the SkipNet setting (recipes.md, section 1).
  shape.linear_std = std::sqrt(2.0 / static_cast<double>(64 * options.classes));
  return std::make_shared<ResNet>(shape, options);
}

std::shared_ptr<Network> make_resnet18(bool imagenet, const Options& options) {
  ResNetShape shape;
  shape.input = input_size(options, 3, imagenet ? 224 : 32);
  shape.stem_channels = 64;
  shape.stem_kernel = imagenet ? 7 : 3;
  shape.stem_stride = imagenet ? 2 : 1;
  shape.max_pool = imagenet;
  shape.stage_channels = {64, 128, 256, 512};
  shape.blocks_per_stage = 2;
  return std::make_shared<ResNet>(shape, options);
}

}  // namespace bitdial::models
