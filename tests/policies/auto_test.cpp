#include "bitdial/policies/auto.h"

#include <gtest/gtest.h>

#include <map>
#include <tuple>

#include "bitdial/core/error.h"
#include "bitdial/policies/registry.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

/// Times that a test writes down; conversions are free unless it says otherwise.
class FakeTimings : public Timings {
 public:
  double gemm(int layer, Gemm gemm, GemmArithmetic arithmetic) override {
    const auto own = single.find({layer, gemm, arithmetic});
    return own != single.end() ? own->second : general.at(arithmetic);
  }
  double convert(int, TensorRole role, bool to_bfloat16) override {
    ++converted[{role, to_bfloat16}];
    return conversion;
  }

  std::map<GemmArithmetic, double> general{{GemmArithmetic::kInt8, 1.0},     {GemmArithmetic::kInt8x16, 2.0},
                                           {GemmArithmetic::kInt16x8, 2.0},  {GemmArithmetic::kInt16, 4.0},
                                           {GemmArithmetic::kBFloat16, 3.0}, {GemmArithmetic::kFloat32, 6.0}};
  std::map<std::tuple<int, Gemm, GemmArithmetic>, double> single;
  std::map<std::pair<TensorRole, bool>, int> converted;
  double conversion = 0.0;
};

using Gemms = std::array<GemmArithmetic, kGemms>;

TEST(Fastest, NarrowIntegersWhereTheySuffice) {
  FakeTimings timings;
  EXPECT_EQ(fastest(timings, 0, {}).gemms,
            (Gemms{GemmArithmetic::kInt8, GemmArithmetic::kInt8, GemmArithmetic::kInt8}));
  EXPECT_EQ(fastest(timings, 0, {.dy = 16}).gemms,
            (Gemms{GemmArithmetic::kInt8, GemmArithmetic::kInt16x8, GemmArithmetic::kInt8x16}));
  EXPECT_EQ(fastest(timings, 0, {.w = 16, .x = 16, .dy = 16}).gemms,
            (Gemms{GemmArithmetic::kBFloat16, GemmArithmetic::kBFloat16, GemmArithmetic::kBFloat16}))
      << "int16 takes longer than bfloat16";
  EXPECT_EQ(fastest(timings, 0, {.dy = 24}).gemms,
            (Gemms{GemmArithmetic::kInt8, GemmArithmetic::kBFloat16, GemmArithmetic::kBFloat16}));
  EXPECT_EQ(fastest(timings, 0, {.dy = 24}, {.bfloat16 = false}).gemms,
            (Gemms{GemmArithmetic::kInt8, GemmArithmetic::kFloat32, GemmArithmetic::kFloat32}));
}

TEST(Fastest, OneGemmMayRunInFloat) {
  FakeTimings timings;
  timings.single[{3, Gemm::kWtgrad, GemmArithmetic::kFloat32}] = 0.5;
  EXPECT_EQ(fastest(timings, 3, {}).gemms,
            (Gemms{GemmArithmetic::kInt8, GemmArithmetic::kInt8, GemmArithmetic::kFloat32}));
  EXPECT_DOUBLE_EQ(fastest(timings, 3, {}).seconds, 2.5);
  EXPECT_DOUBLE_EQ(fastest(timings, 2, {}).seconds, 3.0) << "another layer";
}

// Making int8 operands costs time, which float32 does not pay.
TEST(Fastest, CountsThePassesThatMakeOperands) {
  FakeTimings timings;
  timings.conversion = 6.0;
  const Choice choice = fastest(timings, 0, {}, {.bfloat16 = false});
  EXPECT_EQ(choice.gemms,
            (Gemms{GemmArithmetic::kFloat32, GemmArithmetic::kFloat32, GemmArithmetic::kFloat32}));
  EXPECT_DOUBLE_EQ(choice.seconds, 18.0);  // int8: 3 + 3 * 6
  EXPECT_DOUBLE_EQ(uniform_seconds(timings, 0, GemmArithmetic::kInt8), 21.0);
  EXPECT_DOUBLE_EQ(uniform_seconds(timings, 0, GemmArithmetic::kInt8, {.has_bprop = false}), 20.0);
  EXPECT_DOUBLE_EQ(uniform_seconds(timings, 0, GemmArithmetic::kBFloat16), 9.0 + 6 * 6.0) << "results, too";
  // Between bfloat16 tensors float32 converts X, dY, Y and dX, but neither W nor dW.
  EXPECT_DOUBLE_EQ(uniform_seconds(timings, 0, GemmArithmetic::kFloat32, {.between = Between::kBFloat16}),
                   18.0 + 4 * 6.0);
}

TEST(Fastest, IntegersStayUnlessAnotherIsClearlyFaster) {
  FakeTimings timings;
  timings.general[GemmArithmetic::kFloat32] = 0.92;
  EXPECT_EQ(fastest(timings, 0, {}).gemms[0], GemmArithmetic::kInt8);
  timings.general[GemmArithmetic::kFloat32] = 0.88;
  EXPECT_EQ(fastest(timings, 0, {}).gemms[0], GemmArithmetic::kFloat32);
}

StepInfo step_at(int64_t step) { return {.step = step, .steps_per_epoch = 100, .total_steps = 1000}; }

std::shared_ptr<AutoPolicy> make_auto(std::shared_ptr<Timings> timings,
                                      const json& options = json::object()) {
  auto policy = std::dynamic_pointer_cast<AutoPolicy>(make("auto", options));
  policy->attach(std::vector<LayerInfo>{{.name = "conv1", .is_first = true},
                                        {.name = "conv2"},
                                        {.name = "fc", .kind = LayerKind::kLinear, .is_last = true}});
  policy->set_timings(std::move(timings));
  return policy;
}

// What a layer's five operands are asked for in a step.
// The roles of operands come first.
constexpr size_t kOperands = static_cast<size_t>(TensorRole::kOutput);

std::array<TensorPlan, kOperands> run_layer(AutoPolicy& policy, int layer, int64_t step, TensorProbe& w,
                                            TensorProbe& x, TensorProbe& dy) {
  std::array<TensorPlan, kOperands> plans;
  const auto ask = [&](TensorRole role, TensorProbe& probe) {
    plans[static_cast<size_t>(role)] = policy.plan({layer, role}, step_at(step), probe);
  };
  ask(TensorRole::kWeight, w);
  ask(TensorRole::kInput, x);
  ask(TensorRole::kInputWtgrad, x);
  if (layer > 0) ask(TensorRole::kGradBprop, dy);
  ask(TensorRole::kGradWtgrad, dy);
  return plans;
}

const Format& of(const std::array<TensorPlan, kOperands>& plans, TensorRole role) {
  return plans[static_cast<size_t>(role)].format;
}

std::vector<float> smooth() { return {1.0F, -0.5F, 0.25F, 0.75F}; }

// APT's second vector: 8 bits lose a third of the mass, 16 do not.
std::vector<float> long_tailed() {
  std::vector<float> values(101, 0.005F);
  values[0] = 1.0F;
  return values;
}

TEST(Auto, StaysOnInt8) {
  auto timings = std::make_shared<FakeTimings>();
  auto policy = make_auto(timings);
  VectorProbe w(smooth()), x(smooth()), dy(smooth());
  for (int64_t step = 0; step < 2; ++step) {
    const auto plans = run_layer(*policy, 1, step, w, x, dy);
    for (const TensorPlan& plan : plans) {
      EXPECT_EQ(plan.format.word_length, 8);
      EXPECT_EQ(plan.format.range_source, RangeSource::kPrevious);
      EXPECT_FALSE(plan.params);
      EXPECT_EQ(plan.reason.empty(), step > 0) << plan.reason;
    }
    EXPECT_EQ(of(plans, TensorRole::kWeight).rule, ScaleRule::kSymmetric);
    EXPECT_EQ(of(plans, TensorRole::kInput).rule, ScaleRule::kAffine);
    EXPECT_TRUE(of(plans, TensorRole::kInput).exact_zero);
    EXPECT_EQ(of(plans, TensorRole::kGradBprop).rounding, Rounding::kStochastic);
    policy->end_step(step_at(step), {});
  }
}

TEST(Auto, AWiderOperandCountsAtOnce) {
  auto timings = std::make_shared<FakeTimings>();
  auto policy = make_auto(timings);
  VectorProbe w(smooth()), x(smooth()), dy(long_tailed());
  auto plans = run_layer(*policy, 1, 0, w, x, dy);
  EXPECT_EQ(of(plans, TensorRole::kGradBprop).word_length, 16);
  EXPECT_EQ(of(plans, TensorRole::kGradBprop).rule, ScaleRule::kSymmetric);
  EXPECT_EQ(of(plans, TensorRole::kGradWtgrad), of(plans, TensorRole::kGradBprop));
  EXPECT_NE(plans[static_cast<size_t>(TensorRole::kGradBprop)].reason.find("widened from 8 to 16"),
            std::string::npos);
  policy->end_step(step_at(0), {});
  EXPECT_EQ(of(run_layer(*policy, 1, 1, w, x, dy), TensorRole::kGradBprop).word_length, 16) << "2 < 3";
}

TEST(Auto, MovesAGemmToBFloat16AndSaysWhy) {
  auto timings = std::make_shared<FakeTimings>();
  timings->general[GemmArithmetic::kInt8x16] = 5.0;  // WTGRAD with a wide dY
  auto policy = make_auto(timings);
  VectorProbe w(smooth()), x(smooth()), dy(long_tailed());
  run_layer(*policy, 1, 0, w, x, dy);
  policy->end_step(step_at(0), {});
  const auto plans = run_layer(*policy, 1, 1, w, x, dy);
  EXPECT_EQ(of(plans, TensorRole::kInputWtgrad), Format::bfloat16());
  EXPECT_EQ(of(plans, TensorRole::kGradWtgrad), Format::bfloat16());
  EXPECT_EQ(of(plans, TensorRole::kInput).word_length, 8);
  EXPECT_EQ(of(plans, TensorRole::kInput).rule, ScaleRule::kAffine);
  EXPECT_EQ(of(plans, TensorRole::kGradBprop).rule, ScaleRule::kSymmetric) << "BPROP stays on integers";
  const TensorPlan& plan = plans[static_cast<size_t>(TensorRole::kGradWtgrad)];
  EXPECT_NE(plan.reason.find("fastest"), std::string::npos) << plan.reason;
  EXPECT_EQ(plan.evidence.at("ms").at("WTGRAD").at("int8x16"), 5000.0);
  EXPECT_EQ(plan.evidence.at("ms").at("WTGRAD").at("bfloat16"), 3000.0);
}

// Every line of a log leads to the same format and GEMMs again, without a network or this machine's times.
TEST(Auto, DecidesAgainFromDiffsAndTimes) {
  auto timings = std::make_shared<FakeTimings>();
  timings->general[GemmArithmetic::kInt8x16] = 5.0;
  timings->conversion = 0.1;
  auto policy = make_auto(timings);
  const auto again = make_auto(nullptr);
  VectorProbe w(smooth()), x(smooth()), dy(long_tailed());
  int by_time = 0;
  for (int64_t step = 0; step < 2; ++step) {
    for (int layer = 0; layer < 3; ++layer) {
      const auto plans = run_layer(*policy, layer, step, w, x, dy);
      for (size_t role = 0; role < plans.size(); ++role) {
        if (plans[role].reason.empty()) continue;
        const json evidence = json::parse(plans[role].evidence.dump());
        const TensorId id{.layer = layer, .role = static_cast<TensorRole>(role)};
        const auto plan = again->redecide(id, step_at(step), evidence);
        ASSERT_TRUE(plan.has_value());
        EXPECT_EQ(plan->format, plans[role].format) << evidence.dump();
        for (const auto& [key, value] : plan->evidence.items()) EXPECT_EQ(value, evidence.at(key)) << key;
        by_time += evidence.contains("ms") ? 1 : 0;
      }
    }
    policy->end_step(step_at(step), {});
  }
  EXPECT_GT(by_time, 0);
  json forged = {{"bits", {8, 8, 16}},
                 {"chosen_for", {8, 8, 16}},
                 {"gemms", {{"FPROP", "int8"}, {"BPROP", "int16x8"}, {"WTGRAD", "int8x16"}}}};
  forged["ms"] = {{"FPROP", {{"int8", 1}, {"bfloat16", 3}, {"float32", 6}}},
                  {"BPROP", {{"int16x8", 2}, {"bfloat16", 3}, {"float32", 6}}},
                  {"WTGRAD", {{"int8x16", 5}, {"bfloat16", 1}, {"float32", 6}}}};
  for (const char* tensor : {"w", "x", "dy_bprop"}) forged["ms"][tensor] = {{"codes", 0}, {"bfloat16", 0}};
  const auto plan = again->redecide({.layer = 1, .role = TensorRole::kGradWtgrad}, step_at(1), forged);
  EXPECT_EQ(plan->format, Format::bfloat16());
  EXPECT_EQ(plan->evidence.at("gemms").at("WTGRAD"), "bfloat16");
  forged.at("ms").erase("x");
  EXPECT_THROW(again->redecide({.layer = 1, .role = TensorRole::kGradWtgrad}, step_at(1), forged), Error);
}

// W serves FPROP and BPROP: codes as long as one of them is on integers.
TEST(Auto, TheWeightFollowsItsReaders) {
  auto timings = std::make_shared<FakeTimings>();
  timings->single[{1, Gemm::kFprop, GemmArithmetic::kFloat32}] = 0.1;
  timings->single[{2, Gemm::kFprop, GemmArithmetic::kFloat32}] = 0.1;
  timings->single[{2, Gemm::kBprop, GemmArithmetic::kBFloat16}] = 0.1;
  timings->single[{0, Gemm::kFprop, GemmArithmetic::kBFloat16}] = 0.1;
  auto policy = make_auto(timings);
  VectorProbe w(smooth()), x(smooth()), dy(smooth());
  for (int layer = 0; layer < 3; ++layer) run_layer(*policy, layer, 0, w, x, dy);
  policy->end_step(step_at(0), {});
  EXPECT_EQ(of(run_layer(*policy, 0, 1, w, x, dy), TensorRole::kWeight), Format::bfloat16());
  auto plans = run_layer(*policy, 1, 1, w, x, dy);
  EXPECT_EQ(of(plans, TensorRole::kInput), Format::float32());
  EXPECT_EQ(of(plans, TensorRole::kWeight).word_length, 8);
  plans = run_layer(*policy, 2, 1, w, x, dy);
  EXPECT_EQ(of(plans, TensorRole::kWeight), Format::float32()) << "float32 FPROP, bfloat16 BPROP";
  EXPECT_EQ(of(plans, TensorRole::kGradBprop), Format::bfloat16());
}

TEST(Auto, WithoutTimingsItRunsOnIntegers) {
  auto policy = make_auto(nullptr);
  VectorProbe w(smooth()), x(smooth()), dy(long_tailed());
  run_layer(*policy, 1, 0, w, x, dy);
  policy->end_step(step_at(0), {});
  EXPECT_EQ(of(run_layer(*policy, 1, 1, w, x, dy), TensorRole::kGradWtgrad).word_length, 16);
}

TEST(Auto, MeasuresRarely) {
  auto policy = make_auto(std::make_shared<FakeTimings>());
  VectorProbe w(smooth()), x(smooth()), dy(smooth());
  for (int64_t step = 0; step < 100; ++step) {
    run_layer(*policy, 1, step, w, x, dy);
    policy->end_step(step_at(step), {});
  }
  const int first_epoch = w.measures;
  EXPECT_LT(first_epoch, 20);
  for (int64_t step = 100; step < 300; ++step) {
    run_layer(*policy, 1, step, w, x, dy);
    policy->end_step(step_at(step), {});
  }
  EXPECT_LE(w.measures, first_epoch + 2) << "once per epoch";
}

TEST(Auto, StateRoundTripIsExact) {
  auto timings = std::make_shared<FakeTimings>();
  timings->general[GemmArithmetic::kInt8x16] = 5.0;
  auto policy = make_auto(timings);
  VectorProbe w(smooth()), x(smooth()), dy(long_tailed());
  for (int layer = 0; layer < 3; ++layer) run_layer(*policy, layer, 0, w, x, dy);
  policy->end_step(step_at(0), {});
  // A machine with other times: what was chosen stays.
  auto other = make_auto(std::make_shared<FakeTimings>());
  other->load_state(json::parse(policy->state().dump()));
  EXPECT_EQ(other->state(), policy->state());
  other->end_step(step_at(0), {});
  for (int layer = 0; layer < 3; ++layer) {
    const auto a = run_layer(*policy, layer, 1, w, x, dy), b = run_layer(*other, layer, 1, w, x, dy);
    for (size_t role = 0; role < kOperands; ++role) EXPECT_EQ(a[role].format, b[role].format);
  }
}

}  // namespace
}  // namespace bitdial::policies
