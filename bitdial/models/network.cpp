#include "bitdial/models/network.h"

#include <algorithm>
#include <cmath>

#include "bitdial/core/error.h"
#include "bitdial/nn/norm.h"

namespace bitdial::models {

namespace {

// With `ceil` a last window may reach beyond the border, but not begin there (torch's rule).
int64_t pooled(int64_t size, int64_t kernel, int64_t stride, int64_t padding, bool ceil = false) {
  const int64_t reach = size + 2 * padding - kernel;
  require(reach >= 0, "models", "images are too small for the network: a window of {} meets {} pixels",
          kernel, size);
  const int64_t windows = (reach + (ceil ? stride - 1 : 0)) / stride + 1;
  return ceil && (windows - 1) * stride >= size + padding ? windows - 1 : windows;
}

}  // namespace

torch::Tensor Network::with_gate_cost(const torch::Tensor& loss, Policy& policy, const StepInfo& step) const {
  return has_gate() ? loss + gate_->cost(policy, step, loss.item<double>()) : loss;
}

LayerRow& LayerFactory::add_row(const std::string& name, const char* kind, ImageSize output) {
  LayerRow row;
  row.name = name;
  row.kind = kind;
  row.input = shape_;
  row.output = output;
  shape_ = output;
  return table_.emplace_back(std::move(row));
}

nn::Conv2d LayerFactory::conv(const std::string& name, int64_t out_channels, int64_t kernel, int64_t stride,
                              int64_t padding, bool bias, int64_t groups) {
  const int64_t in_channels = shape_.channels;
  const ImageSize output{out_channels, pooled(shape_.height, kernel, stride, padding),
                         pooled(shape_.width, kernel, stride, padding)};
  LayerRow& row = add_row(name, "conv2d", output);
  row.kernel = kernel;
  row.stride = stride;
  row.padding = padding;
  const int64_t weights = out_channels * (in_channels / groups) * kernel * kernel;
  row.parameters = weights + (bias ? out_channels : 0);
  row.macs = weights * output.height * output.width;
  row.bias_adds = bias ? row.output_elements() : 0;
  row.groups = groups;
  row.role = name.ends_with("downsample.0") || name.ends_with("shortcut.0") ? LayerRole::kShortcut
                                                                            : LayerRole::kBody;
  return nn::Conv2d(torch::nn::Conv2dOptions(in_channels, out_channels, kernel)
                        .stride(stride)
                        .padding(padding)
                        .groups(groups)
                        .bias(bias));
}

torch::nn::AnyModule LayerFactory::norm(const std::string& name) {
  add_row(name, "norm2d", shape_).parameters = 2 * shape_.channels;
  return nn::make_norm2d(options_.normalization, shape_.channels, static_cast<int64_t>(table_.size()),
                         options_.range_norm_bits);
}

nn::Linear LayerFactory::linear(const std::string& name, int64_t out_features) {
  const int64_t in_features = shape_.channels * shape_.height * shape_.width;
  shape_ = {in_features, 1, 1};
  LayerRow& row = add_row(name, "linear", {out_features, 1, 1});
  row.macs = in_features * out_features;
  row.parameters = row.macs + out_features;
  row.bias_adds = out_features;
  row.role = LayerRole::kBody;
  return nn::Linear(torch::nn::LinearOptions(in_features, out_features));
}

torch::nn::MaxPool2d LayerFactory::max_pool(const std::string& name, int64_t kernel, int64_t stride,
                                            int64_t padding, bool ceil) {
  LayerRow& row = add_row(name, "max_pool2d",
                          {shape_.channels, pooled(shape_.height, kernel, stride, padding, ceil),
                           pooled(shape_.width, kernel, stride, padding, ceil)});
  row.kernel = kernel;
  row.stride = stride;
  row.padding = padding;
  return torch::nn::MaxPool2d(
      torch::nn::MaxPool2dOptions(kernel).stride(stride).padding(padding).ceil_mode(ceil));
}

torch::nn::AvgPool2d LayerFactory::avg_pool(const std::string& name, int64_t kernel, int64_t stride) {
  LayerRow& row = add_row(
      name, "avg_pool2d",
      {shape_.channels, pooled(shape_.height, kernel, stride, 0), pooled(shape_.width, kernel, stride, 0)});
  row.kernel = kernel;
  row.stride = stride;
  return torch::nn::AvgPool2d(torch::nn::AvgPool2dOptions(kernel).stride(stride));
}

LayerRow& LayerFactory::global_avg_pool(const std::string& name) {
  const int64_t kernel = shape_.height;
  LayerRow& row = add_row(name, "avg_pool2d", {shape_.channels, 1, 1});
  row.kernel = kernel;
  return row;
}

std::vector<LayerRow> LayerFactory::take_table() {
  const auto has_gemms = [](const LayerRow& row) { return row.role != LayerRole::kOther; };
  const auto first = std::ranges::find_if(table_, has_gemms);
  const auto last = std::find_if(table_.rbegin(), table_.rend(), has_gemms);
  if (first != table_.end()) {
    first->role = LayerRole::kStem;
    last->role = LayerRole::kHead;
  }
  return std::move(table_);
}

ImageSize input_size(const Options& options, int64_t published_channels, int64_t published_edge) {
  const int64_t edge = options.image_size.value_or(published_edge);
  return {options.in_channels.value_or(published_channels), edge, edge};
}

void NormalizedConv::register_in(torch::nn::Module& parent, const std::string& conv_name,
                                 const std::string& norm_name) const {
  parent.register_module(conv_name, conv);
  parent.register_module(norm_name, norm.ptr());
}

torch::nn::Sequential NormalizedConv::sequential() const {
  torch::nn::Sequential both;
  both->push_back(conv);
  both->push_back(norm);
  return both;
}

void init_he_fan_out(const nn::Conv2d& conv) {
  torch::NoGradGuard no_grad;
  torch::Tensor weight = conv->weight;
  const auto fan_out = static_cast<double>(weight.size(0) * weight.size(2) * weight.size(3));
  weight.normal_(0.0, std::sqrt(2.0 / fan_out));
}

}  // namespace bitdial::models
