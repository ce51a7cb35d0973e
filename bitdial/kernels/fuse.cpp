#include "bitdial/kernels/fuse.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/profile.h"
#include "bitdial/kernels/elements.h"
#include "bitdial/kernels/float_environment.h"
#include "bitdial/kernels/fuse_kernels.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/pool.h"
#include "bitdial/kernels/workspace.h"

namespace bitdial::kernels {
namespace {

constexpr int64_t kLanes = 16;

/// Numbers per channel repeat after this many elements, a multiple of 16; at least 128, so that neighbouring
/// vectors are added to different sums.
int64_t period(int64_t channels) {
  const int64_t once = std::lcm(channels, kLanes);
  return once * std::max<int64_t>(1, 128 / once);
}

std::vector<float> repeated(const float* values, int64_t channels, float fallback) {
  std::vector<float> all(static_cast<size_t>(period(channels)), fallback);
  if (values == nullptr) return all;
  for (size_t i = 0; i < all.size(); ++i) all[i] = values[i % static_cast<size_t>(channels)];
  return all;
}

/// The blocks of an AffineTensor as quantise and measure ask for them.
class AffineBlocks {
 public:
  explicit AffineBlocks(const AffineTensor& y)
      : y_(y),
        run_((y.values != nullptr ? fuse_kernels().affine
                                  : fuse_kernels().affine_to_float)[type_index(y.type)]),
        scale_a_(repeated(y.scale_a, y.shape.channels, 1.0F)),
        scale_b_(repeated(y.scale_b, y.shape.channels, 1.0F)),
        shift_(repeated(y.shift, y.shape.channels, 0.0F)) {
    require(y.shape.order == MemoryOrder::kInterleaved || y.shape.inner == 1, "fuse",
            "tensors must be channels_last");
  }

  ComputedTensor tensor() const {
    return {.type = y_.values != nullptr ? y_.type : OutputType::kFloat32,
            .compute = [this](int64_t begin, int64_t end, void* to) { compute(begin, end, to); },
            .values = y_.values};
  }

 private:
  void compute(int64_t begin, int64_t end, void* to) const {
    const auto width = static_cast<int64_t>(shift_.size());
    alignas(64) float made[ComputedTensor::kMostAtOnce];
    const void* a = element_at(y_.a, y_.type, begin);
    if (y_.pooled != nullptr) {
      y_.pooled->expand(begin, end, made);
      a = made;
    }
    run_({.a = a,
          .b = element_at(y_.b, y_.type, begin),
          .scale_a = scale_a_.data(),
          .scale_b = scale_b_.data(),
          .shift = shift_.data(),
          .width = width,
          .phase = begin % width,
          .activation = y_.activation,
          .mask = y_.mask == nullptr ? nullptr : y_.mask + begin / kLanes,
          .y = to,
          .count = end - begin});
  }

  const AffineTensor& y_;
  void (*run_)(const AffineBlock&);
  std::vector<float> scale_a_, scale_b_, shift_;
};

// Float32 sums take 32 rows; a stretch of the fixed partition is a whole number of such runs.
constexpr int64_t kRowsPerRun = 32;
constexpr int64_t kStretchElements = 32768;

}  // namespace

const FuseKernels& fuse_kernels() {
  return by_vector_width(active_isa(), scalar::kFuse, avx2::kFuse, avx512vnni::kFuse);
}

Range compute(const AffineTensor& y) {
  const PhaseScope phase(Phase::kEpilogue);
  const AffineBlocks blocks(y);
  return measure_range(blocks.tensor(), y.shape.elements());
}

QuantizeStatistics compute_and_quantize(const AffineTensor& y, const Format& format,
                                        std::span<const QuantParams> params, RandomKey key, void* codes) {
  const PhaseScope phase(Phase::kEpilogue);
  const AffineBlocks blocks(y);
  return quantize(blocks.tensor(), y.shape, format, params, key, codes);
}

QuantizeStatistics compute_and_quantize(const AffineTensor& y, const Format& format,
                                        std::span<const QuantParams> params, RandomKey key, void* codes,
                                        const CodePacking& packing) {
  const PhaseScope phase(Phase::kEpilogue);
  const AffineBlocks blocks(y);
  return quantize(blocks.tensor(), y.shape, format, params, key, codes, packing);
}

GradientPass::GradientPass(const GradientSums& terms)
    : terms_(terms),
      add_(fuse_kernels().gradients[type_index(terms.type)]),
      shifts_(repeated(terms.shift, terms.channels, 0.0F)) {
  require(is_smooth(terms.activation) == (terms.activation_input != nullptr), "fuse",
          "GELU and tanh, and no others, need their input");
  require(terms.z == nullptr || terms.activation_input == nullptr, "fuse",
          "GELU and tanh come without a batch norm in front");
}

int64_t GradientPass::run_elements() const { return kRowsPerRun * static_cast<int64_t>(shifts_.size()); }

int64_t GradientPass::alignment() const { return kLanes / std::gcd(terms_.channels, kLanes); }

int64_t GradientPass::stretch() const {
  return std::max<int64_t>(1, kStretchElements / run_elements()) * run_elements() / terms_.channels;
}

void GradientPass::start(int64_t stretches) {
  stretches_ = stretches;
  partial_ = workspace_.take<double>(stretches * 2 * terms_.channels);
}

void GradientPass::run(int64_t index, int64_t first, int64_t last) {
  const IeeeFloat environment;
  const int64_t channels = terms_.channels;
  const auto width = static_cast<int64_t>(shifts_.size());
  double* out = partial_ + index * 2 * channels;
  std::fill_n(out, 2 * channels, 0.0);
  Workspace workspace;
  auto* sums = workspace.take<float>(2 * width);
  float* products = sums + width;
  const int64_t end = last * channels;
  for (int64_t begin = first * channels; begin < end; begin += run_elements()) {
    std::fill_n(sums, 2 * width, 0.0F);
    add_({.g = element_at(terms_.g, terms_.type, begin),
          .other = element_at(terms_.other, terms_.type, begin),
          .mask = terms_.mask == nullptr ? nullptr : terms_.mask + begin / kLanes,
          .where = terms_.where == nullptr ? nullptr : terms_.where + begin,
          .activation = terms_.activation,
          .activation_input = element_at(terms_.activation_input, terms_.type, begin),
          .z = element_at(terms_.z, terms_.type, begin),
          .shift = shifts_.data(),
          .width = width,
          .count = std::min(run_elements(), end - begin),
          .sums = sums,
          .products = products});
    for (int64_t i = 0, c = 0; i < width; ++i, c = c + 1 == channels ? 0 : c + 1) {
      out[c] += static_cast<double>(sums[i]);
      out[channels + c] += static_cast<double>(products[i]);
    }
  }
}

void GradientPass::finish() {
  const PhaseScope phase(Phase::kNormalize);
  const int64_t channels = terms_.channels;
  std::fill_n(terms_.sum, channels, 0.0);
  if (terms_.product_sum != nullptr) std::fill_n(terms_.product_sum, channels, 0.0);
  for (int64_t i = 0; i < stretches_; ++i) {
    const double* from = partial_ + i * 2 * channels;
    for (int64_t c = 0; c < channels; ++c) terms_.sum[c] += from[c];
    if (terms_.product_sum == nullptr) continue;
    for (int64_t c = 0; c < channels; ++c) terms_.product_sum[c] += from[channels + c];
  }
}

void gradient_sums(const GradientSums& terms) {
  GradientPass pass(terms);
  run_whole(pass, terms.pixels);
  pass.finish();
}

}  // namespace bitdial::kernels
