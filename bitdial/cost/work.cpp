#include "bitdial/cost/work.h"

#include <fmt/format.h>

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/kernels/problem.h"
#include "bitdial/kernels/quantize.h"

namespace bitdial::cost {
namespace {

using Bytes = std::vector<uint8_t>;

const char* direction(Gemm gemm) {
  switch (gemm) {
    case Gemm::kFprop:
      return "fwd";
    case Gemm::kBprop:
      return "bwd_d";
    case Gemm::kWtgrad:
      return "bwd_w";
  }
  return "";
}

const char* name_of(Pass pass) {
  switch (pass) {
    case Pass::kQuantize:
      return "quantize";
    case Pass::kBFloat16:
      return "bfloat16";
    case Pass::kStream:
      return "stream";
  }
  return "";
}

Bytes random_bytes(int64_t count, uint64_t seed) {
  Bytes bytes(static_cast<size_t>(count));
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t draw = random();
    std::memcpy(bytes.data() + i, &draw, std::min<size_t>(8, bytes.size() - i));
  }
  return bytes;
}

struct Elements {
  int64_t a = 0, b = 0, result = 0;
};

Elements elements_of(const GemmWork& work) {
  const int64_t x = work.shape.input_elements();
  const int64_t y = work.shape.output_elements();
  const int64_t w = work.shape.weight_elements();
  switch (work.gemm) {
    case Gemm::kFprop:
      return {x, w, y};
    case Gemm::kBprop:
      return {y, w, x};
    case Gemm::kWtgrad:
      return {x, y, w};
  }
  return {};
}

bool is_wide(GemmArithmetic arithmetic, bool left) {
  return arithmetic == GemmArithmetic::kInt16 ||
         arithmetic == (left ? GemmArithmetic::kInt16x8 : GemmArithmetic::kInt8x16);
}

struct IntegerGemm {
  GemmWork work;
  kernels::CodeType type_a, type_b;
  Bytes a, b;
  std::vector<float> result;
  QuantParams scale{.scale = 0.01F};

  explicit IntegerGemm(const GemmWork& gemm)
      : work(gemm),
        type_a(is_wide(gemm.arithmetic, true) ? kernels::CodeType::kS16 : kernels::CodeType::kS8),
        type_b(is_wide(gemm.arithmetic, false) ? kernels::CodeType::kS16 : kernels::CodeType::kS8) {
    const Elements elements = elements_of(gemm);
    const auto size = [](kernels::CodeType type) { return type == kernels::CodeType::kS16 ? 2 : 1; };
    a = random_bytes(elements.a * size(type_a), 1);
    b = random_bytes(elements.b * size(type_b), 2);
    result.resize(static_cast<size_t>(elements.result));
  }

  void operator()() {
    const kernels::Operand left{a.data(), type_a, {&scale, 1}};
    const kernels::Operand right{b.data(), type_b, {&scale, 1}};
    switch (work.gemm) {
      case Gemm::kFprop:
        kernels::conv2d_forward(work.shape, left, right, nullptr, {.data = result.data()});
        break;
      case Gemm::kBprop:
        kernels::conv2d_backward_data(work.shape, left, right, {.data = result.data()});
        break;
      case Gemm::kWtgrad:
        kernels::conv2d_backward_weight(work.shape, left, right, result.data());
        break;
    }
  }
};

struct TensorPass {
  Pass pass;
  std::vector<float> x;
  Bytes to;

  TensorPass(Pass kind, int64_t elements)
      : pass(kind),
        x(static_cast<size_t>(elements)),
        to(static_cast<size_t>(elements * (kind == Pass::kQuantize ? 1 : 4))) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < x.size(); ++i) x[i] = i < 4096 ? normal(random) : x[i - 4096];
  }

  void operator()() {
    const auto count = static_cast<int64_t>(x.size());
    if (pass == Pass::kQuantize) {
      static const QuantParams kScale{.scale = 0.03F};
      static const Format kFormat{.rule = ScaleRule::kSymmetric, .word_length = 8};
      kernels::quantize(x.data(), {.outer = 1, .channels = 1, .inner = count}, kFormat, {&kScale, 1}, {},
                        to.data());
      return;
    }
    parallel_for(count, 1 << 15, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float y = 1.5F * x[static_cast<size_t>(i)] + 0.25F;
        std::memcpy(to.data() + 4 * i, &y, 4);
      }
    });
  }
};

}  // namespace

std::string key_of(const GemmWork& work) {
  return fmt::format("{} {} {}", kernels::to_string(work.shape), direction(work.gemm),
                     to_string(work.arithmetic));
}

std::string key_of(Pass pass, int log2_elements) {
  return fmt::format("{} 2^{}", name_of(pass), log2_elements);
}

std::function<void()> prepare(const GemmWork& work) {
  kernels::check(work.shape);
  const bool is_bfloat16 = work.arithmetic == GemmArithmetic::kBFloat16;
  if (is_bfloat16 || work.arithmetic == GemmArithmetic::kFloat32) {
    return prepare_float(work.shape, work.gemm, is_bfloat16);
  }
  // std::function copies what it holds.
  return [gemm = std::make_shared<IntegerGemm>(work)] { (*gemm)(); };
}

std::function<void()> prepare(Pass pass, int64_t elements) {
  if (pass == Pass::kBFloat16) return prepare_cast(elements);
  return [one = std::make_shared<TensorPass>(pass, elements)] { (*one)(); };
}

}  // namespace bitdial::cost
