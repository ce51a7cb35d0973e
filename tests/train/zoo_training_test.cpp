// The larger networks learn on the integer kernels.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitdial/models/network.h"
#include "bitdial/nn/session.h"
#include "bitdial/policies/registry.h"
#include "bitdial/train/optimizer.h"

namespace bitdial::train {
namespace {

constexpr double kLearningRate = 0.005;

struct Subject {
  const char* name;
  int64_t image_size;
  bool has_auxiliary_heads = false;
};

void PrintTo(const Subject& subject, std::ostream* stream) { *stream << subject.name; }

class ZooTraining : public ::testing::TestWithParam<Subject> {};

double train_step(models::Network& network, nn::Session& session, Optimizer& optimizer,
                  const torch::Tensor& images, const torch::Tensor& labels, int64_t step) {
  StepInfo info;
  info.step = step;
  optimizer.zero_grad();
  session.begin_step(info);
  torch::Tensor loss;
  {
    const nn::ForwardScope scope(session);
    loss = torch::nn::functional::cross_entropy(network.forward(images), labels);
    for (const torch::Tensor& logits : network.take_auxiliary_logits()) {
      loss = loss + models::kAuxiliaryLossWeight * torch::nn::functional::cross_entropy(logits, labels);
    }
  }
  loss.backward();
  optimizer.step(kLearningRate);
  session.end_step(info, {loss.item<double>(), kLearningRate});
  return loss.item<double>();
}

TEST_P(ZooTraining, LowersTheLossInInt8) {
  torch::manual_seed(5);
  models::Options options;
  options.image_size = GetParam().image_size;
  options.auxiliary_heads = GetParam().has_auxiliary_heads;
  const auto network = models::make(GetParam().name, options);
  std::map<std::string, torch::Tensor> before;
  for (const auto& parameter : network->named_parameters()) {
    before[parameter.key()] = parameter.value().detach().clone();
  }
  nn::Session session(policies::make("static:8/8/8"), {});
  session.attach(*network);
  Optimizer optimizer(OptimizerRecipe{}, *network);
  network->train();
  const torch::Tensor images = torch::randn({8, 3, options.image_size.value(), options.image_size.value()})
                                   .contiguous(at::MemoryFormat::ChannelsLast);
  const torch::Tensor labels = torch::randint(options.classes, {8}, torch::kLong);
  const double first = train_step(*network, session, optimizer, images, labels, 0);
  double last = first;
  for (int64_t step = 1; step < 5; ++step) {
    last = train_step(*network, session, optimizer, images, labels, step);
  }
  EXPECT_LT(last, first);
  EXPECT_NEAR(session.summary().int8_layers, 1.0, 1e-9);
  for (const auto& parameter : network->named_parameters()) {
    if (parameter.key().ends_with(".conv.bias")) continue;  // the normalisation behind takes it out
    EXPECT_FALSE(parameter.value().equal(before.at(parameter.key())))
        << parameter.key() << " was not trained";
  }
  EXPECT_TRUE(network->take_auxiliary_logits().empty()) << "they were handed out before";
}

INSTANTIATE_TEST_SUITE_P(Networks, ZooTraining,
                         ::testing::Values(Subject{"resnet152-cifar", 8}, Subject{"resnet164-cifar", 8},
                                           Subject{"resnet34-imagenet", 32}, Subject{"resnet50-imagenet", 32},
                                           Subject{"googlenet-cifar", 8}, Subject{"googlenet-imagenet", 32},
                                           Subject{"googlenet-imagenet", 64, true}));

}  // namespace
}  // namespace bitdial::train
