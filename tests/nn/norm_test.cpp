#include "bitdial/nn/norm.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"

namespace bitdial::nn {
namespace {

using torch::Tensor;

RangeBatchNorm2d norm_of(int64_t channels, at::ScalarType dtype = at::kFloat) {
  RangeBatchNorm2d norm(channels);
  norm->to(dtype);
  const torch::NoGradGuard no_grad;
  norm->weight.uniform_(0.5, 1.5);
  norm->bias.normal_();
  return norm;
}

// specs: sigma_est of N(0,1) for n values in a chunk.
TEST(RangeBatchNorm, EstimatesTheDeviationOfNormalData) {
  torch::manual_seed(1);
  for (const auto& [n, sigma] : std::vector<std::pair<int64_t, double>>{
           {49, 0.868}, {196, 0.911}, {784, 0.938}, {3136, 0.958}, {12544, 0.972}}) {
    RangeBatchNorm2d norm(64);
    norm->forward(torch::randn({16, 64, n, 1}));
    EXPECT_NEAR(norm->running_scale.mean().item<double>() / 0.9, sigma, 0.006) << n;
  }
}

// By hand: 2 chunks of 3 values.
TEST(RangeBatchNorm, FormulaByHand) {
  RangeBatchNorm2dOptions options(1);
  options.chunks = 2;
  RangeBatchNorm2d norm(options);
  const Tensor x = torch::tensor({1.0F, 4.0F, 2.0F, -1.0F, 0.0F, 6.0F}).view({2, 1, 3, 1});
  const double fix = 0.54021 / std::sqrt(2 * std::log(3.0));
  const double sigma = (0.5 * (4 + 6) - 0.5 * (1 - 1)) * fix;
  const Tensor y = norm->forward(x);
  EXPECT_TRUE(at::allclose(y, (x - 2.0) / (sigma + 1e-5), 1e-4, 1e-4));
  EXPECT_NEAR(norm->running_mean.item<double>(), 0.9 * 2.0, 1e-5);
  EXPECT_NEAR(norm->running_scale.item<double>(), 0.9 * sigma, 1e-4);
  norm->forward(x);
  EXPECT_NEAR(norm->running_mean.item<double>(), 0.1 * 1.8 + 0.9 * 2.0, 1e-5);
  norm->eval();
  EXPECT_TRUE(at::allclose(norm->forward(x), (x - 1.98) / (0.99 * sigma + 1e-5), 1e-4, 1e-4));
}

TEST(RangeBatchNorm, BackwardMatchesFiniteDifferences) {
  torch::manual_seed(2);
  RangeBatchNorm2d norm = norm_of(3, at::kDouble);
  const Tensor x = torch::randn({4, 3, 4, 2}, at::kDouble).requires_grad_();
  const Tensor probe = torch::randn({4, 3, 4, 2}, at::kDouble);
  const auto loss = [&] { return norm->forward(x).mul(probe).sum(); };
  loss().backward();
  const torch::NoGradGuard no_grad;
  for (Tensor& parameter : std::vector<Tensor>{x, norm->weight, norm->bias}) {
    Tensor flat = parameter.detach().view({-1});
    const Tensor gradient = parameter.grad().reshape({-1});
    for (int64_t i = 0; i < flat.numel(); ++i) {
      const double value = flat[i].item<double>();
      flat[i] = value + 1e-6;
      const double high = loss().item<double>();
      flat[i] = value - 1e-6;
      const double low = loss().item<double>();
      flat[i] = value;
      EXPECT_NEAR(gradient[i].item<double>(), (high - low) / 2e-6, 1e-6);
    }
  }
}

struct Passed {
  Tensor y, dx, dgamma, dbeta;
};

Passed pass(const Tensor& input, const Tensor& dy, at::ScalarType dtype) {
  torch::manual_seed(3);
  RangeBatchNorm2d norm = norm_of(input.size(1));
  norm->to(dtype);
  const Tensor x = input.to(dtype).detach().requires_grad_();
  const Tensor y = norm->forward(x);
  y.backward(dy.to(dtype));
  return {y.detach(), x.grad(), norm->weight.grad(), norm->bias.grad()};
}

// The loops over channels_last memory against LibTorch's operators in float64; any memory order, any thread
// count.
TEST(RangeBatchNorm, LoopsMatchOperators) {
  torch::manual_seed(4);
  const Tensor x = torch::randn({16, 19, 9, 7}).mul(3).add(1), dy = torch::randn({16, 19, 9, 7});
  const Passed want = pass(x, dy, at::kDouble);
  const Passed got = pass(x, dy, at::kFloat);
  const auto is_close = [](const Tensor& a, const Tensor& b) {
    return at::allclose(a.to(at::kDouble), b, 1e-5, 1e-5);
  };
  EXPECT_TRUE(is_close(got.y, want.y));
  EXPECT_TRUE(is_close(got.dx, want.dx));
  EXPECT_TRUE(at::allclose(got.dgamma.to(at::kDouble), want.dgamma, 1e-5, 1e-4));
  EXPECT_TRUE(at::allclose(got.dbeta.to(at::kDouble), want.dbeta, 1e-5, 1e-4));

  const int threads = num_threads();
  set_num_threads(2);
  const Passed other = pass(x.contiguous(at::MemoryFormat::ChannelsLast), dy, at::kFloat);
  set_num_threads(threads);
  EXPECT_TRUE(at::equal(other.y, got.y));
  EXPECT_TRUE(at::equal(other.dx, got.dx));
  EXPECT_TRUE(at::equal(other.dgamma, got.dgamma));
}

TEST(RangeBatchNorm, QuantisesInputAndGradient) {
  torch::manual_seed(5);
  RangeBatchNorm2dOptions options(4);
  options.quantize_bits = 4;
  RangeBatchNorm2d norm(options);
  const Tensor x = torch::rand({16, 4, 3, 3}).requires_grad_();
  const Tensor y = norm->forward(x);
  EXPECT_LE(std::get<0>(at::_unique2(y.select(1, 0))).numel(), 16);
  const Tensor dy = torch::randn({16, 4, 3, 3});
  y.backward(dy);
  // dbeta is the sum of the quantised gradient: a multiple of the step above the zero point.
  const double step = (dy.max() - dy.min()).item<double>() / 15, low = dy.min().item<double>();
  const double steps = (norm->bias.grad()[0].item<double>() - 144 * low) / step;
  EXPECT_NEAR(steps, std::round(steps), 1e-2);
  EXPECT_GT(norm->running_range[1].item<double>(), 0.5);
  norm->eval();
  EXPECT_TRUE(norm->forward(x).isfinite().all().item<bool>());
}

TEST(RangeBatchNorm, ImpossibleBatchesAreNamed) {
  RangeBatchNorm2d norm(2);
  const auto error_of = [&](const Tensor& x) -> std::string {
    try {
      norm->forward(x);
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  };
  EXPECT_EQ(
      error_of(torch::zeros({3, 2, 5, 5})),
      "[range_batch_norm2d] 3 x 5 x 5 = 75 values in a channel do not split into 16 chunks of at least 2");
  EXPECT_EQ(
      error_of(torch::zeros({16, 2, 1, 1})),
      "[range_batch_norm2d] 16 x 1 x 1 = 16 values in a channel do not split into 16 chunks of at least 2");
  EXPECT_EQ(error_of(torch::zeros({16, 3, 2, 2})),
            "[range_batch_norm2d] the layer has 2 channels, input has 3");
  norm->eval();
  EXPECT_EQ(error_of(torch::zeros({3, 2, 5, 5})), "none");
}

TEST(Norm2d, FactoryMakesWhatThePolicyWants) {
  torch::nn::AnyModule batch = make_norm2d(Normalization::kBatch, 5);
  torch::nn::AnyModule range = make_norm2d(Normalization::kRange, 5);
  EXPECT_NE(std::dynamic_pointer_cast<torch::nn::BatchNorm2dImpl>(batch.ptr()), nullptr);
  EXPECT_NE(std::dynamic_pointer_cast<RangeBatchNorm2dImpl>(range.ptr()), nullptr);
  EXPECT_EQ(range.forward(torch::randn({4, 5, 4, 4})).sizes(), (std::vector<int64_t>{4, 5, 4, 4}));
}

std::shared_ptr<RangeBatchNorm2dImpl> range_norm(int64_t layer, int bits = kRangeNormBits) {
  return std::dynamic_pointer_cast<RangeBatchNorm2dImpl>(
      make_norm2d(Normalization::kRange, 2, layer, bits).ptr());
}

// SBM: 8 bits for the input and the output gradient.
TEST(Norm2d, RangeNormOfANetworkQuantises) {
  const Tensor x = torch::randn({16, 2, 8, 8});
  EXPECT_EQ(range_norm(0)->options.quantize_bits, 8);
  EXPECT_LE(std::get<0>(at::_unique2(range_norm(0)->forward(x).select(1, 0))).numel(), 256);
  EXPECT_NO_THROW(range_norm(0)->forward(x).relu_().sum().backward()) << "as networks use it";
  EXPECT_FALSE(range_norm(0, 0)->options.quantize_bits);
  EXPECT_GT(std::get<0>(at::_unique2(range_norm(0, 0)->forward(x).select(1, 0))).numel(), 900);
}

TEST(Norm2d, LayersAndSeedsDrawDifferentNumbers) {
  torch::manual_seed(6);
  const Tensor x = torch::randn({16, 2, 8, 8}), dy = torch::randn({16, 2, 8, 8});
  const auto gradient = [&](uint64_t seed, int64_t layer) {
    torch::manual_seed(seed);
    const auto norm = range_norm(layer);
    norm->forward(x).backward(dy);
    return norm->bias.grad();
  };
  EXPECT_TRUE(at::equal(gradient(1, 0), gradient(1, 0)));
  EXPECT_FALSE(at::equal(gradient(1, 0), gradient(1, 1)));
  EXPECT_FALSE(at::equal(gradient(1, 0), gradient(2, 0)));
}

}  // namespace
}  // namespace bitdial::nn
