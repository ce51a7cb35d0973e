// Policies of papers in a layer: what only a session and a policy together decide.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "bitdial/nn/conv2d.h"
#include "bitdial/nn/session.h"
#include "bitdial/policies/registry.h"

namespace bitdial::nn {
namespace {

Conv2d paper_conv() {
  torch::manual_seed(3);
  return Conv2d(torch::nn::Conv2dOptions(4, 4, 3).padding(1).bias(false));
}

// specs/sbm.md: after k updates with a constant v the running value is v (1 - m^k).
TEST(PaperPolicies, RunningRangeStartsAtZero) {
  for (const auto& [spec, m] : std::vector<std::pair<std::string, double>>{
           {"static:shared:8/8", 0.9}, {"cpt", 0.9}, {"pfq", 0.9}, {"random", 0.9}, {"sbm", 0.1}}) {
    Conv2d conv = paper_conv();
    Session session(policies::make(spec));
    session.attach(*conv);
    // Every sample has the same extremes, so that SBM's mean over samples is the extreme, too.
    torch::Tensor x = torch::rand({3, 4, 5, 5}).mul(0.1);
    x.select(1, 0).select(1, 0).select(1, 0).fill_(-1.5);
    x.select(1, 1).select(1, 2).select(1, 3).fill_(2.0);
    for (int k = 1; k <= 12; ++k) {
      session.begin_step({.step = k, .total_steps = 64000});
      conv->forward(x);
      const auto running = session.state().at("layers").at(0).at("tensors").at("x").at("running");
      EXPECT_NEAR(running.at(0).get<double>(), -1.5 * (1.0 - std::pow(m, k)), 1e-6) << spec << " " << k;
      EXPECT_NEAR(running.at(1).get<double>(), 2.0 * (1.0 - std::pow(m, k)), 1e-6) << spec << " " << k;
    }
  }
}

struct Gradients {
  torch::Tensor y, dw, dx;
};

Gradients sbm_gradients(const nlohmann::json& options) {
  Conv2d conv = paper_conv();
  SessionOptions session_options;
  session_options.arithmetic = Arithmetic::kSimulated;
  Session session(policies::make("sbm", options), session_options);
  session.attach(*conv);
  torch::manual_seed(5);
  const torch::Tensor x = torch::randn({3, 4, 6, 6}).requires_grad_(true);
  session.begin_step({.step = 0});
  Gradients result;
  {
    const ForwardScope scope(session);
    result.y = conv->forward(x);
  }
  result.y.backward(torch::randn({3, 4, 6, 6}));
  result.dw = conv->weight.grad();
  result.dx = x.grad();
  return result;
}

// specs/sbm.md: the forward value is that of the plain quantised layer, dW comes from the unquantised dY, dX
// from the quantised one.
TEST(PaperPolicies, SbmBifurcatesTheGradient) {
  const Gradients plain = sbm_gradients({{"biprecision", "off"}});
  const Gradients split = sbm_gradients({});
  EXPECT_TRUE(torch::equal(plain.y, split.y));
  EXPECT_TRUE(torch::equal(plain.dx, split.dx));
  EXPECT_FALSE(torch::equal(plain.dw, split.dw));
  // With 16 bits dW is nearly that of float32, with 8 it is not.
  const Gradients wide = sbm_gradients({{"gradient_wtgrad", "int16"}});
  EXPECT_TRUE(torch::equal(wide.dx, split.dx));
  const auto distance = [&](const torch::Tensor& dw) {
    return ((dw - split.dw).norm() / split.dw.norm()).item<double>();
  };
  EXPECT_LT(distance(wide.dw), 1e-3);
  EXPECT_GT(distance(plain.dw), 3e-3);
}

TEST(PaperPolicies, FinalPrecisionIsEvaluatedOnRequest) {
  Conv2d conv = paper_conv();
  Session session(policies::make("cpt:2-8/8"));
  session.attach(*conv);
  torch::manual_seed(5);
  const torch::Tensor x = torch::randn({3, 4, 6, 6});
  session.begin_step({.step = 0, .total_steps = 64000});
  conv->forward(x);
  EXPECT_TRUE(session.has_other_final_precision());
  conv->eval();
  const torch::NoGradGuard no_grad;
  const torch::Tensor coarse = conv->forward(x);
  session.set_evaluation_precision(EvaluationPrecision::kFinal);
  const torch::Tensor fine = conv->forward(x);
  EXPECT_FALSE(torch::equal(coarse, fine));
  session.set_evaluation_precision(EvaluationPrecision::kCurrent);
  EXPECT_TRUE(torch::equal(conv->forward(x), coarse));
  session.begin_step({.step = 1999, .total_steps = 64000});
  EXPECT_FALSE(session.has_other_final_precision()) << "the last iteration of a cycle has Bmax";
  EXPECT_TRUE(torch::equal(conv->forward(x), fine));
}

}  // namespace
}  // namespace bitdial::nn
