#include "bitdial/kernels/fuse.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
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

// Float32 sums take 32 rows; a part of the fixed partition is a whole number of such runs.
constexpr int64_t kRowsPerRun = 32;
constexpr int64_t kPartElements = 32768;

struct Sums {
  double* sum = nullptr;
  double* products = nullptr;
};

/// Adds up a tensor's per-channel sums: `run` adds a block at an element to float32 sums.
template <class Run>
void sum_channels(int64_t elements, int64_t channels, const Sums& sums, const Run& run) {
  const int64_t width = period(channels);
  const int64_t run_elements = kRowsPerRun * width;
  const int64_t part_elements = std::max<int64_t>(1, kPartElements / run_elements) * run_elements;
  const int64_t parts = (elements + part_elements - 1) / part_elements;
  Workspace workspace;
  auto* partial = workspace.take<double>(parts * 2 * channels);
  parallel_for(parts, 1, [&](int64_t first, int64_t last) {
    const IeeeFloat environment;
    std::vector<float> now(static_cast<size_t>(2 * width));
    for (int64_t part = first; part < last; ++part) {
      double* out = partial + part * 2 * channels;
      std::fill_n(out, 2 * channels, 0.0);
      const int64_t end = std::min(elements, (part + 1) * part_elements);
      for (int64_t begin = part * part_elements; begin < end; begin += run_elements) {
        std::fill(now.begin(), now.end(), 0.0F);
        run(begin, std::min(run_elements, end - begin), width, now.data(), now.data() + width);
        for (int64_t i = 0, c = 0; i < width; ++i, c = c + 1 == channels ? 0 : c + 1) {
          out[c] += static_cast<double>(now[static_cast<size_t>(i)]);
          out[channels + c] += static_cast<double>(now[static_cast<size_t>(width + i)]);
        }
      }
    }
  });
  std::fill_n(sums.sum, channels, 0.0);
  if (sums.products != nullptr) std::fill_n(sums.products, channels, 0.0);
  for (int64_t part = 0; part < parts; ++part) {
    const double* from = partial + part * 2 * channels;
    for (int64_t c = 0; c < channels; ++c) sums.sum[c] += from[c];
    if (sums.products == nullptr) continue;
    for (int64_t c = 0; c < channels; ++c) sums.products[c] += from[channels + c];
  }
}

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

void gradient_sums(const GradientSums& pass) {
  const PhaseScope phase(Phase::kNormalize);
  require(is_smooth(pass.activation) == (pass.activation_input != nullptr), "fuse",
          "GELU and tanh, and no others, need their input");
  require(pass.z == nullptr || pass.activation_input == nullptr, "fuse",
          "GELU and tanh come without a batch norm in front");
  const auto run = fuse_kernels().gradients[type_index(pass.type)];
  const std::vector<float> shifts = repeated(pass.shift, pass.channels, 0.0F);
  sum_channels(pass.pixels * pass.channels, pass.channels, {pass.sum, pass.product_sum},
               [&](int64_t begin, int64_t count, int64_t width, float* sums, float* products) {
                 run({.g = element_at(pass.g, pass.type, begin),
                      .other = element_at(pass.other, pass.type, begin),
                      .mask = pass.mask == nullptr ? nullptr : pass.mask + begin / kLanes,
                      .where = pass.where == nullptr ? nullptr : pass.where + begin,
                      .activation = pass.activation,
                      .activation_input = element_at(pass.activation_input, pass.type, begin),
                      .z = element_at(pass.z, pass.type, begin),
                      .shift = shifts.data(),
                      .width = width,
                      .count = count,
                      .sums = sums,
                      .products = products});
               });
}

}  // namespace bitdial::kernels
