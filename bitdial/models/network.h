#pragma once

#include <torch/torch.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bitdial/models/zoo.h"
#include "bitdial/nn/conv2d.h"
#include "bitdial/nn/linear.h"
#include "bitdial/nn/precision_gate.h"
#include "bitdial/nn/stage.h"

namespace bitdial::models {

/// Of GoogLeNet's auxiliary classifiers (Szegedy et al. 2015, section 5).
inline constexpr double kAuxiliaryLossWeight = 0.3;

/// A classifier of images: [N, C, H, W] float32, best in channels_last, to logits [N, classes].
class Network : public torch::nn::Module {
 public:
  virtual torch::Tensor forward(torch::Tensor x) = 0;

  /// The loss of this forward with what the gate's choices cost; without a gate the loss itself.
  torch::Tensor with_gate_cost(const torch::Tensor& loss, Policy& policy, const StepInfo& step) const;
  bool has_gate() const { return !gate_.is_empty(); }

  ImageSize input_size() const { return input_size_; }
  const std::vector<LayerRow>& layer_table() const { return table_; }

  /// What the auxiliary classifiers made of the last forward in training mode ([N, classes] each), handed out
  /// once; empty without such classifiers. Their losses count kAuxiliaryLossWeight.
  std::vector<torch::Tensor> take_auxiliary_logits() { return std::exchange(auxiliary_logits_, {}); }

 protected:
  std::vector<torch::Tensor> auxiliary_logits_;
  ImageSize input_size_;
  std::vector<LayerRow> table_;
  nn::PrecisionGate gate_{nullptr};
};

/// Makes layers and writes their rows while a network is constructed: it follows the shape of one sample from
/// layer to layer, so a layer is described once.
class LayerFactory {
 public:
  LayerFactory(ImageSize input, const Options& options) : shape_(input), options_(options) {}

  nn::Conv2d conv(const std::string& name, int64_t out_channels, int64_t kernel, int64_t stride,
                  int64_t padding, bool bias, int64_t groups = 1);
  torch::nn::AnyModule norm(const std::string& name);
  nn::Linear linear(const std::string& name, int64_t out_features);
  torch::nn::MaxPool2d max_pool(const std::string& name, int64_t kernel, int64_t stride, int64_t padding = 0,
                                bool ceil = false);
  torch::nn::AvgPool2d avg_pool(const std::string& name, int64_t kernel, int64_t stride);
  LayerRow& global_avg_pool(const std::string& name);

  ImageSize shape() const { return shape_; }
  void set_shape(ImageSize shape) { shape_ = shape; }
  /// The rows, with the roles of stem and head given to the first and last layer.
  std::vector<LayerRow> take_table();

 private:
  LayerRow& add_row(const std::string& name, const char* kind, ImageSize output);

  ImageSize shape_;
  Options options_;
  std::vector<LayerRow> table_;
};

/// A convolution and the normalisation behind it: one block of a stage.
struct NormalizedConv {
  nn::Conv2d conv{nullptr};
  torch::nn::AnyModule norm;

  bool is_empty() const { return conv.is_empty(); }
  nn::Stage::Value add_to(nn::Stage& stage, nn::Stage::Value x, nn::Activation activation,
                          std::optional<nn::Stage::Value> residual = std::nullopt) const {
    return stage.add_block(conv, norm, activation, x, residual);
  }
  void register_in(torch::nn::Module& parent, const std::string& conv_name,
                   const std::string& norm_name) const;
  /// Children "0" and "1", as published networks name those of a shortcut.
  torch::nn::Sequential sequential() const;
};

/// The images that a network is built for: what `options` says, else the published edge and channels.
ImageSize input_size(const Options& options, int64_t published_channels, int64_t published_edge);

/// Normal with variance 2 / (k^2 * out_channels): He et al. 2015, fan-out mode.
void init_he_fan_out(const nn::Conv2d& conv);

std::shared_ptr<Network> make_lenet5(const Options& options);
std::shared_ptr<Network> make_alexnet_cifar(const Options& options);
std::shared_ptr<Network> make_alexnet_imagenet(const Options& options);
std::shared_ptr<Network> make_vgg16_bn_cifar(const Options& options);
std::shared_ptr<Network> make_mobilenet_v2_cifar(const Options& options);
std::shared_ptr<Network> make_googlenet_cifar(const Options& options);
std::shared_ptr<Network> make_googlenet_imagenet(const Options& options);
/// 6n + 2 layers: n = 3, 6, 12, 18, 25, 27 for ResNet-20, 38, 74, 110, 152, 164, all with basic blocks.
std::shared_ptr<Network> make_resnet_cifar(int64_t n, const Options& options);
/// ResNet-18 with a 3x3 stem and no max pool.
std::shared_ptr<Network> make_resnet18_cifar(const Options& options);
/// 18 or 34 layers with basic blocks, 50 with bottlenecks whose 3x3 convolution has the stride.
std::shared_ptr<Network> make_resnet_imagenet(int64_t layers, const Options& options);

}  // namespace bitdial::models
