#include "bitdial/policies/apt.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <random>

#include "bitdial/core/error.h"
#include "bitdial/policies/registry.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

std::vector<LayerInfo> two_layers() {
  return {{.name = "conv1", .kind = LayerKind::kConv2d, .is_first = true},
          {.name = "fc", .kind = LayerKind::kLinear, .is_last = true}};
}

std::shared_ptr<AptPolicy> make_apt(const json& options = json::object()) {
  auto policy = std::dynamic_pointer_cast<AptPolicy>(make("apt", options));
  policy->attach(two_layers());
  return policy;
}

StepInfo at(int64_t step, int64_t steps_per_epoch = 100, int micro_batch = 0) {
  return {.step = step,
          .epoch = step / steps_per_epoch,
          .steps_per_epoch = steps_per_epoch,
          .total_steps = 100 * steps_per_epoch,
          .micro_batch = micro_batch};
}

constexpr TensorId kX{0, TensorRole::kInput};
constexpr TensorId kW{0, TensorRole::kWeight};
constexpr TensorId kDy{0, TensorRole::kGradBprop};
constexpr TensorId kDyWtgrad{0, TensorRole::kGradWtgrad};

double first_diff(const TensorPlan& plan, int n) {
  return plan.evidence.at("diff").at(std::to_string(n)).get<double>();
}

// specs/apt.md, test vectors.
TEST(Apt, Vector1) {
  auto apt = make_apt();
  VectorProbe x({1.0F, -0.5F, 0.25F, 0.001F});
  const TensorPlan plan = apt->plan(kX, at(0), x);
  EXPECT_EQ(plan.format.word_length, 8);
  EXPECT_EQ(plan.format.rule, ScaleRule::kPowerOfTwo);
  EXPECT_EQ(plan.format.rounding, Rounding::kNearestEven);
  EXPECT_EQ(plan.params->scale, 0x1p-6F);
  EXPECT_EQ(x.codes(8, std::ldexp(1.0F, apt->tensor(kX).s)), (std::vector<double>{64, -32, 16, 0}));
  EXPECT_NEAR(first_diff(plan, 8), 0.00082369, 5e-9);
}

TEST(Apt, Vector2WidensAndLowersTheMovingAverage) {
  for (const char* M0 : {"100", "-7.25"}) {
    auto apt = make_apt({{"M0", std::stod(M0)}});
    std::vector<float> values(101, 0.005F);
    values[0] = 1.0F;
    VectorProbe x(values);
    const TensorPlan plan = apt->plan(kX, at(0), x);
    // 0.005 is not a float32: the vector's digits hold to 2e-8.
    EXPECT_NEAR(first_diff(plan, 8), 0.41503750, 2e-8);
    EXPECT_NEAR(first_diff(plan, 16), 0.00046955, 2e-8);
    EXPECT_EQ(plan.format.word_length, 16);
    EXPECT_EQ(plan.params->scale, 0x1p-14F);
    const std::vector<double> q = x.codes(16, 0x1p-14F);
    EXPECT_EQ(q[0], 16384);
    EXPECT_EQ(q[1], 82);
    // M falls by 8 before it takes s in.
    EXPECT_DOUBLE_EQ(plan.evidence.at("M").get<double>(), std::stod(M0) - 8.0);
    EXPECT_DOUBLE_EQ(apt->tensor(kX).M, 0.04 * -14 + 0.96 * (std::stod(M0) - 8.0));
    EXPECT_NE(plan.reason.find("widened from 8 to 16 bits"), std::string::npos) << plan.reason;
  }
}

TEST(Apt, Vector3RulesDiffer) {
  VectorProbe x({1.99F, 0.5F});
  auto ceil_rule = make_apt();
  EXPECT_EQ(ceil_rule->plan(kX, at(0), x).params->scale, 0x1p-5F);
  auto vendor = make_apt({{"exponent_rule", "vendor"}});
  const TensorPlan plan = vendor->plan(kX, at(0), x);
  EXPECT_EQ(plan.params->scale, 0x1p-6F);
  EXPECT_EQ(plan.format.rule, ScaleRule::kPowerOfTwoVendor);
  EXPECT_EQ(x.codes(8, 0x1p-6F)[0], 127);
  VectorProbe clipped({1.9922F});
  EXPECT_EQ(clipped.codes(8, 0x1p-6F)[0], 127);
}

// The step of symmetric formats is up to half as wide: what the power of two loses it still sees.
TEST(Apt, ErrorGridOfSymmetricFormats) {
  std::vector<float> values(101, 0.0078F);
  values[0] = 1.01F;
  VectorProbe own(values), symmetric(values);
  const TensorPlan wide = make_apt()->plan(kX, at(0), own);
  EXPECT_NEAR(first_diff(wide, 8), std::log2(1.0 + (0.78 + 1.01 - 1.015625) / 1.79), 1e-6);
  EXPECT_EQ(wide.format.word_length, 16);
  const TensorPlan narrow = make_apt({{"error_grid", "symmetric"}})->plan(kX, at(0), symmetric);
  EXPECT_NEAR(first_diff(narrow, 8), std::log2(1.0 + (100 * (1.01 / 127) - 0.78) / 1.79), 1e-6);
  EXPECT_EQ(narrow.format.word_length, 8);
  EXPECT_EQ(narrow.params->scale, 0x1p-6F);
}

TEST(Apt, IntervalTable) {
  const auto apt = make_apt();
  const int64_t E = 10000;
  const std::vector<std::pair<double, int64_t>> by_exponent{{0.5, 3}, {0.1, 23}, {0.03, 81}, {0.01, 248}};
  for (const auto& [distance, expected] : by_exponent)
    EXPECT_EQ(apt->interval(0.04 * distance, 0.0, E), expected);
  const std::vector<std::pair<double, int64_t>> by_diff{{0.03, 1},   {0.02, 1},    {0.01, 8},
                                                        {0.005, 38}, {0.003, 109}, {0.001, 998}};
  for (const auto& [diff, expected] : by_diff)
    EXPECT_EQ(apt->interval(0.0, 100.0 * diff * diff, E), expected);
  EXPECT_EQ(apt->interval(0.0, 0.0, E), E);
  EXPECT_EQ(apt->interval(1e-300, 0.0, E), E);
  EXPECT_EQ(apt->interval(1e300, 0.0, E), 1);
  // 0.1 / 0.0012 - 2 = 81.33; 0.1 / 0.0026 - 2 = 36.46; 0.1 / 0.00377 - 2 = 24.53.
  const auto truncating = make_apt({{"interval_rounding", "trunc"}});
  EXPECT_EQ(apt->interval(0.00377, 0.0, E), 25);
  EXPECT_EQ(truncating->interval(0.00377, 0.0, E), 24);
}

TEST(Apt, DiffDefinition) {
  EXPECT_EQ(AptPolicy::quantization_error(0.0, 0.0), 0.0);
  EXPECT_DOUBLE_EQ(AptPolicy::quantization_error(2.0, 1.0), std::log2(1.5));
  EXPECT_DOUBLE_EQ(AptPolicy::quantization_error(2.0, 3.0), std::log2(1.5));
}

// M_t = alpha s_t + (1 - alpha) M_(t-1), on every step, with the stored s on steps that do not measure.
TEST(Apt, MovingAverageRecurrence) {
  auto apt = make_apt();
  VectorProbe x({1.0F, -0.5F, 0.25F, 0.001F});
  double M = 100.0;
  for (int t = 0; t < 400; ++t) {
    apt->plan(kX, at(t, 10000), x);
    M = 0.04 * -6 + 0.96 * M;
    ASSERT_DOUBLE_EQ(apt->tensor(kX).M, M) << t;
  }
}

// With M0 = 100 the interval stays 1 for well over 100 steps, whatever quantify_rate is (specs/apt.md).
TEST(Apt, ColdStartOfTheMovingAverage) {
  auto apt = make_apt({{"quantify_rate", 0.0}});
  VectorProbe x({1.0F, -0.5F, 0.25F, 0.125F});
  int t = 0;
  for (; t < 1000; ++t) {
    apt->plan(kX, at(t, 10000), x);
    if (apt->tensor(kX).next > t + 1) break;
  }
  EXPECT_GT(t, 100);
  EXPECT_LT(t, 172);

  auto first_s = make_apt({{"quantify_rate", 0.0}, {"M0", "first_s"}});
  first_s->plan(kX, at(0, 10000), x);
  EXPECT_EQ(first_s->tensor(kX).M, -6.0);
  EXPECT_EQ(first_s->tensor(kX).next, 10000);  // Diff and |s - M| are 0
}

TEST(Apt, FormOfI1) {
  // A step of one in s against M = first s: I1 = alpha, or alpha (1 - alpha).
  for (const char* form : {"prev", "new"}) {
    auto apt = make_apt({{"I1", form}, {"M0", "first_s"}, {"quantify_rate", 1.0}, {"log_all", true}});
    VectorProbe one({1.0F}), two({2.0F});
    apt->plan(kX, at(0), one);
    const TensorPlan plan = apt->plan(kX, at(1), two);
    EXPECT_DOUBLE_EQ(plan.evidence.at("I1").get<double>(), form == std::string("prev") ? 0.04 : 0.04 * 0.96);
  }
}

// Every step at first; then the self-set interval; from t = E on once per epoch.
TEST(Apt, Phases) {
  auto apt = make_apt({{"quantify_rate", 0.05}, {"M0", "first_s"}});
  const int64_t E = 200;
  std::vector<int64_t> measured;
  // Diff of these values is 0.0044 at 8 bits: I2 = 0.00194, an interval of 50 steps.
  VectorProbe x({1.0F, 0.5F, 0.0065F});
  for (int64_t t = 0; t < 5 * E; ++t) {
    const int before = x.measures;
    apt->plan(kX, at(t, E), x);
    if (x.measures != before) measured.push_back(t);
  }
  const double diff = AptPolicy::quantization_error(x.abs_sum(), x.quantized_abs_sum(8, 0x1p-6F));
  const int64_t itv = apt->interval(0.0, 100.0 * diff * diff, E);
  ASSERT_GT(itv, 5);
  ASSERT_LT(itv, 100);
  std::vector<int64_t> expected;
  for (int64_t t = 0; t < 10; ++t) expected.push_back(t);  // 0.05 E
  int64_t t = 10;
  for (; t < E; t += itv) expected.push_back(t);
  for (; t < 5 * E; t += E) expected.push_back(t);
  EXPECT_EQ(measured, expected);
}

TEST(Apt, StepsPerEpochOption) {
  auto apt = make_apt({{"steps_per_epoch", 50}, {"M0", "first_s"}, {"quantify_rate", 0.0}});
  VectorProbe x({1.0F});
  apt->plan(kX, at(0, 1000), x);
  EXPECT_EQ(apt->tensor(kX).next, 50);
}

TEST(Apt, ThresholdDependsOnLayerKind) {
  // Diff 0.0246 at 8 bits: between T of linear and of convolutional layers.
  std::vector<float> values{1.0F, 0.25F, 0.25F, 0.25F, 0.25F};
  values.resize(15, 0.0035F);
  VectorProbe x(values);
  auto apt = make_apt();
  const TensorPlan conv = apt->plan(kX, at(0), x);
  const double diff = first_diff(conv, 8);
  ASSERT_GT(diff, 0.011);
  ASSERT_LT(diff, 0.029);
  EXPECT_EQ(conv.format.word_length, 8);
  EXPECT_EQ(apt->plan({1, TensorRole::kInput}, at(0), x).format.word_length, 16);
}

TEST(Apt, WidthModesAndLimits) {
  std::vector<float> tail(101, 0.005F);
  tail[0] = 1.0F;
  VectorProbe heavy(tail), light({1.0F, 0.5F});
  const json every_step{{"quantify_rate", 1.0}};

  auto monotone = make_apt(every_step);
  EXPECT_EQ(monotone->plan(kX, at(0), heavy).format.word_length, 16);
  EXPECT_EQ(monotone->plan(kX, at(1), light).format.word_length, 16);
  EXPECT_EQ(monotone->tensor(kX).s, -14);

  auto restart = make_apt({{"quantify_rate", 1.0}, {"width_mode", "restart"}});
  restart->plan(kX, at(0), heavy);
  const double M = restart->tensor(kX).M;
  const TensorPlan back = restart->plan(kX, at(1), light);
  EXPECT_EQ(back.format.word_length, 8);
  EXPECT_DOUBLE_EQ(restart->tensor(kX).M, 0.04 * -6 + 0.96 * (M + 8.0));
  EXPECT_NE(back.reason.find("narrowed from 16 to 8 bits"), std::string::npos) << back.reason;

  auto narrow = make_apt({{"n_max", 8}});
  EXPECT_EQ(narrow->plan(kX, at(0), heavy).format.word_length, 8);

  // Values too small for any width: stops at n_max, which need not be a multiple of the increment.
  std::vector<float> tiny(1000, 1e-12F);
  tiny[0] = 1e-3F;
  VectorProbe extreme(tiny);
  EXPECT_EQ(make_apt({{"T", 0.0}})->plan(kX, at(0), extreme).format.word_length, 24);
  EXPECT_EQ(make_apt({{"T", 0.0}, {"n_max", 31}})->plan(kX, at(0), extreme).format.word_length, 31);
}

TEST(Apt, AllZeroTensor) {
  auto apt = make_apt();
  VectorProbe zeros(std::vector<float>(100, 0.0F));
  const TensorPlan plan = apt->plan(kDy, at(0), zeros);
  EXPECT_EQ(plan.format.word_length, 8);
  EXPECT_EQ(first_diff(plan, 8), 0.0);
  EXPECT_EQ(plan.params->scale, 1.0F);
}

TEST(Apt, NonFiniteRangeNamesLayerAndStep) {
  auto apt = make_apt();
  VectorProbe bad({1.0F, std::numeric_limits<float>::infinity()});
  try {
    apt->plan(kDy, at(17), bad);
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("conv1"), std::string::npos) << text;
    EXPECT_NE(text.find("dy_bprop"), std::string::npos) << text;
    EXPECT_NE(text.find("17"), std::string::npos) << text;
  }
}

// One dY feeds both gradient products: measured once, the same plan for both.
TEST(Apt, OneGradientFeedsBothProducts) {
  auto apt = make_apt({{"quantify_rate", 1.0}});
  VectorProbe dy({0.25F, -0.125F});
  const TensorPlan bprop = apt->plan(kDy, at(0), dy);
  const double M = apt->tensor(kDy).M;
  const TensorPlan wtgrad = apt->plan(kDyWtgrad, at(0), dy);
  EXPECT_EQ(dy.measures, 1);
  EXPECT_EQ(apt->tensor(kDy).M, M);
  EXPECT_EQ(bprop.format, wtgrad.format);
  EXPECT_EQ(bprop.params, wtgrad.params);
  EXPECT_FALSE(bprop.reason.empty());
  EXPECT_TRUE(wtgrad.reason.empty());

  // A first layer has no BPROP: its WTGRAD measures by itself.
  for (int t = 1; t < 4; ++t) apt->plan(kDyWtgrad, at(t), dy);
  EXPECT_EQ(dy.measures, 4);

  // X of WTGRAD is the X of FPROP.
  VectorProbe x({1.0F});
  apt->plan(kX, at(0), x);
  apt->plan({0, TensorRole::kInputWtgrad}, at(0), x);
  EXPECT_EQ(x.measures, 1);
}

// Micro-batches share the step: one measurement, one update of M.
TEST(Apt, GradientAccumulation) {
  auto apt = make_apt({{"quantify_rate", 1.0}});
  VectorProbe x({1.0F});
  for (int micro_batch = 0; micro_batch < 3; ++micro_batch) apt->plan(kX, at(0, 100, micro_batch), x);
  EXPECT_EQ(x.measures, 1);
  EXPECT_DOUBLE_EQ(apt->tensor(kX).M, 0.04 * -6 + 0.96 * 100.0);
  apt->plan(kX, at(1), x);
  EXPECT_EQ(x.measures, 2);
}

TEST(Apt, EvaluationChangesNothing) {
  auto apt = make_apt({{"quantify_rate", 1.0}});
  VectorProbe x({1.0F}), larger({64.0F});
  apt->plan(kX, at(0), x);
  const json before = apt->state();
  StepInfo evaluation = at(1);
  evaluation.training = false;
  const TensorPlan plan = apt->plan(kX, evaluation, larger);
  EXPECT_EQ(plan.params->scale, 0x1p-6F);
  EXPECT_TRUE(plan.reason.empty());
  EXPECT_EQ(apt->state(), before);
  EXPECT_EQ(apt->evaluation_format(kX), plan.format);
}

TEST(Apt, SaturationForcesAMeasurement) {
  const json slow{{"M0", "first_s"}, {"quantify_rate", 0.0}};
  for (const bool on : {true, false}) {
    json options = slow;
    options["saturation_guard"] = on ? "on" : "off";
    auto apt = make_apt(options);
    VectorProbe x({1.0F}), grown({8.0F});
    apt->plan(kX, at(0), x);
    EXPECT_EQ(apt->tensor(kX).next, 100);
    // Saturation on the measuring step itself does not count: measuring again gives the same step.
    apt->observe(kX, at(0), {.count = 100, .saturated = 50});
    apt->plan(kX, at(1), x);
    EXPECT_EQ(x.measures, 1);
    apt->observe(kX, at(1), {.count = 100000, .saturated = 100});  // 1e-3 exactly: not above
    apt->plan(kX, at(2), grown);
    EXPECT_EQ(grown.measures, 0);
    apt->observe(kX, at(2), {.count = 100000, .saturated = 101});
    const TensorPlan plan = apt->plan(kX, at(3), grown);
    EXPECT_EQ(grown.measures, on ? 1 : 0);
    if (!on) continue;
    EXPECT_EQ(plan.params->scale, 0x1p-3F);
    EXPECT_EQ(plan.evidence.at("cause"), "saturation");
    EXPECT_NE(plan.reason.find("saturated"), std::string::npos) << plan.reason;
    EXPECT_EQ(apt->tensor(kX).saturated, 0.0) << "one measurement answers one alarm";
  }
}

// What the paper's premise is, simulated: N = 2^20 as in specs/apt.md.
TEST(Apt, ChosenWidthFollowsTheTail) {
  struct Case {
    const char* name;
    std::function<double(std::mt19937_64&)> draw;
    int width;
    double diff_8, tolerance;
  };
  std::normal_distribution<double> normal;
  std::exponential_distribution<double> exponential;
  std::student_t_distribution<double> student(3.0);
  const auto sign = [](std::mt19937_64& engine) { return (engine() & 1U) ? 1.0 : -1.0; };
  const std::vector<Case> cases{
      {"Gaussian", [&](auto& engine) { return normal(engine); }, 8, 0.0002, 0.0003},
      {"ReLU of Gaussian", [&](auto& engine) { return std::max(normal(engine), 0.0); }, 8, 0.0002, 0.0003},
      {"Laplace", [&](auto& engine) { return sign(engine) * exponential(engine); }, 8, 0.001, 0.001},
      {"Student-t", [&](auto& engine) { return student(engine); }, 16, 0.534, 0.4},
  };
  for (const Case& one : cases) {
    std::mt19937_64 engine(20200614);
    std::vector<float> values(1 << 20);
    for (float& value : values) value = static_cast<float>(one.draw(engine));
    VectorProbe probe(std::move(values));
    const TensorPlan plan = make_apt()->plan(kDy, at(0), probe);
    EXPECT_EQ(plan.format.word_length, one.width) << one.name;
    EXPECT_NEAR(first_diff(plan, 8), one.diff_8, one.tolerance) << one.name;
  }
}

// A stream of tensors with drifting range and tail, recorded once.
std::vector<std::vector<float>> recorded_stream(int steps) {
  std::mt19937_64 engine(7);
  std::student_t_distribution<double> student(3.0);
  std::vector<std::vector<float>> stream;
  for (int t = 0; t < steps; ++t) {
    std::vector<float> values(64);
    const double scale = std::exp2(-6.0 + 3.0 * std::sin(t * 0.02));
    for (float& value : values) value = static_cast<float>(scale * std::pow(student(engine), 3.0));
    stream.push_back(std::move(values));
  }
  return stream;
}

std::vector<TensorPlan> replay(AptPolicy& apt, const std::vector<std::vector<float>>& stream, int begin,
                               int end) {
  std::vector<TensorPlan> plans;
  for (int t = begin; t < end; ++t) {
    for (const TensorId id : {kW, kX, kDy, kDyWtgrad}) {
      VectorProbe probe(stream[static_cast<size_t>(t)]);
      plans.push_back(apt.plan(id, at(t, 60), probe));
      const double half = std::ldexp(1.0, plans.back().format.word_length - 1);
      QuantizeStatistics counted{.count = 64};
      for (const double q :
           probe.codes(plans.back().format.word_length, std::ldexp(1.0F, apt.tensor(id).s))) {
        if (q == -half || q == half - 1.0) ++counted.saturated;
      }
      apt.observe(id, at(t, 60), counted);
    }
  }
  return plans;
}

TEST(Apt, SavedStateDecidesAlike) {
  const auto stream = recorded_stream(300);
  for (const json& options :
       {json::object(), json{{"M0", "first_s"}, {"width_mode", "restart"}, {"I1", "new"}}}) {
    auto whole = make_apt(options);
    const std::vector<TensorPlan> expected = replay(*whole, stream, 0, 300);
    for (const int cut : {1, 37, 60, 151}) {
      auto first = make_apt(options);
      replay(*first, stream, 0, cut);
      const std::string saved = first->state().dump();
      auto second = make_apt(options);
      second->load_state(json::parse(saved));
      EXPECT_EQ(second->state().dump(), saved);
      const std::vector<TensorPlan> rest = replay(*second, stream, cut, 300);
      for (size_t i = 0; i < rest.size(); ++i) {
        const TensorPlan& plan = expected[static_cast<size_t>(cut) * 4 + i];
        ASSERT_EQ(rest[i].format, plan.format);
        ASSERT_EQ(rest[i].params, plan.params);
        ASSERT_EQ(rest[i].reason, plan.reason);
        ASSERT_EQ(rest[i].evidence, plan.evidence);
      }
      EXPECT_EQ(second->state(), whole->state());
    }
  }
}

TEST(Apt, InvariantsOverAStream) {
  const auto stream = recorded_stream(300);
  auto apt = make_apt();
  int width = 8;
  for (int t = 0; t < 300; ++t) {
    VectorProbe probe(stream[static_cast<size_t>(t)]);
    const TensorPlan plan = apt->plan(kDy, at(t, 60), probe);
    EXPECT_GE(plan.format.word_length, width);
    width = plan.format.word_length;
    EXPECT_TRUE(width == 8 || width == 16 || width == 24);
    const int64_t interval = apt->tensor(kDy).next - t;
    if (apt->tensor(kDy).fresh) {
      EXPECT_GE(interval, 1);
      EXPECT_LE(interval, 60);
    }
  }
  EXPECT_GT(width, 8) << "the stream has a heavy tail";
}

TEST(Apt, StateOfAnotherNetworkIsRefused) {
  auto apt = make_apt();
  json state = apt->state();
  state["layers"].erase(1);
  EXPECT_THROW(apt->load_state(state), Error);
  state = apt->state();
  state["layers"][0]["name"] = "stem";
  try {
    apt->load_state(state);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("stem"), std::string::npos);
  }
}

// Every parameter of the table in specs/apt.md, with its default.
TEST(Apt, DefaultsOfTheSpecification) {
  const json expected{{"alpha", 0.04},
                      {"beta", 0.1},
                      {"gamma", 2.0},
                      {"delta", 100.0},
                      {"T", 0.03},
                      {"T_linear", 0.01},
                      {"n0", 8},
                      {"n_max", 24},
                      {"increment", 8},
                      {"quantify_rate", 0.01},
                      {"steps_per_epoch", "run"},
                      {"M0", 100.0},
                      {"exponent_rule", "ceil"},
                      {"error_grid", "own"},
                      {"width_mode", "monotone"},
                      {"I1", "prev"},
                      {"interval_rounding", "round"},
                      {"saturation_guard", "on"},
                      {"saturation_fraction", 1e-3},
                      {"log_all", false}};
  EXPECT_EQ(make("apt")->options(), expected);
}

TEST(Apt, OptionsHaveTheVendorsLimits) {
  for (const json& bad :
       {json{{"alpha", 0.5}}, json{{"beta", -1}}, json{{"gamma", 101}}, json{{"delta", 1001}},
        json{{"T", 0.6}}, json{{"n0", 16}, {"n_max", 8}}, json{{"M0", "last_s"}},
        json{{"exponent_rule", "floor"}}, json{{"alpha", "0.04"}}, json{{"log_all", 1}}}) {
    EXPECT_THROW(make("apt", bad), Error) << bad;
  }
}

}  // namespace
}  // namespace bitdial::policies
