// Output::pass: a GradientPass behind a convolution against the convolution followed by gradient_sums, and
// the stretches that passes get, on every instruction set of this CPU.
#include "bitdial/kernels/output_pass.h"

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>
#include <random>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/kernels/fuse.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/problem.h"
#include "tests/kernels/random_data.h"
#include "tests/kernels/random_problem.h"

namespace bitdial::kernels::testing_support {
namespace {

// Blocks of several images and of rows of one; pixels at which no stretch can begin; groups; depth-wise
// layers of both kernels; panels that are shared out among threads.
const char* const kProblems[] = {
    "mb9ic20ih8oc70kh3ph1",    "mb33ic16ih9oc16kh3ph1",       "mb5ic48ih17oc3kh3ph1sh2",
    "mb70ic7ih1oc10kh1",       "g2mb3ic32ih6oc70kh3ph1",      "mb2ic64ih20oc130kh1",
    "g32mb5ic32ih9oc32kh3ph1", "g96mb3ic96ih10oc96kh3ph1sh2", "g4mb4ic4ih40oc4kh5ph2",
    "mb1ic5ih3oc1kh3",         "mb4ic256ih2oc64kh3ph1",       "mb2ic16ih100oc40kh1",
    "mb64ic3ih7oc32kh1sh2",    "mb3ic24ih14oc96kh1"};

struct Result {
  Data g;
  std::vector<double> sums;
};

/// A data gradient, and what the block in front of it does to it.
class Case {
 public:
  Case(const char* problem, Random& random, std::mt19937& numbers)
      : shape_(parse_problem(problem)),
        type_(random.one_in(2) ? OutputType::kFloat32 : OutputType::kBFloat16),
        dy_(random_codes(random, random_type(random), shape_.output_elements(), 1, Fill::kUniform, false)),
        w_(random_codes(random, random_type(random), shape_.weight_elements(), 1, Fill::kUniform, false)),
        empty_(type_, shape_.input_elements(), numbers, 1.0F),
        other_(type_, shape_.input_elements(), numbers, 1.0F),
        z_(type_, shape_.input_elements(), numbers, 2.0F),
        shift_(random_row(shape_.in_channels, numbers)),
        mask_(static_cast<size_t>(mask_words(shape_.input_elements()))),
        has_other_(random.one_in(2)),
        has_mask_(random.one_in(2)),
        has_z_(!random.one_in(3)) {
    for (uint16_t& word : mask_) word = static_cast<uint16_t>(numbers());
    // Gradients about as large as the other terms.
    dy_.params[0].scale = 0.01F;
    w_.params[0].scale = 1.0F / static_cast<float>(limits_of(dy_.type).high * limits_of(w_.type).high);
  }

  void backward(const Output& dx) const { conv2d_backward_data(shape_, dy_.operand(), w_.operand(), dx); }

  Result run(bool behind) {
    Result r{.g = empty_, .sums = std::vector<double>(static_cast<size_t>(2 * shape_.in_channels), 7.0)};
    const GradientSums terms{.type = type_,
                             .pixels = pixels(),
                             .channels = shape_.in_channels,
                             .g = r.g.data(),
                             .other = has_other_ ? other_.data() : nullptr,
                             .mask = has_mask_ ? mask_.data() : nullptr,
                             .z = has_z_ ? z_.data() : nullptr,
                             .shift = has_z_ ? shift_.data() : nullptr,
                             .sum = r.sums.data(),
                             .product_sum = has_z_ ? r.sums.data() + shape_.in_channels : nullptr};
    if (behind) {
      GradientPass pass(terms);
      backward({.data = r.g.data(), .type = type_, .pass = &pass});
      pass.finish();
    } else {
      backward({.data = r.g.data(), .type = type_});
      gradient_sums(terms);
    }
    return r;
  }

  /// Of the sums' terms, for bounds of their rounding.
  double magnitude(const Result& r) const {
    double largest = 0.0;
    for (int64_t i = 0; i < shape_.input_elements(); ++i) {
      largest = std::max(largest, static_cast<double>(std::abs(r.g.at(i))));
    }
    return largest * static_cast<double>(pixels()) * 10.0;
  }

  int64_t pixels() const { return shape_.batch * shape_.in_height * shape_.in_width; }
  const ConvShape& shape() const { return shape_; }

 private:
  ConvShape shape_;
  OutputType type_;
  Codes dy_, w_;
  Data empty_, other_, z_;
  std::vector<float> shift_;
  std::vector<uint16_t> mask_;
  bool has_other_, has_mask_, has_z_;
};

class OutputPasses : public testing::Test {
 protected:
  ~OutputPasses() override { set_num_threads(threads_); }

  template <class Body>
  void for_each_case(const Body& body) {
    for (const char* problem : kProblems) {
      for (int i = 0; i < 3; ++i) {
        Case c(problem, random_, numbers_);
        for (const Isa isa : available_isas()) {
          const ScopedIsa scope(isa);
          const testing::ScopedTrace trace(__FILE__, __LINE__,
                                           std::string(problem) + " " + std::string(to_string(isa)));
          body(c);
        }
      }
    }
  }

 private:
  int threads_ = num_threads();
  Random random_{11};
  std::mt19937 numbers_{12};
};

TEST_F(OutputPasses, GradientsHaveTheBitsOfTwoPasses) {
  for_each_case([](Case& c) {
    const Result apart = c.run(false), behind = c.run(true);
    ASSERT_EQ(behind.g, apart.g);
    for (size_t i = 0; i < apart.sums.size(); ++i) {
      ASSERT_NEAR(behind.sums[i], apart.sums[i], 1e-6 * c.magnitude(apart)) << i;
    }
  });
}

TEST_F(OutputPasses, ThreadsDoNotChangeTheSums) {
  for_each_case([](Case& c) {
    set_num_threads(1);
    const Result alone = c.run(true);
    for (const int threads : {2, 5}) {
      set_num_threads(threads);
      const Result together = c.run(true);
      ASSERT_EQ(together.g, alone.g) << threads;
      ASSERT_EQ(together.sums, alone.sums) << threads;
    }
  });
}

/// Writes down its stretches.
class Recorder : public OutputPass {
 public:
  explicit Recorder(int64_t alignment) : alignment_(alignment) {}

  int64_t alignment() const override { return alignment_; }
  int64_t stretch() const override { return 4 * alignment_; }
  void run(int64_t index, int64_t first, int64_t last) override {
    const std::lock_guard lock(mutex_);
    at_.at(static_cast<size_t>(index)).push_back({first, last});
  }

  /// Every pixel once, in stretches that begin where they may.
  void expect_all(int64_t pixels) const {
    int64_t next = 0;
    for (const auto& stretch : at_) {
      ASSERT_EQ(stretch.size(), 1U);
      ASSERT_EQ(stretch[0].first, next);
      ASSERT_EQ(next % alignment_, 0);
      ASSERT_LT(next, stretch[0].last);
      next = stretch[0].last;
    }
    ASSERT_EQ(next, pixels);
  }

 protected:
  void start(int64_t stretches) override { at_.resize(static_cast<size_t>(stretches)); }

 private:
  struct Pixels {
    int64_t first, last;
  };
  int64_t alignment_;
  std::mutex mutex_;
  std::vector<std::vector<Pixels>> at_;
};

TEST_F(OutputPasses, EveryPixelIsInOneStretch) {
  for_each_case([](const Case& c) {
    for (const int64_t alignment : {1, 2, 16}) {
      Recorder recorder(alignment);
      std::vector<float> dx(static_cast<size_t>(c.shape().input_elements()));
      c.backward({.data = dx.data(), .type = OutputType::kFloat32, .pass = &recorder});
      ASSERT_NO_FATAL_FAILURE(recorder.expect_all(c.pixels())) << alignment;
    }
  });
}

TEST_F(OutputPasses, ForwardTakesNone) {
  Recorder recorder(1);
  const ConvShape shape = parse_problem("mb1ic4ih3oc4kh1");
  Random random(1);
  const Codes x = random_codes(random, CodeType::kS8, shape.input_elements(), 1, Fill::kUniform, false);
  std::vector<float> y(static_cast<size_t>(shape.output_elements()));
  EXPECT_THROW(
      conv2d_forward(shape, x.operand(), x.operand(), nullptr, {.data = y.data(), .pass = &recorder}), Error);
}

}  // namespace
}  // namespace bitdial::kernels::testing_support
