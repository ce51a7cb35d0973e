// Trains a layer of the installed library in int8 until it has learnt a linear map.
#include <bitdial/nn/linear.h>
#include <bitdial/nn/session.h>
#include <bitdial/policies/registry.h>
#include <torch/torch.h>

#include <iostream>

int main() {
  torch::manual_seed(3);
  torch::nn::Sequential net(bitdial::nn::Linear(16, 4));
  bitdial::nn::Session session(bitdial::policies::make("static:8/8/8"));
  session.attach(*net);
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1));
  const auto x = torch::randn({64, 16});
  const auto target = torch::matmul(x, torch::randn({16, 4}));
  double first = 0.0;
  double last = 0.0;
  for (bitdial::StepInfo step; step.step < 100; ++step.step) {
    session.begin_step(step);
    optimizer.zero_grad();
    torch::Tensor loss;
    {
      bitdial::nn::ForwardScope scope(session);
      loss = torch::mse_loss(net->forward(x), target);
    }
    loss.backward();
    optimizer.step();
    last = loss.item<double>();
    first = step.step == 0 ? last : first;
    session.end_step(step, {.loss = last, .learning_rate = 0.1});
  }
  const auto bits = session.summary();
  std::cout << "loss " << first << " -> " << last << ", " << bits.bits_w << " bits\n";
  return last < 0.1 * first && bits.bits_w == 8.0 && bits.int8_layers == 1.0 ? 0 : 1;
}
