#pragma once

#include <torch/torch.h>

#include <string>
#include <utility>
#include <vector>

#include "bitdial/models/zoo.h"
#include "bitdial/nn/conv2d.h"
#include "bitdial/nn/linear.h"
#include "bitdial/nn/stage.h"

namespace bitdial::models {

/// A classifier of images: [N, C, H, W] float32, best in channels_last, to logits [N, classes].
class Network : public torch::nn::Module {
 public:
  virtual torch::Tensor forward(torch::Tensor x) = 0;

  ImageSize input_size() const { return input_size_; }
  const std::vector<LayerRow>& layer_table() const { return table_; }

 protected:
  ImageSize input_size_;
  std::vector<LayerRow> table_;
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
  torch::nn::MaxPool2d max_pool(const std::string& name, int64_t kernel, int64_t stride, int64_t padding = 0);
  torch::nn::AvgPool2d avg_pool(const std::string& name, int64_t kernel, int64_t stride);
  void global_avg_pool(const std::string& name);

  ImageSize shape() const { return shape_; }
  void set_shape(ImageSize shape) { shape_ = shape; }
  std::vector<LayerRow> take_table() { return std::move(table_); }

 private:
  LayerRow& add_row(const std::string& name, const char* kind, ImageSize output);

  ImageSize shape_;
  Options options_;
  std::vector<LayerRow> table_;
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
/// 6n + 2 layers: n = 3, 6, 12, 18 for ResNet-20, 38, 74, 110.
std::shared_ptr<Network> make_resnet_cifar(int64_t n, const Options& options);
/// `imagenet`: 7x7 stem with stride 2 and max pool on 224x224; otherwise a 3x3 stem without pool on 32x32.
std::shared_ptr<Network> make_resnet18(bool imagenet, const Options& options);

}  // namespace bitdial::models
