#include "bitdial/kernels/fuse.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/core/profile.h"
#include "bitdial/kernels/float_environment.h"
#include "bitdial/kernels/fuse_kernels.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/workspace.h"

namespace bitdial::kernels {
namespace {

constexpr int64_t kLanes = 16;

size_t index_of(OutputType type) { return type == OutputType::kFloat32 ? 0 : 1; }
int64_t bytes_of(OutputType type) { return type == OutputType::kFloat32 ? 4 : 2; }

const char* element(const void* data, OutputType type, int64_t i) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + i * bytes_of(type);
}
char* element(void* data, OutputType type, int64_t i) {
  return data == nullptr ? nullptr : static_cast<char*>(data) + i * bytes_of(type);
}

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
        run_(
            (y.values != nullptr ? fuse_kernels().affine : fuse_kernels().affine_to_float)[index_of(y.type)]),
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
    run_({.a = element(y_.a, y_.type, begin),
          .b = element(y_.b, y_.type, begin),
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

void check(const PoolShape& s) {
  require(s.kernel >= 1 && s.kernel * s.kernel <= kNowhere && s.stride >= 1 && s.padding >= 0 &&
              2 * s.padding <= s.kernel && s.out_height() >= 1 && s.out_width() >= 1,
          "max_pool", "kernel {}, stride {}, padding {} on {}x{} pixels is impossible", s.kernel, s.stride,
          s.padding, s.in_height, s.in_width);
}

constexpr int64_t kPixelGrain = 64;

/// Runs body(image, row) for every row of images of this size.
template <class Body>
void for_each_row(int64_t batch, int64_t height, int64_t width, const Body& body) {
  parallel_for(batch * height, std::max<int64_t>(1, kPixelGrain / width), [&](int64_t first, int64_t last) {
    const IeeeFloat environment;
    for (int64_t line = first; line < last; ++line) body(line / height, line % height);
  });
}

/// Along one axis, the windows that a coordinate lies in: window `out`, at place `place` of it.
struct Membership {
  int64_t out = 0;
  int64_t place = 0;
};
using Memberships = std::vector<std::vector<Membership>>;

Memberships memberships(int64_t in, int64_t out, const PoolShape& s) {
  Memberships all(static_cast<size_t>(in));
  for (int64_t place = 0; place < s.kernel; ++place) {
    for (int64_t o = 0; o < out; ++o) {
      const int64_t i = o * s.stride - s.padding + place;
      if (i >= 0 && i < in) all[static_cast<size_t>(i)].push_back({o, place});
    }
  }
  return all;
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
  require(pass.z == nullptr || pass.gelu_input == nullptr, "fuse",
          "GELU comes without a batch norm in front");
  const auto run = fuse_kernels().gradients[index_of(pass.type)];
  const std::vector<float> shifts = repeated(pass.shift, pass.channels, 0.0F);
  sum_channels(pass.pixels * pass.channels, pass.channels, {pass.sum, pass.product_sum},
               [&](int64_t begin, int64_t count, int64_t width, float* sums, float* products) {
                 run({.g = element(pass.g, pass.type, begin),
                      .other = element(pass.other, pass.type, begin),
                      .mask = pass.mask == nullptr ? nullptr : pass.mask + begin / kLanes,
                      .gelu_input = element(pass.gelu_input, pass.type, begin),
                      .z = element(pass.z, pass.type, begin),
                      .shift = shifts.data(),
                      .width = width,
                      .count = count,
                      .sums = sums,
                      .products = products});
               });
}

void max_pool(const PoolShape& s, const PoolInput& input, void* y, uint8_t* where) {
  const PhaseScope phase(Phase::kEpilogue);
  check(s);
  require(input.activation != Activation::kGelu, "max_pool", "GELU does not rise everywhere");
  const auto run = fuse_kernels().max_pool[index_of(input.type)];
  const bool is_affine = input.scale != nullptr || input.shift != nullptr;
  const auto row_of = [&](const float* values, float fallback) {
    std::vector<float> row(is_affine ? static_cast<size_t>(s.channels) : 0, fallback);
    if (values != nullptr) std::copy_n(values, s.channels, row.begin());
    return row;
  };
  const std::vector<float> scale = row_of(input.scale, 1.0F), shift = row_of(input.shift, 0.0F);
  for_each_row(s.batch, s.out_height(), s.out_width(), [&](int64_t n, int64_t oh) {
    const void* taps[kNowhere];
    uint8_t places[kNowhere];
    PoolWindow window{.taps = taps, .places = places, .channels = s.channels};
    window.scale = is_affine ? scale.data() : nullptr;
    window.shift = is_affine ? shift.data() : nullptr;
    window.activation = input.activation;
    const int64_t top = oh * s.stride - s.padding;
    for (int64_t ow = 0; ow < s.out_width(); ++ow) {
      const int64_t left = ow * s.stride - s.padding;
      window.count = 0;
      for (int64_t row = std::max<int64_t>(0, -top); row < std::min(s.kernel, s.in_height - top); ++row) {
        for (int64_t column = std::max<int64_t>(0, -left); column < std::min(s.kernel, s.in_width - left);
             ++column) {
          const int64_t pixel = (n * s.in_height + top + row) * s.in_width + left + column;
          taps[window.count] = element(input.x, input.type, pixel * s.channels);
          places[window.count++] = static_cast<uint8_t>(row * s.kernel + column);
        }
      }
      const int64_t to = ((n * s.out_height() + oh) * s.out_width() + ow) * s.channels;
      run(window, element(y, input.type, to), where + to);
    }
  });
}

void max_pool_backward(const PoolShape& s, OutputType type, const void* dy, const uint8_t* where, void* dx) {
  const PhaseScope phase(Phase::kEpilogue);
  check(s);
  const auto run = fuse_kernels().max_pool_backward[index_of(type)];
  const Memberships rows = memberships(s.in_height, s.out_height(), s);
  const Memberships columns = memberships(s.in_width, s.out_width(), s);
  for_each_row(s.batch, s.in_height, s.in_width, [&](int64_t n, int64_t h) {
    const void* taps[kNowhere];
    const uint8_t* wheres[kNowhere];
    uint8_t places[kNowhere];
    PoolWindow window{.taps = taps, .places = places, .channels = s.channels};
    for (int64_t w = 0; w < s.in_width; ++w) {
      window.count = 0;
      for (const Membership& row : rows[static_cast<size_t>(h)]) {
        for (const Membership& column : columns[static_cast<size_t>(w)]) {
          const int64_t from = ((n * s.out_height() + row.out) * s.out_width() + column.out) * s.channels;
          taps[window.count] = element(dy, type, from);
          wheres[window.count] = where + from;
          places[window.count++] = static_cast<uint8_t>(row.place * s.kernel + column.place);
        }
      }
      const int64_t to = ((n * s.in_height + h) * s.in_width + w) * s.channels;
      run(window, wheres, element(dx, type, to));
    }
  });
}

namespace {

/// Runs body(image, block) for every image.
template <class Body>
void for_each_average(const AverageShape& s, const char* what, const Body& body) {
  require(s.pixels >= 1 && s.channels >= 1, what, "images of {} pixels and {} channels", s.pixels,
          s.channels);
  const AverageBlock block{
      .pixels = s.pixels, .channels = s.channels, .factor = 1.0F / static_cast<float>(s.pixels)};
  parallel_for(s.batch, std::max<int64_t>(1, kPixelGrain / s.pixels), [&](int64_t first, int64_t last) {
    const IeeeFloat environment;
    for (int64_t n = first; n < last; ++n) body(n, block);
  });
}

}  // namespace

void average_pool(const AverageShape& s, OutputType type, const void* x, float* y) {
  const PhaseScope phase(Phase::kEpilogue);
  const auto run = fuse_kernels().average_pool[index_of(type)];
  for_each_average(s, "average_pool", [&](int64_t n, const AverageBlock& block) {
    run(block, element(x, type, n * s.pixels * s.channels), y + n * s.channels);
  });
}

void average_pool_backward(const AverageShape& s, OutputType type, const float* dy, void* dx) {
  const PhaseScope phase(Phase::kEpilogue);
  const auto run = fuse_kernels().average_pool_backward[index_of(type)];
  for_each_average(s, "average_pool", [&](int64_t n, const AverageBlock& block) {
    run(block, dy + n * s.channels, element(dx, type, n * s.pixels * s.channels));
  });
}

}  // namespace bitdial::kernels
