// Networks without branches: LeNet-5, AlexNet, VGG. Names of parameters as in torchvision where it has the
// network.
#include <array>
#include <string>
#include <vector>

#include "bitdial/models/network.h"

namespace bitdial::models {

namespace {

/// One stage.
class FeedForward : public Network {
 public:
  torch::Tensor forward(torch::Tensor x) override { return stage_.forward({x}); }

 protected:
  nn::Stage stage_;
};

/// Appends layers to a Sequential and names their rows by their place in it, as torchvision's state dicts do.
class Stack {
 public:
  Stack(LayerFactory& make, torch::nn::Sequential& sequential, std::string prefix)
      : make_(make), sequential_(sequential), prefix_(std::move(prefix)) {}

  nn::Conv2d conv(int64_t channels, int64_t kernel, int64_t stride, int64_t padding) {
    nn::Conv2d layer = make_.conv(next_name(), channels, kernel, stride, padding, true);
    sequential_->push_back(layer);
    return layer;
  }
  torch::nn::AnyModule norm() {
    torch::nn::AnyModule layer = make_.norm(next_name());
    sequential_->push_back(layer);
    return layer;
  }
  void relu() { sequential_->push_back(torch::nn::ReLU(torch::nn::ReLUOptions(true))); }
  torch::nn::MaxPool2d max_pool(int64_t kernel, int64_t stride) {
    torch::nn::MaxPool2d layer = make_.max_pool(next_name(), kernel, stride);
    sequential_->push_back(layer);
    return layer;
  }
  torch::nn::Dropout dropout() {
    torch::nn::Dropout layer(0.5);
    sequential_->push_back(layer);
    return layer;
  }
  nn::Linear linear(int64_t features) {
    nn::Linear layer = make_.linear(next_name(), features);
    sequential_->push_back(layer);
    return layer;
  }

 private:
  std::string next_name() const { return prefix_ + std::to_string(sequential_->size()); }

  LayerFactory& make_;
  torch::nn::Sequential& sequential_;
  std::string prefix_;
};

/// AdaPT's LeNet-5: 32x32x1, tanh, average pools, plain logits.
class LeNet5 : public FeedForward {
 public:
  explicit LeNet5(const Options& options) {
    input_size_ = models::input_size(options, 1, 32);
    LayerFactory make(input_size_, options);
    nn::Stage::Value x = stage_.add_input();
    const auto block = [&](const std::string& name, int64_t channels) {
      const nn::Conv2d conv = register_module(name, make.conv(name, channels, 5, 1, 0, true));
      x = stage_.add_block(conv, {}, nn::Activation::kTanh, x);
    };
    const auto linear = [&](const std::string& name, int64_t features, nn::Activation activation) {
      x = stage_.add_linear(register_module(name, make.linear(name, features)), activation, x);
    };
    block("conv1", 6);
    x = stage_.add_average_pool(make.avg_pool("pool1", 2, 2), x);
    block("conv2", 16);
    x = stage_.add_average_pool(make.avg_pool("pool2", 2, 2), x);
    block("conv3", 120);
    x = stage_.add_flatten(x);
    linear("fc1", 84, nn::Activation::kTanh);
    linear("fc2", options.classes, nn::Activation::kNone);
    table_ = make.take_table();
  }
};

class AlexNet : public FeedForward {
 public:
  AlexNet(bool imagenet, const Options& options) {
    input_size_ = models::input_size(options, 3, imagenet ? 224 : 32);
    LayerFactory make(input_size_, options);
    const nn::Stage::Value x = stage_.add_flatten(add_features(make, imagenet));
    if (imagenet) {
      add_imagenet_classifier(make, options.classes);
    } else {
      stage_.add_linear(register_module("classifier", make.linear("classifier", options.classes)),
                        nn::Activation::kNone, x);
    }
    table_ = make.take_table();
  }

  torch::Tensor forward(torch::Tensor x) override {
    x = FeedForward::forward(x);
    for (Hidden& one : hidden_) x = one.stage.forward({one.dropout->forward(x)});
    return last_.is_empty() ? x : last_->forward(x);
  }

 private:
  struct Hidden {
    torch::nn::Dropout dropout{nullptr};
    nn::Stage stage;
  };

  nn::Stage::Value add_features(LayerFactory& make, bool imagenet) {
    torch::nn::Sequential features;
    Stack stack(make, features, "features.");
    const int64_t pool_kernel = imagenet ? 3 : 2;
    nn::Stage::Value x = stage_.add_input();
    const auto block = [&](int64_t channels, int64_t kernel, int64_t stride, int64_t padding) {
      x = stage_.add_block(stack.conv(channels, kernel, stride, padding), {}, nn::Activation::kRelu, x);
      stack.relu();
    };
    const auto pool = [&] { x = stage_.add_max_pool(stack.max_pool(pool_kernel, 2), x); };
    block(64, 11, 4, imagenet ? 2 : 5);
    pool();
    block(192, 5, 1, 2);
    pool();
    for (const int64_t channels : {384, 256, 256}) block(channels, 3, 1, 1);
    pool();
    register_module("features", features);
    return x;
  }

  void add_imagenet_classifier(LayerFactory& make, int64_t classes) {
    torch::nn::Sequential sequential;
    Stack stack(make, sequential, "classifier.");
    hidden_.resize(2);
    for (Hidden& one : hidden_) {
      one.dropout = stack.dropout();
      one.stage.add_linear(stack.linear(4096), nn::Activation::kRelu, one.stage.add_input());
      stack.relu();
    }
    last_ = stack.linear(classes);
    register_module("classifier", sequential);
  }

  std::vector<Hidden> hidden_;  // of ImageNet's classifier, as the last layer is
  nn::Linear last_{nullptr};
};

/// VGG-16 with batch norm for 32x32 images: five max pools leave 512 features, one linear layer.
class Vgg16Bn : public FeedForward {
 public:
  explicit Vgg16Bn(const Options& options) {
    input_size_ = models::input_size(options, 3, 32);
    LayerFactory make(input_size_, options);
    torch::nn::Sequential features;
    Stack stack(make, features, "features.");
    constexpr int64_t kPool = 0;
    constexpr std::array<int64_t, 18> kLayers{64,    64,  kPool, 128, 128,   kPool, 256, 256, 256,
                                              kPool, 512, 512,   512, kPool, 512,   512, 512, kPool};
    nn::Stage::Value x = stage_.add_input();
    for (const int64_t channels : kLayers) {
      if (channels == kPool) {
        x = stage_.add_max_pool(stack.max_pool(2, 2), x);
        continue;
      }
      nn::Conv2d conv = stack.conv(channels, 3, 1, 1);
      init_he_fan_out(conv);
      torch::NoGradGuard no_grad;
      conv->bias.zero_();
      x = stage_.add_block(conv, stack.norm(), nn::Activation::kRelu, x);
      stack.relu();
    }
    register_module("features", features);
    nn::Linear linear = register_module("classifier", make.linear("classifier", options.classes));
    {
      torch::NoGradGuard no_grad;
      linear->weight.normal_(0.0, 0.01);
      linear->bias.zero_();
    }
    stage_.add_linear(linear, nn::Activation::kNone, stage_.add_flatten(x));
    table_ = make.take_table();
  }
};

}  // namespace

std::shared_ptr<Network> make_lenet5(const Options& options) { return std::make_shared<LeNet5>(options); }

std::shared_ptr<Network> make_alexnet_cifar(const Options& options) {
  return std::make_shared<AlexNet>(false, options);
}

std::shared_ptr<Network> make_alexnet_imagenet(const Options& options) {
  return std::make_shared<AlexNet>(true, options);
}

std::shared_ptr<Network> make_vgg16_bn_cifar(const Options& options) {
  return std::make_shared<Vgg16Bn>(options);
}

}  // namespace bitdial::models
