// GoogLeNet (Szegedy et al. 2015) with batch norm, as MuPPET trains it (recipes.md, section 1); children are
// named as in torchvision. The initialiser of the convolutions, He et al.'s as in the ResNets, is our choice.
#include <array>
#include <functional>

#include "bitdial/models/network.h"

namespace bitdial::models {

namespace {

/// The two forms differ in more than the stem.
struct GoogLeNetStyle {
  bool is_imagenet = false;
  bool has_bias = false;           ///< of convolutions, although a normalisation follows
  int64_t third_branch_convs = 1;  ///< 3x3 convolutions of the third branch
  bool second_branch_relu = true;  ///< after the 3x3 convolution of the second branch
};

/// Output channels of an inception module's convolutions.
struct InceptionShape {
  const char* name;
  int64_t b1, b2_reduced, b2, b3_reduced, b3, pool;
};

/// Children `conv` and `bn`, added to a stage as one block.
class ConvNorm : public torch::nn::Module {
 public:
  ConvNorm(LayerFactory& make, const std::string& name, int64_t channels, int64_t kernel, int64_t stride,
           bool bias)
      : both_{make.conv(name + ".conv", channels, kernel, stride, kernel / 2, bias),
              make.norm(name + ".bn")} {
    both_.register_in(*this, "conv", "bn");
    init_he_fan_out(both_.conv);
    if (both_.conv->bias.defined()) torch::nn::init::zeros_(both_.conv->bias);
    torch::nn::init::ones_(both_.norm.ptr()->named_parameters(false)["weight"]);
  }

  nn::Stage::Value add_to(nn::Stage& stage, nn::Stage::Value x, bool has_relu = true) const {
    return both_.add_to(stage, x, has_relu ? nn::Activation::kRelu : nn::Activation::kNone);
  }

 private:
  NormalizedConv both_;
};

/// Four branches on one input, their outputs one after the other along the channels. Each branch is a stage;
/// the concatenation is of floats.
class Inception : public torch::nn::Module {
 public:
  Inception(LayerFactory& make, const InceptionShape& shape, const GoogLeNetStyle& style)
      : prefix_(std::string(shape.name) + "."), has_bias_(style.has_bias), input_(make.shape()) {
    add_branch(make, "branch1", {{shape.b1, 1}});
    add_branch(make, "branch2", {{shape.b2_reduced, 1}, {shape.b2, 3}}, style.second_branch_relu);
    std::vector<Layer> third{{shape.b3_reduced, 1}};
    third.insert(third.end(), static_cast<size_t>(style.third_branch_convs), Layer{shape.b3, 3});
    add_branch(make, "branch3", third);
    add_pool_branch(make, shape.pool);
    make.set_shape({shape.b1 + shape.b2 + shape.b3 + shape.pool, input_.height, input_.width});
  }

  torch::Tensor forward(const torch::Tensor& x) const {
    std::vector<torch::Tensor> outputs;
    for (const nn::Stage& branch : branches_) outputs.push_back(branch.forward({x}));
    return torch::cat(outputs, 1);
  }

 private:
  struct Layer {
    int64_t channels, kernel;
  };

  std::shared_ptr<ConvNorm> conv(LayerFactory& make, const std::string& name, const Layer& layer) const {
    return std::make_shared<ConvNorm>(make, prefix_ + name, layer.channels, layer.kernel, 1, has_bias_);
  }

  void add_branch(LayerFactory& make, const std::string& name, const std::vector<Layer>& layers,
                  bool last_relu = true) {
    make.set_shape(input_);
    nn::Stage stage;
    nn::Stage::Value x = stage.add_input();
    if (layers.size() == 1) {
      x = register_module(name, conv(make, name, layers.front()))->add_to(stage, x, last_relu);
    } else {
      torch::nn::ModuleList list;
      for (size_t i = 0; i < layers.size(); ++i) {
        auto layer = conv(make, name + "." + std::to_string(i), layers[i]);
        x = layer->add_to(stage, x, last_relu || i + 1 < layers.size());
        list->push_back(std::move(layer));
      }
      register_module(name, list);
    }
    branches_.push_back(std::move(stage));
  }

  void add_pool_branch(LayerFactory& make, int64_t channels) {
    make.set_shape(input_);
    nn::Stage stage;
    torch::nn::ModuleList list;
    torch::nn::MaxPool2d pool = make.max_pool(prefix_ + "branch4.0", 3, 1, 1);
    auto layer = conv(make, "branch4.1", {channels, 1});
    layer->add_to(stage, stage.add_max_pool(pool, stage.add_input()));
    list->push_back(pool);
    list->push_back(std::move(layer));
    register_module("branch4", list);
    branches_.push_back(std::move(stage));
  }

  std::string prefix_;
  bool has_bias_;
  ImageSize input_;
  std::vector<nn::Stage> branches_;
};

/// A classifier that reads the middle of the network: 4x4 mean, 1x1 convolution, two linear layers.
class AuxiliaryHead : public torch::nn::Module {
 public:
  AuxiliaryHead(LayerFactory& make, const std::string& name, int64_t classes) {
    const ImageSize input = make.shape();
    make.set_shape({input.channels, 4, 4});
    const auto x = register_module("conv", std::make_shared<ConvNorm>(make, name + ".conv", 128, 1, 1, false))
                       ->add_to(hidden_, hidden_.add_input());
    hidden_.add_linear(register_module("fc1", make.linear(name + ".fc1", 1024)), nn::Activation::kRelu,
                       hidden_.add_flatten(x));
    last_ = register_module("fc2", make.linear(name + ".fc2", classes));
    dropout_ = register_module("dropout", torch::nn::Dropout(0.7));
    make.set_shape(input);
  }

  torch::Tensor forward(const torch::Tensor& x) {
    return last_->forward(dropout_->forward(hidden_.forward({torch::adaptive_avg_pool2d(x, {4, 4})})));
  }

 private:
  nn::Stage hidden_;
  nn::Linear last_{nullptr};
  torch::nn::Dropout dropout_{nullptr};
};

class GoogLeNet : public Network {
 public:
  GoogLeNet(const GoogLeNetStyle& style, const Options& options)
      : style_(style), make_(models::input_size(options, 3, style.is_imagenet ? 224 : 32), options) {
    input_size_ = make_.shape();
    style_.is_imagenet ? add_imagenet_stem() : add_cifar_stem();
    add_inceptions(options);
    make_.global_avg_pool("avgpool");
    if (style_.is_imagenet) dropout_ = register_module("dropout", torch::nn::Dropout(0.2));
    fc_ = register_module("fc", make_.linear("fc", options.classes));
    table_ = make_.take_table();
  }

  torch::Tensor forward(torch::Tensor x) override {
    auxiliary_logits_.clear();
    for (const Part& part : parts_) x = part(x);
    x = x.mean({2, 3});
    if (!dropout_.is_empty()) x = dropout_->forward(x);
    return fc_->forward(x);
  }

 private:
  using Part = std::function<torch::Tensor(const torch::Tensor&)>;

  void add_stem(const std::vector<std::pair<const char*, std::array<int64_t, 3>>>& layers) {
    nn::Stage stage;
    nn::Stage::Value x = stage.add_input();
    for (const auto& [name, shape] : layers) {
      const auto [channels, kernel, stride] = shape;
      auto layer = std::make_shared<ConvNorm>(make_, name, channels, kernel, stride, style_.has_bias);
      x = register_module(name, layer)->add_to(stage, x);
    }
    parts_.push_back([stage](const torch::Tensor& input) { return stage.forward({input}); });
  }

  void add_pool(int64_t kernel) {
    const std::string name = "maxpool" + std::to_string(++pools_);
    const bool ceil = style_.is_imagenet;
    torch::nn::MaxPool2d pool =
        register_module(name, make_.max_pool(name, kernel, 2, ceil ? 0 : kernel / 2, ceil));
    parts_.push_back([pool](const torch::Tensor& x) mutable { return pool->forward(x); });
  }

  void add_imagenet_stem() {
    add_stem({{"conv1", {64, 7, 2}}});
    add_pool(3);
    add_stem({{"conv2", {64, 1, 1}}, {"conv3", {192, 3, 1}}});
    add_pool(3);
  }

  void add_cifar_stem() { add_stem({{"conv1", {192, 3, 1}}}); }

  void add_inceptions(const Options& options) {
    constexpr std::array<InceptionShape, 9> kShapes{{{"inception3a", 64, 96, 128, 16, 32, 32},
                                                     {"inception3b", 128, 128, 192, 32, 96, 64},
                                                     {"inception4a", 192, 96, 208, 16, 48, 64},
                                                     {"inception4b", 160, 112, 224, 24, 64, 64},
                                                     {"inception4c", 128, 128, 256, 24, 64, 64},
                                                     {"inception4d", 112, 144, 288, 32, 64, 64},
                                                     {"inception4e", 256, 160, 320, 32, 128, 128},
                                                     {"inception5a", 256, 160, 320, 32, 128, 128},
                                                     {"inception5b", 384, 192, 384, 48, 128, 128}}};
    for (const InceptionShape& shape : kShapes) {
      const std::string name = shape.name;
      if (name == "inception4a") add_pool(3);
      if (name == "inception5a") add_pool(style_.is_imagenet ? 2 : 3);
      const auto module = register_module(name, std::make_shared<Inception>(make_, shape, style_));
      parts_.push_back([inner = module.get()](const torch::Tensor& x) { return inner->forward(x); });
      if (!options.auxiliary_heads) continue;
      if (name == "inception4a") add_auxiliary_head("aux1", options.classes);
      if (name == "inception4d") add_auxiliary_head("aux2", options.classes);
    }
  }

  void add_auxiliary_head(const std::string& name, int64_t classes) {
    const auto head = register_module(name, std::make_shared<AuxiliaryHead>(make_, name, classes));
    parts_.push_back([this, inner = head.get()](const torch::Tensor& x) {
      if (is_training()) auxiliary_logits_.push_back(inner->forward(x));
      return x;
    });
  }

  GoogLeNetStyle style_;
  LayerFactory make_;  // while the network is constructed
  int pools_ = 0;
  std::vector<Part> parts_;  // everything before the average pool; the modules are children
  torch::nn::Dropout dropout_{nullptr};
  nn::Linear fc_{nullptr};
};

}  // namespace

std::shared_ptr<Network> make_googlenet_cifar(const Options& options) {
  return std::make_shared<GoogLeNet>(
      GoogLeNetStyle{.has_bias = true, .third_branch_convs = 2, .second_branch_relu = false}, options);
}

std::shared_ptr<Network> make_googlenet_imagenet(const Options& options) {
  return std::make_shared<GoogLeNet>(GoogLeNetStyle{.is_imagenet = true}, options);
}

}  // namespace bitdial::models
