// Trains a network of your own under a precision policy, in integer arithmetic, on the generated data set
// `shapes`:
//
//   own_network layers  [POLICY] [STEPS]    written with bitdial::nn layers
//   own_network convert [POLICY] [STEPS]    written for plain LibTorch and converted, its code unchanged
//
// To start a program of your own, copy this file and tests/install/consumer/CMakeLists.txt.
#include <fmt/format.h>
#include <torch/torch.h>

#include <cstdlib>
#include <exception>
#include <string>

#include "bitdial/core/error.h"
#include "bitdial/data/dataset.h"
#include "bitdial/data/loader.h"
#include "bitdial/nn/conv2d.h"
#include "bitdial/nn/convert.h"
#include "bitdial/nn/linear.h"
#include "bitdial/nn/session.h"
#include "bitdial/policies/registry.h"

namespace {

// The same network twice; only the types of the quantised layers differ.
template <typename Conv2d, typename Linear>
struct Net : torch::nn::Module {
  Net() {
    conv1 = register_module("conv1", Conv2d(torch::nn::Conv2dOptions(3, 16, 3).padding(1).bias(false)));
    norm1 = register_module("norm1", torch::nn::BatchNorm2d(16));
    conv2 = register_module("conv2",
                            Conv2d(torch::nn::Conv2dOptions(16, 32, 3).stride(2).padding(1).bias(false)));
    norm2 = register_module("norm2", torch::nn::BatchNorm2d(32));
    conv3 = register_module("conv3",
                            Conv2d(torch::nn::Conv2dOptions(32, 64, 3).stride(2).padding(1).bias(false)));
    norm3 = register_module("norm3", torch::nn::BatchNorm2d(64));
    fc = register_module("fc", Linear(64, 10));
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu(norm1(conv1(x)));
    x = torch::relu(norm2(conv2(x)));
    x = torch::relu(norm3(conv3(x)));
    return fc(x.mean({2, 3}));
  }

  Conv2d conv1{nullptr}, conv2{nullptr}, conv3{nullptr};
  torch::nn::BatchNorm2d norm1{nullptr}, norm2{nullptr}, norm3{nullptr};
  Linear fc{nullptr};
};

using LayersNet = Net<bitdial::nn::Conv2d, bitdial::nn::Linear>;
using PlainNet = Net<torch::nn::Conv2d, torch::nn::Linear>;

bitdial::nn::Session bind(LayersNet& net, std::shared_ptr<bitdial::Policy> policy) {
  bitdial::nn::Session session(std::move(policy));
  session.attach(net);
  return session;
}

bitdial::nn::Session bind(PlainNet& net, std::shared_ptr<bitdial::Policy> policy) {
  return bitdial::nn::convert(net, std::move(policy));
}

// A batch comes as NHWC, the memory order in which the integer kernels work.
torch::Tensor images_of(bitdial::data::Batch& batch, const bitdial::data::ImageShape& shape) {
  return torch::from_blob(batch.images.data(), {batch.size, shape.height, shape.width, shape.channels})
      .permute({0, 3, 1, 2});
}

torch::Tensor labels_of(bitdial::data::Batch& batch) {
  return torch::from_blob(batch.labels.data(), {batch.size}, torch::kLong);
}

bitdial::data::Loader make_loader(bitdial::data::Split split) {
  bitdial::data::LoaderOptions options;
  options.batch_size = 64;
  options.shuffle = options.drop_last = split == bitdial::data::Split::kTrain;
  options.augmentation = bitdial::data::default_augmentation("shapes", split);
  return {bitdial::data::open_dataset("shapes", "", split), options};
}

template <typename Network>
void train(Network& net, bitdial::nn::Session& session, int64_t steps) {
  auto loader = make_loader(bitdial::data::Split::kTrain);
  torch::optim::SGD optimizer(net.parameters(),
                              torch::optim::SGDOptions(0.05).momentum(0.9).weight_decay(1e-4));
  net.train();
  for (bitdial::StepInfo step{.steps_per_epoch = loader.batches(), .total_steps = steps}; step.step < steps;
       ++step.step) {
    step.epoch = step.step / loader.batches();
    if (step.step % loader.batches() == 0) {
      loader.start_epoch(step.epoch);
    }
    auto batch = loader.next();
    session.begin_step(step);
    optimizer.zero_grad();
    torch::Tensor loss;
    {
      bitdial::nn::ForwardScope scope(session);
      loss = torch::nn::functional::cross_entropy(net.forward(images_of(*batch, loader.dataset().shape())),
                                                  labels_of(*batch));
    }
    loss.backward();
    optimizer.step();
    session.end_step(step, {.loss = loss.item<double>(), .learning_rate = 0.05});
    if ((step.step + 1) % 20 == 0 || step.step + 1 == steps) {
      const auto bits = session.summary();
      fmt::print("step {:4}  loss {:.4f}  mean bits of W/A/dY {:.1f}/{:.1f}/{:.1f}\n", step.step + 1,
                 loss.item<double>(), bits.bits_w, bits.bits_a, bits.bits_dy);
    }
  }
}

template <typename Network>
double accuracy(Network& net, bitdial::nn::Session& session) {
  auto loader = make_loader(bitdial::data::Split::kTest);
  torch::NoGradGuard no_grad;
  net.eval();
  loader.start_epoch(0);
  int64_t correct = 0;
  while (auto batch = loader.next()) {
    bitdial::nn::ForwardScope scope(session);
    const auto guess = net.forward(images_of(*batch, loader.dataset().shape())).argmax(1);
    correct += (guess == labels_of(*batch)).sum().template item<int64_t>();
  }
  return double(correct) / double(loader.dataset().size());
}

template <typename Network>
void run(const std::string& policy, int64_t steps) {
  torch::manual_seed(1);
  Network net;
  auto session = bind(net, bitdial::policies::make(policy));
  train(net, session, steps);
  fmt::print("test accuracy {:.1f} %\n", 100.0 * accuracy(net, session));
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string way = argc > 1 ? argv[1] : "layers";
  const std::string policy = argc > 2 ? argv[2] : "apt";
  const int64_t steps = argc > 3 ? std::atoll(argv[3]) : 300;
  bitdial::require((way == "layers" || way == "convert") && steps > 0, "own_network",
                   "usage: own_network [layers|convert] [POLICY] [STEPS]");
  way == "layers" ? run<LayersNet>(policy, steps) : run<PlainNet>(policy, steps);
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 1;
}
