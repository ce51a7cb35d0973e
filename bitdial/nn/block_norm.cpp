#include "bitdial/nn/block_norm.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/core/profile.h"

namespace bitdial::nn {
namespace {

using at::Tensor;

// The gradient of the whole block behind its pass, where a pass cannot make it on its way.
Tensor expanded(const BlockGradient& gradient, const std::shared_ptr<BufferPool>& pool) {
  if (!gradient.pooled) return gradient.g;
  const kernels::PoolShape& s = gradient.pooled->shape;
  Tensor g = pool->take({s.batch, s.channels, s.in_height, s.in_width}, gradient.g.scalar_type());
  kernels::max_pool_backward(s, ops::output_type(g), gradient.g.const_data_ptr(),
                             gradient.pooled->where.const_data_ptr<uint8_t>(), g.mutable_data_ptr());
  return g;
}

// The gradient of a parameter with an entry per channel.
template <class Entry>
void set_gradient(std::vector<Tensor>& gradients, int place, size_t channels, const Entry& entry) {
  if (place < 0) return;
  Tensor gradient = at::empty({static_cast<int64_t>(channels)}, at::kFloat);
  auto* to = gradient.mutable_data_ptr<float>();
  for (size_t c = 0; c < channels; ++c) to[c] = static_cast<float>(entry(c));
  gradients[static_cast<size_t>(place)] = std::move(gradient);
}
void set_gradient(std::vector<Tensor>& gradients, int place, const std::vector<double>& entries) {
  set_gradient(gradients, place, entries.size(), [&](size_t c) { return entries[c]; });
}

class NoNorm : public BlockNorm {
 public:
  void follow(AffineSource::Terms&, bool) override {}

  std::unique_ptr<OperandSource> backward(const BlockGradient& gradient, const ParameterPlaces& places,
                                          std::vector<Tensor>& gradients,
                                          const std::shared_ptr<BufferPool>& pool) const override {
    set_gradient(gradients, places.bias, gradient.sum);
    if (!gradient.pooled) return std::make_unique<TensorSource>(gradient.g);
    AffineSource::Terms terms;
    terms.a = gradient.g;
    terms.pooled = gradient.pooled;
    return std::make_unique<AffineSource>(std::move(terms), false, pool);
  }
};

class BatchNorm : public BlockNorm {
 public:
  explicit BatchNorm(torch::nn::BatchNorm2dImpl& norm)
      : norm_(norm), channels_(static_cast<size_t>(norm.options.num_features())) {
    if (!norm.is_training()) return;
    const auto* mean = norm.running_mean.const_data_ptr<float>();
    near_.assign(mean, mean + channels_);
    sum_.resize(channels_);
    squares_.resize(channels_);
    sums_ = {.shift = near_.data(), .sum = sum_.data(), .sum_squares = squares_.data()};
  }

  const kernels::ChannelSums* sums() override { return is_of_batch() ? &sums_ : nullptr; }

  // Mean, deviation and gain of this batch or of the running statistics.
  void follow(AffineSource::Terms& terms, bool records) override {
    const PhaseScope phase(Phase::kNormalize);
    const auto* gamma = norm_.weight.const_data_ptr<float>();
    const auto* beta = norm_.bias.const_data_ptr<float>();
    auto* running_mean = norm_.running_mean.mutable_data_ptr<float>();
    auto* running_var = norm_.running_var.mutable_data_ptr<float>();
    const int64_t pixels = terms.a.numel() / terms.a.size(1);
    if (is_of_batch()) start_update(pixels);
    mean_.resize(channels_);
    inverse_deviation_.resize(channels_);
    gain_.resize(channels_);
    terms.shift.resize(channels_);
    for (size_t c = 0; c < channels_; ++c) {
      double mean = running_mean[c], variance = running_var[c];
      if (is_of_batch()) {
        std::tie(mean, variance) = update(c, static_cast<double>(pixels), running_mean[c], running_var[c]);
      }
      const double inverse = 1.0 / std::sqrt(variance + norm_.options.eps());
      const double gain = static_cast<double>(gamma[c]) * inverse;
      mean_[c] = static_cast<float>(mean);
      inverse_deviation_[c] = static_cast<float>(inverse);
      gain_[c] = static_cast<float>(gain);
      terms.shift[c] = static_cast<float>(static_cast<double>(beta[c]) - mean * gain);
    }
    terms.scale_a = gain_;
    if (records) z_ = terms.a;
  }

  // Behind a max pool the maxima alone have a gradient.
  void request_sums(BlockGradient& gradient) const override {
    gradient.z = gradient.pooled ? gradient.pooled->best : z_;
    gradient.shift = mean_.data();
  }

  std::unique_ptr<OperandSource> backward(const BlockGradient& gradient, const ParameterPlaces& places,
                                          std::vector<Tensor>& gradients,
                                          const std::shared_ptr<BufferPool>& pool) const override {
    const auto& sum = gradient.sum;
    const auto& product = gradient.product;
    const auto inverse = [&](size_t c) { return static_cast<double>(inverse_deviation_[c]); };
    const auto gain = [&](size_t c) { return static_cast<double>(gain_[c]); };
    set_gradient(gradients, places.gamma, channels_, [&](size_t c) { return product[c] * inverse(c); });
    set_gradient(gradients, places.beta, sum);
    // A bias in front of batch statistics changes nothing.
    set_gradient(gradients, places.bias, channels_,
                 [&](size_t c) { return is_of_batch() ? 0.0 : sum[c] * gain(c); });

    AffineSource::Terms terms;
    terms.a = gradient.g;
    terms.pooled = gradient.pooled;
    terms.scale_a = gain_;
    if (is_of_batch()) {
      // dz = gain * (g - mean(g) - xhat * mean(g * xhat)), xhat = (z - mean) * inverse (Ioffe and Szegedy
      // 2015)
      terms.b = z_;
      terms.scale_b.resize(channels_);
      terms.shift.resize(channels_);
      const auto n = static_cast<double>(z_.numel() / z_.size(1));
      for (size_t c = 0; c < channels_; ++c) {
        const double slope = -gain(c) * inverse(c) * inverse(c) * product[c] / n;
        terms.scale_b[c] = static_cast<float>(slope);
        terms.shift[c] = static_cast<float>(-gain(c) * sum[c] / n - slope * static_cast<double>(mean_[c]));
      }
    }
    return std::make_unique<AffineSource>(std::move(terms), false, pool);
  }

 private:
  bool is_of_batch() const { return !near_.empty(); }

  void start_update(int64_t pixels) {
    require(pixels > 1, "batch_norm",
            "a channel has one value only: its deviation is not defined in training");
    const double batches = count_batch(norm_.num_batches_tracked);
    momentum_ = norm_.options.momentum().value_or(1.0 / batches);
  }

  // LibTorch's add_ would take 60 us a block. Module::to may have made the counter a float.
  static double count_batch(Tensor& batches) {
    if (batches.scalar_type() == at::kLong)
      return static_cast<double>(++*batches.mutable_data_ptr<int64_t>());
    return batches.add_(1).item<double>();
  }

  // Mean and variance of a channel of the batch, which also go into the running ones.
  std::pair<double, double> update(size_t c, double n, float& running_mean, float& running_var) const {
    const double offset = sum_[c] / n;
    const double mean = static_cast<double>(near_[c]) + offset;
    const double variance = std::max(0.0, squares_[c] / n - offset * offset);
    const auto blend = [&](float& value, double now) {
      const auto old = static_cast<double>(value);
      value = static_cast<float>(old + momentum_ * (now - old));
    };
    blend(running_mean, mean);
    blend(running_var, variance * n / (n - 1.0));
    return {mean, variance};
  }

  torch::nn::BatchNorm2dImpl& norm_;
  size_t channels_;
  Row near_;  // what the sums are taken against; empty: running statistics
  std::vector<double> sum_, squares_;
  kernels::ChannelSums sums_;
  double momentum_ = 0.0;
  Row mean_, inverse_deviation_, gain_;  // gain = gamma * inverse_deviation
  Tensor z_;
};

class RangeNorm : public BlockNorm {
 public:
  explicit RangeNorm(RangeBatchNorm2dImpl& norm) : norm_(norm) {}

  void follow(AffineSource::Terms& terms, bool records) override {
    const PhaseScope phase(Phase::kNormalize);
    const Tensor z = terms.a;
    const Tensor x = norm_.quantize_input(z.to(at::kFloat));
    Tensor mean, scale;
    if (norm_.is_training()) {
      RangeNormCall call = norm_.begin(x);
      mean = call.mean;
      scale = call.scale(norm_.weight);
      if (records) call_ = std::move(call);
    } else {
      const Tensor inverse = norm_.running_scale.add(norm_.options.eps).reciprocal();
      mean = norm_.running_mean;
      scale = norm_.weight.detach().mul(inverse);
      if (records) fixed_ = {x, mean.clone(), inverse, scale};
    }
    const Tensor shift = norm_.bias.detach().sub(mean.mul(scale));
    terms.a = x.to(z.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
    terms.scale_a = row(scale);
    terms.shift = row(shift);
  }

  std::unique_ptr<OperandSource> backward(const BlockGradient& gradient, const ParameterPlaces& places,
                                          std::vector<Tensor>& gradients,
                                          const std::shared_ptr<BufferPool>& pool) const override {
    const PhaseScope phase(Phase::kNormalize);
    const Tensor g = expanded(gradient, pool).to(at::kFloat);
    const auto give = [&](int place, const Tensor& value) {
      if (place >= 0) gradients[static_cast<size_t>(place)] = value;
    };
    Tensor dz;
    if (call_.x.defined()) {
      auto result = call_.backward(g, norm_.weight.detach());
      dz = std::move(result.x);
      give(places.gamma, result.gamma);
      give(places.beta, result.beta);
    } else {
      const auto per_channel = [](const Tensor& x) { return x.view({1, -1, 1, 1}); };
      dz = g.mul(per_channel(fixed_.scale));
      const Tensor centred = fixed_.x.sub(per_channel(fixed_.mean));
      give(places.gamma, g.mul(centred).sum({0, 2, 3}).mul(fixed_.inverse));
      set_gradient(gradients, places.beta, gradient.sum);
    }
    if (places.bias >= 0) give(places.bias, dz.sum({0, 2, 3}));
    return std::make_unique<TensorSource>(
        dz.to(gradient.g.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast));
  }

 private:
  static Row row(const Tensor& values) {
    const Tensor dense = values.to(at::kFloat).contiguous();
    const auto* data = dense.const_data_ptr<float>();
    return {data, data + dense.numel()};
  }

  struct Fixed {
    Tensor x, mean, inverse, scale;
  };

  RangeBatchNorm2dImpl& norm_;
  RangeNormCall call_;  // of a batch in training
  Fixed fixed_;         // by running statistics
};

}  // namespace

kernels::GradientSums BlockGradient::pass() {
  const int64_t channels = g.size(1);
  sum.resize(static_cast<size_t>(channels));
  if (z.defined()) product.resize(sum.size());
  return {.type = ops::output_type(g),
          .pixels = g.numel() / channels,
          .channels = channels,
          .g = g.mutable_data_ptr(),
          .other = data_or_null(other),
          .mask = mask_data(mask),
          .where = pooled ? pooled->where.const_data_ptr<uint8_t>() : nullptr,
          .activation = activation,
          .activation_input = data_or_null(activation_input),
          .z = data_or_null(z),
          .shift = z.defined() ? shift : nullptr,
          .sum = sum.data(),
          .product_sum = z.defined() ? product.data() : nullptr};
}

std::shared_ptr<BlockNorm> begin_norm(const Stage::Plan::Node& node) {
  if (!node.batch_norm.is_empty()) return std::make_shared<BatchNorm>(*node.batch_norm.ptr());
  if (!node.range_norm.is_empty()) return std::make_shared<RangeNorm>(*node.range_norm.ptr());
  return std::make_shared<NoNorm>();
}

}  // namespace bitdial::nn
