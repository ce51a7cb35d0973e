#include "bitdial/ops/gemm.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <random>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"

namespace bitdial::ops {
namespace {

using torch::Tensor;

constexpr double kHalfUlp = 0x1p-24;

// The problems are tiny: threads that wait for each other would take most of the time.
class OneThread : public ::testing::Environment {
  // LibTorch sets the number once more when it first runs in parallel, unless it was told itself.
  void SetUp() override { at::set_num_threads(1); }
};
const auto* const one_thread = ::testing::AddGlobalTestEnvironment(new OneThread);

Format format(ScaleRule rule, int bits, int fraction = 0) {
  return {.rule = rule, .word_length = bits, .fraction_length = fraction};
}
Format per(Granularity granularity, Format f) {
  f.granularity = granularity;
  return f;
}
Format stochastic(Format f) {
  f.rounding = Rounding::kStochastic;
  return f;
}
Format with_zero(Format f) {
  f.exact_zero = true;
  return f;
}

// Every rule in both containers, one above 16 bits, and float.
std::vector<Format> all_formats() {
  return {format(ScaleRule::kFixed, 8, 5),
          format(ScaleRule::kFixed, 16, 11),
          format(ScaleRule::kFixed, 20, 15),
          format(ScaleRule::kPowerOfTwo, 8),
          format(ScaleRule::kPowerOfTwoVendor, 16),
          format(ScaleRule::kSymmetric, 8),
          format(ScaleRule::kSymmetric, 4),
          stochastic(format(ScaleRule::kSymmetric, 16)),
          format(ScaleRule::kAffine, 8),
          stochastic(format(ScaleRule::kAffine, 8)),
          with_zero(format(ScaleRule::kAffine, 8)),
          format(ScaleRule::kAffine, 16),
          with_zero(format(ScaleRule::kAffine, 11)),
          Format::float32()};
}

struct Case {
  bool is_linear = false;
  ConvOptions options;
  Tensor x, w, b, dy;
};

struct Results {
  Tensor y, dx, dw, db;
};

int64_t pick(std::mt19937& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

Case random_conv(std::mt19937& random) {
  Case c;
  const int64_t groups = pick(random, 0, 2) == 0 ? pick(random, 2, 3) : 1;
  const int64_t in = groups * pick(random, 1, 9), out = groups * pick(random, 1, 9);
  const int64_t kernel = pick(random, 1, 3);
  c.options = {.stride = {pick(random, 1, 2), pick(random, 1, 3)},
               .padding = {pick(random, 0, 2), pick(random, 0, 1)},
               .dilation = {pick(random, 1, 2), 1},
               .groups = groups};
  c.x = torch::randn({pick(random, 1, 5), in, pick(random, 5, 9), pick(random, 4, 8)}).mul(1.5).add(0.3);
  c.w = torch::randn({out, in / groups, kernel, pick(random, 1, 3)}).mul(0.3);
  c.b = pick(random, 0, 1) == 0 ? torch::randn({out}) : Tensor();
  const auto y = at::conv2d(c.x, c.w, c.b, c.options.stride, c.options.padding, c.options.dilation, groups);
  c.dy = torch::randn_like(y).mul(0.02).add(0.001);
  return c;
}

Case random_linear(std::mt19937& random) {
  Case c;
  c.is_linear = true;
  const int64_t in = pick(random, 1, 70), out = pick(random, 1, 40);
  c.x = pick(random, 0, 1) == 0
            ? torch::randn({pick(random, 1, 9), in})
            : torch::randn({pick(random, 1, 4), pick(random, 1, 3), pick(random, 1, 3), in});
  c.w = torch::randn({out, in}).mul(0.2);
  c.b = pick(random, 0, 1) == 0 ? torch::randn({out}) : Tensor();
  c.dy = torch::randn_like(at::linear(c.x, c.w, c.b)).mul(0.02);
  return c;
}

Results run(const Case& c, const OperandFormats& formats, Arithmetic arithmetic, at::ScalarType dtype,
            ReducedAxis reduced = ReducedAxis::kRequantise) {
  const Tensor x = c.x.to(dtype).detach().clone().requires_grad_();
  const Tensor w = c.w.to(dtype).detach().clone().requires_grad_();
  const Tensor b = c.b.defined() ? c.b.to(dtype).detach().clone().requires_grad_() : Tensor();
  const auto operands = fixed_operands(formats, reduced, 7);
  const Tensor y =
      c.is_linear ? linear(x, w, b, arithmetic, operands) : conv2d(x, w, b, c.options, arithmetic, operands);
  y.backward(c.dy.to(dtype));
  return {y.detach(), x.grad(), w.grad(), b.defined() ? b.grad() : Tensor()};
}

// sum |products| of each GEMM and how many there are, from the absolute quantised values.
struct Magnitude {
  Tensor y, dx, dw;
  double n = 0;
};

Magnitude magnitude(const Case& c) {
  Case absolute = c;
  absolute.x = c.x.abs().add(0.5);
  absolute.w = c.w.abs().add(0.1);
  absolute.dy = c.dy.abs().add(0.01);
  absolute.b = Tensor();
  const Results r = run(absolute, {}, Arithmetic::kSimulated, at::kDouble);
  return {r.y, r.dx, r.dw, static_cast<double>(std::max({c.x.numel(), c.w.numel(), c.dy.numel()}))};
}

// `roundings`: half an ulp each, of the largest intermediate.
void expect_close(const Tensor& got, const Tensor& want, const Tensor& largest, double roundings,
                  const Tensor& slack, const std::string& what) {
  const Tensor error = got.to(at::kDouble).sub(want).abs();
  Tensor allowed = largest.abs().mul(roundings * kHalfUlp * 1.001);
  if (slack.defined()) allowed = allowed.add(slack);
  EXPECT_TRUE(error.le(allowed).all().item<bool>())
      << what << ": error " << error.sub(allowed).max().item<double>() << " above the limit";
}

bool is_integer(const Format& a, const Format& b) { return has_integer_codes(a) && has_integer_codes(b); }

void check_against_oracle(const Case& c, const OperandFormats& f, const std::string& what) {
  const Results got = run(c, f, Arithmetic::kInteger, at::kFloat);
  const Results want = run(c, f, Arithmetic::kSimulated, at::kDouble);
  const Magnitude m = magnitude(c);
  const Tensor bias = c.b.defined() ? (c.is_linear ? c.b : c.b.view({1, -1, 1, 1})).to(at::kDouble)
                                    : torch::zeros({1}, at::kDouble);
  // float(S), scale * scale, product, bias: half an ulp each. Float32 GEMMs: n 2^-24 sum |products|.
  const auto slack = [&](bool integer, const Tensor& sum) {
    return sum.mul(integer ? 1e-13 : m.n * kHalfUlp);
  };
  const Tensor largest = at::maximum(want.y.abs(), want.y.sub(bias).abs());
  expect_close(got.y, want.y, largest, 4, slack(is_integer(f.input, f.weight), m.y), what + " FPROP");
  expect_close(got.dx, want.dx, want.dx, 3, slack(is_integer(f.grad_bprop, f.weight), m.dx), what + " BPROP");
  expect_close(got.dw, want.dw, want.dw, 3, slack(is_integer(f.input_wtgrad, f.grad_wtgrad), m.dw),
               what + " WTGRAD");
  if (c.b.defined()) expect_close(got.db, want.db, want.db, 1, m.y.sum().mul(1e-13), what + " bias");
}

OperandFormats formats_of(const Format& w, const Format& x, const Format& dy) {
  return {.weight = w, .input = x, .input_wtgrad = x, .grad_bprop = dy, .grad_wtgrad = dy};
}

TEST(QuantizedGemms, IntegerMatchesFloat64OracleInEveryFormat) {
  torch::manual_seed(1);
  std::mt19937 random(1);
  const auto formats = all_formats();
  for (size_t i = 0; i < formats.size(); ++i) {
    for (size_t j = 0; j < formats.size(); ++j) {
      const Format& w = formats[i];
      const Format& x = formats[j];
      const Format& dy = formats[(i + 3 * j + 1) % formats.size()];
      const std::string what = to_string(w) + " " + to_string(x) + " " + to_string(dy);
      check_against_oracle(random_conv(random), formats_of(w, x, dy), "conv2d " + what);
      check_against_oracle(random_linear(random), formats_of(w, x, dy), "linear " + what);
    }
  }
}

TEST(QuantizedGemms, IntegerMatchesOracleWithScalesPerChannelAndSample) {
  torch::manual_seed(2);
  std::mt19937 random(2);
  for (const ScaleRule rule : {ScaleRule::kSymmetric, ScaleRule::kAffine, ScaleRule::kPowerOfTwo}) {
    for (int repeat = 0; repeat < 6; ++repeat) {
      OperandFormats f = formats_of(per(Granularity::kChannel, format(rule, 8)),
                                    per(Granularity::kSample, format(rule, repeat % 2 == 0 ? 8 : 16)),
                                    per(Granularity::kSample, format(rule, 8)));
      if (repeat % 3 == 0) f.grad_wtgrad = format(rule, 16);
      check_against_oracle(random_conv(random), f, "conv2d");
      check_against_oracle(random_linear(random), f, "linear");
    }
  }
}

// oneDNN's own form of this product writes outside its buffers (uxlfoundation/oneDNN issue 6035).
TEST(QuantizedGemms, StridedPointwiseConvolutionsOfFewChannelsHaveAFloatWeightGradient) {
  torch::manual_seed(5);
  Case c;
  c.options.stride = {2, 2};
  c.x = torch::randn({32, 4, 32, 32});
  c.w = torch::randn({8, 4, 1, 1});
  c.dy = torch::randn({32, 8, 16, 16});
  const Format x = format(ScaleRule::kAffine, 8), w = format(ScaleRule::kSymmetric, 8);
  check_against_oracle(c, formats_of(w, x, Format::float32()), "conv2d");
}

// With the papers' form of reduced axes those GEMMs run in float32 on the values of the first copy.
TEST(QuantizedGemms, ReducedAxisInFloatUsesTheFirstCopy) {
  torch::manual_seed(3);
  std::mt19937 random(3);
  const Case c = random_conv(random);
  const OperandFormats f =
      formats_of(per(Granularity::kChannel, format(ScaleRule::kAffine, 4)),
                 per(Granularity::kSample, format(ScaleRule::kAffine, 4)), format(ScaleRule::kSymmetric, 8));
  const Results got = run(c, f, Arithmetic::kInteger, at::kFloat, ReducedAxis::kFloat);
  const Results paper = run(c, f, Arithmetic::kSimulated, at::kDouble, ReducedAxis::kFloat);
  const Results other = run(c, f, Arithmetic::kSimulated, at::kDouble, ReducedAxis::kRequantise);
  EXPECT_TRUE(at::allclose(got.dx.to(at::kDouble), paper.dx, 1e-4, 1e-7));
  EXPECT_TRUE(at::allclose(got.dw.to(at::kDouble), paper.dw, 1e-4, 1e-6));
  EXPECT_FALSE(at::allclose(paper.dx, other.dx, 1e-3, 1e-6));
  EXPECT_FALSE(at::allclose(paper.dw, other.dw, 1e-3, 1e-6));
}

TEST(QuantizedGemms, SimulatedFloat32StaysWithinItsBound) {
  torch::manual_seed(4);
  std::mt19937 random(4);
  const OperandFormats f = formats_of(format(ScaleRule::kSymmetric, 8), format(ScaleRule::kAffine, 8),
                                      stochastic(format(ScaleRule::kPowerOfTwo, 16)));
  for (int repeat = 0; repeat < 10; ++repeat) {
    const Case c = repeat % 2 == 0 ? random_conv(random) : random_linear(random);
    const Results got = run(c, f, Arithmetic::kSimulated, at::kFloat);
    const Results want = run(c, f, Arithmetic::kSimulated, at::kDouble);
    const Magnitude m = magnitude(c);
    expect_close(got.y, want.y, want.y, 2, m.y.mul(m.n * kHalfUlp), "FPROP");
    expect_close(got.dx, want.dx, want.dx, 2, m.dx.mul(m.n * kHalfUlp), "BPROP");
    expect_close(got.dw, want.dw, want.dw, 2, m.dw.mul(m.n * kHalfUlp), "WTGRAD");
  }
}

TEST(QuantizedGemms, WithoutQuantisersGradientsEqualPyTorch) {
  torch::manual_seed(5);
  std::mt19937 random(5);
  for (int repeat = 0; repeat < 12; ++repeat) {
    const Case c = repeat % 2 == 0 ? random_conv(random) : random_linear(random);
    const Results got = run(c, {}, Arithmetic::kSimulated, at::kDouble);
    const Tensor x = c.x.to(at::kDouble).requires_grad_(), w = c.w.to(at::kDouble).requires_grad_();
    const Tensor b = c.b.defined() ? c.b.to(at::kDouble).requires_grad_() : Tensor();
    const Tensor y = c.is_linear ? at::linear(x, w, b)
                                 : at::conv2d(x, w, b, c.options.stride, c.options.padding,
                                              c.options.dilation, c.options.groups);
    y.backward(c.dy.to(at::kDouble));
    EXPECT_TRUE(at::allclose(got.y, y, 1e-13, 1e-13));
    EXPECT_TRUE(at::allclose(got.dx, x.grad(), 1e-13, 1e-13));
    EXPECT_TRUE(at::allclose(got.dw, w.grad(), 1e-13, 1e-13));
    if (b.defined()) {
      EXPECT_TRUE(at::allclose(got.db, b.grad(), 1e-13, 1e-13));
    }
  }
}

TEST(QuantizedGemms, MemoryOrderOfTheInputDoesNotMatter) {
  torch::manual_seed(6);
  std::mt19937 random(6);
  const OperandFormats f =
      formats_of(stochastic(format(ScaleRule::kSymmetric, 8)), stochastic(format(ScaleRule::kAffine, 8)),
                 stochastic(format(ScaleRule::kSymmetric, 8)));
  for (int repeat = 0; repeat < 5; ++repeat) {
    const Case planar = random_conv(random);
    Case interleaved = planar;
    interleaved.x = planar.x.contiguous(at::MemoryFormat::ChannelsLast);
    interleaved.w = planar.w.contiguous(at::MemoryFormat::ChannelsLast);
    interleaved.dy = planar.dy.contiguous(at::MemoryFormat::ChannelsLast);
    const Results a = run(planar, f, Arithmetic::kInteger, at::kFloat);
    const Results b = run(interleaved, f, Arithmetic::kInteger, at::kFloat);
    EXPECT_TRUE(at::equal(a.y, b.y));
    EXPECT_TRUE(at::equal(a.dx, b.dx));
    EXPECT_TRUE(at::equal(a.dw, b.dw));
  }
}

TEST(QuantizedGemms, ThreadsDoNotChangeABit) {
  torch::manual_seed(7);
  Case c;
  c.options = {.stride = {1, 1}, .padding = {1, 1}};
  c.x = torch::randn({8, 16, 20, 20});
  c.w = torch::randn({24, 16, 3, 3});
  c.b = torch::randn({24});
  c.dy = torch::randn({8, 24, 20, 20});
  const OperandFormats f = formats_of(format(ScaleRule::kSymmetric, 8), format(ScaleRule::kAffine, 8),
                                      stochastic(format(ScaleRule::kSymmetric, 16)));
  const int threads = num_threads();
  set_num_threads(1);
  const Results one = run(c, f, Arithmetic::kInteger, at::kFloat);
  set_num_threads(2);
  const Results two = run(c, f, Arithmetic::kInteger, at::kFloat);
  set_num_threads(threads);
  EXPECT_TRUE(at::equal(one.y, two.y));
  EXPECT_TRUE(at::equal(one.dx, two.dx));
  EXPECT_TRUE(at::equal(one.dw, two.dw));
  EXPECT_TRUE(at::equal(one.db, two.db));
}

TEST(QuantizedGemms, BFloat16InAndOut) {
  torch::manual_seed(8);
  std::mt19937 random(8);
  const Format eight = format(ScaleRule::kSymmetric, 8);
  Case c = random_conv(random);
  c.x = c.x.to(at::kBFloat16).to(at::kFloat);
  c.dy = c.dy.to(at::kBFloat16).to(at::kFloat);
  c.b = Tensor();
  const Results wide = run(c, formats_of(eight, eight, eight), Arithmetic::kInteger, at::kFloat);
  const Tensor x = c.x.to(at::kBFloat16).requires_grad_(), w = c.w.clone().requires_grad_();
  const Tensor y = conv2d(x, w, {}, c.options, Arithmetic::kInteger,
                          fixed_operands(formats_of(eight, eight, eight), ReducedAxis::kRequantise, 7));
  y.backward(c.dy.to(at::kBFloat16));
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(y, wide.y.to(at::kBFloat16)));
  EXPECT_TRUE(at::equal(x.grad(), wide.dx.to(at::kBFloat16)));
  EXPECT_TRUE(at::equal(w.grad(), wide.dw));
}

// A GEMM with an operand in bfloat16 is LibTorch's in bfloat16; the others stay what they were.
TEST(QuantizedGemms, BFloat16Operands) {
  torch::manual_seed(9);
  std::mt19937 random(9);
  const Format eight = format(ScaleRule::kSymmetric, 8);
  for (const bool is_linear : {false, true}) {
    Case c = is_linear ? random_linear(random) : random_conv(random);
    c.x = c.x.contiguous(c.x.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
    OperandFormats formats = formats_of(Format::bfloat16(), Format::bfloat16(), Format::bfloat16());
    const Results narrow = run(c, formats, Arithmetic::kInteger, at::kFloat);
    const auto bf16 = [](const Tensor& t) { return t.defined() ? t.to(at::kBFloat16) : t; };
    const Tensor x = bf16(c.x).requires_grad_(), w = bf16(c.w).requires_grad_();
    const Tensor y = c.is_linear ? at::linear(x, w, bf16(c.b))
                                 : at::conv2d(x, w, bf16(c.b), c.options.stride, c.options.padding,
                                              c.options.dilation, c.options.groups);
    y.backward(bf16(c.dy));
    const auto is_close = [](const Tensor& a, const Tensor& b) {
      return at::allclose(a, b.to(at::kFloat), 0x1p-7, 1e-4);
    };
    EXPECT_TRUE(is_close(narrow.y, y));
    EXPECT_TRUE(is_close(narrow.dx, x.grad()));
    EXPECT_TRUE(is_close(narrow.dw, w.grad()));
    EXPECT_TRUE(at::equal(narrow.y, narrow.y.to(at::kBFloat16).to(at::kFloat))) << "computed in bfloat16";
    EXPECT_EQ(narrow.dw.scalar_type(), at::kFloat);

    formats = formats_of(eight, eight, eight);
    const Results integer = run(c, formats, Arithmetic::kInteger, at::kFloat);
    formats.input_wtgrad = formats.grad_wtgrad = Format::bfloat16();
    const Results mixed = run(c, formats, Arithmetic::kInteger, at::kFloat);
    EXPECT_TRUE(at::equal(mixed.y, integer.y));
    EXPECT_TRUE(at::equal(mixed.dx, integer.dx));
    EXPECT_TRUE(at::equal(mixed.dw, narrow.dw));
  }
}

// Records what an autograd function was given.
class Recorder : public Operands {
 public:
  explicit Recorder(const OperandFormats& formats)
      : inner_(fixed_operands(formats, ReducedAxis::kRequantise, 7)) {}
  ForwardOperands forward(const Tensor& x, const Tensor& w, Needed needed) override {
    ForwardOperands operands = inner_->forward(x, w, needed);
    saved_x = operands.x_wtgrad.codes;
    saved_w = operands.w_bprop.codes;
    return operands;
  }
  BackwardOperands backward(const Tensor& dy, Needed needed) override {
    last_needed = needed;
    return inner_->backward(dy, needed);
  }
  Tensor saved_x, saved_w;
  Needed last_needed;

 private:
  std::shared_ptr<Operands> inner_;
};

TEST(QuantizedGemms, SavesIntegersOnly) {
  const Format eight = format(ScaleRule::kSymmetric, 8);
  auto recorder = std::make_shared<Recorder>(formats_of(eight, format(ScaleRule::kAffine, 16), eight));
  Tensor x = torch::randn({2, 3, 6, 6}).contiguous(at::MemoryFormat::ChannelsLast).requires_grad_().clone();
  const Tensor w = torch::randn({4, 3, 3, 3}).requires_grad_();
  const c10::weak_intrusive_ptr<c10::StorageImpl> floats(
      c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(x.storage().unsafeGetStorageImpl()));
  const Tensor y = conv2d(x, w, {}, {}, Arithmetic::kInteger, recorder);
  x.reset();
  EXPECT_TRUE(floats.expired()) << "the float input is still held";
  EXPECT_EQ(recorder->saved_x.scalar_type(), at::kShort);
  EXPECT_EQ(recorder->saved_w.scalar_type(), at::kChar);
  EXPECT_GT(recorder->saved_x.use_count(), 1U) << "the codes are not what is saved";
  EXPECT_FALSE(recorder->saved_x.requires_grad());
  y.sum().backward();
  EXPECT_EQ(w.grad().scalar_type(), at::kFloat);
}

TEST(QuantizedGemms, ComputesOnlyNeededGradients) {
  const Format eight = format(ScaleRule::kSymmetric, 8);
  auto recorder = std::make_shared<Recorder>(formats_of(eight, eight, eight));
  const Tensor w = torch::randn({4, 3, 3, 3}).requires_grad_();
  conv2d(torch::randn({2, 3, 6, 6}), w, {}, {}, Arithmetic::kInteger, recorder).sum().backward();
  EXPECT_FALSE(recorder->last_needed.input);
  EXPECT_TRUE(recorder->last_needed.weight);
  const Tensor x = torch::randn({2, 3, 6, 6}).requires_grad_();
  conv2d(x, w.detach(), {}, {}, Arithmetic::kInteger, recorder).sum().backward();
  EXPECT_TRUE(recorder->last_needed.input);
  EXPECT_FALSE(recorder->last_needed.weight);
  const torch::NoGradGuard no_grad;
  EXPECT_FALSE(conv2d(x, w, {}, {}, Arithmetic::kInteger, recorder).requires_grad());
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no bitdial::Error";
}

TEST(QuantizedGemms, DoubleBackwardIsAnError) {
  const Tensor x = torch::randn({2, 5}).requires_grad_(), w = torch::randn({4, 5}).requires_grad_();
  for (const Arithmetic arithmetic : {Arithmetic::kInteger, Arithmetic::kSimulated}) {
    const Format eight = format(ScaleRule::kSymmetric, 8);
    const Tensor y = linear(x, w, {}, arithmetic,
                            fixed_operands(formats_of(eight, eight, eight), ReducedAxis::kRequantise, 7));
    const auto gradients = torch::autograd::grad({y.sum()}, {x, w}, {}, true, true);
    EXPECT_EQ(error_of([&] { gradients[0].sum().backward(); }),
              "[linear] a quantised layer cannot be differentiated twice");
  }
}

TEST(QuantizedGemms, WrongArgumentsAreNamed) {
  const auto operands = fixed_operands({}, ReducedAxis::kRequantise, 7);
  const auto conv = [&](const Tensor& x, const Tensor& w, const Tensor& b) {
    return error_of([&] { conv2d(x, w, b, {}, Arithmetic::kInteger, operands); });
  };
  EXPECT_EQ(conv(torch::zeros({1, 16, 4, 4}), torch::zeros({8, 3, 3, 3}), {}),
            "[conv2d] weight has 3 input channels, input has 16");
  EXPECT_EQ(conv(torch::zeros({1, 3, 2, 4}), torch::zeros({8, 3, 3, 3}), {}),
            "[conv2d] kernel reaches over 3x3 pixels, the padded input has 2x4");
  EXPECT_EQ(conv(torch::zeros({1, 3, 4, 4}), torch::zeros({8, 3, 3, 3}), torch::zeros({7})),
            "[conv2d] bias has shape [7], expected [8]");
  EXPECT_EQ(
      conv(torch::zeros({1, 3, 4, 4}, at::kDouble), torch::zeros({8, 3, 3, 3}), {}),
      "[conv2d] integer arithmetic takes float32 or bfloat16 input, got Double; use simulated arithmetic");
  EXPECT_EQ(error_of([&] {
              linear(torch::zeros({2, 5}), torch::zeros({3, 4}), {}, Arithmetic::kInteger, operands);
            }),
            "[linear] weight has 4 input features, input has 5");
}

TEST(QuantizedGemms, NonFiniteOperandsAreErrors) {
  const Format eight = format(ScaleRule::kSymmetric, 8);
  const auto operands = fixed_operands(formats_of(eight, eight, eight), ReducedAxis::kRequantise, 7);
  Tensor x = torch::ones({2, 5});
  x[1][2] = std::numeric_limits<float>::quiet_NaN();
  const Tensor w = torch::ones({4, 5}).requires_grad_();
  EXPECT_EQ(error_of([&] { linear(x, w, {}, Arithmetic::kInteger, operands); }),
            "[quantize] the range of x is not finite");
  const Tensor y = linear(torch::ones({2, 5}), w, {}, Arithmetic::kInteger, operands);
  EXPECT_EQ(error_of([&] {
              y.backward(torch::full({2, 4}, std::numeric_limits<float>::infinity()));
            }),
            "[quantize] the range of dy_wtgrad is not finite");
}

TEST(QuantizedGemms, EmptyBatch) {
  const auto operands = fixed_operands({}, ReducedAxis::kRequantise, 7);
  EXPECT_EQ(
      conv2d(torch::zeros({0, 3, 4, 4}), torch::zeros({8, 3, 3, 3}), {}, {}, Arithmetic::kInteger, operands)
          .sizes(),
      (std::vector<int64_t>{0, 8, 2, 2}));
}

// LibTorch's operators (for other devices) against the kernels: the same codes, values and counts.
TEST(QuantizedTensors, GenericOperatorsMatchKernels) {
  torch::manual_seed(9);
  const Tensor x = torch::randn({4, 5, 7, 3}).mul(2).add(0.5);
  for (Format f : all_formats()) {
    if (f.is_float()) continue;
    for (const Granularity granularity : {Granularity::kTensor, Granularity::kSample}) {
      for (const bool channels_last : {false, true}) {
        f.granularity = granularity;
        const Tensor dense =
            to_dense(channels_last ? x.contiguous(at::MemoryFormat::ChannelsLast) : x, channels_last);
        const RandomKey key{.a = 123, .b = 0xDEADBEEF};
        const auto ranges = measure_range(dense, granularity, f.range_statistic);
        EXPECT_EQ(ranges, generic::measure_range(dense, granularity, f.range_statistic));
        const auto params = choose_params(f, ranges);
        QuantizeStatistics kernel, other;
        const QuantizedTensor codes = quantize(dense, f, params, key, &kernel);
        const Tensor generic_codes = generic::quantize(dense, f, params, key, other);
        EXPECT_TRUE(at::equal(codes.codes, generic_codes)) << to_string(f);
        EXPECT_TRUE(at::equal(dequantize(codes, at::kFloat), generic::dequantize(codes, at::kFloat)))
            << to_string(f);
        EXPECT_EQ(kernel.saturated, other.saturated) << to_string(f);
        EXPECT_EQ(kernel.zeros, other.zeros) << to_string(f);
        EXPECT_EQ(kernel.count, other.count);
        EXPECT_EQ(kernel.range, other.range);
      }
    }
  }
  EXPECT_NEAR(abs_sum(x), generic::abs_sum(x), 1e-9);
  EXPECT_DOUBLE_EQ(quantized_abs_sum(x, 8, 0x1p-4F), generic::quantized_abs_sum(x, 8, 0x1p-4F));
  EXPECT_EQ(measure_range(x, Granularity::kTensor, RangeStatistic::kSampleMean),
            generic::measure_range(x, Granularity::kTensor, RangeStatistic::kSampleMean));
}

}  // namespace
}  // namespace bitdial::ops
