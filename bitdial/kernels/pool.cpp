#include "bitdial/kernels/pool.h"

#include <algorithm>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/core/profile.h"
#include "bitdial/kernels/elements.h"
#include "bitdial/kernels/float_environment.h"
#include "bitdial/kernels/fuse_kernels.h"

namespace bitdial::kernels {
namespace {

void check_pool(const PoolShape& s) {
  require(s.kernel >= 1 && s.kernel * s.kernel <= kNowhere && s.stride >= 1 && s.padding >= 0 &&
              2 * s.padding <= s.kernel && std::min(s.in_height, s.in_width) + 2 * s.padding >= s.kernel,
          "max_pool", "kernel {}, stride {}, padding {} on {}x{} pixels is impossible", s.kernel, s.stride,
          s.padding, s.in_height, s.in_width);
}

constexpr int64_t kPixelGrain = 64;

/// Some channels of a pixel; `at` is the element of the first one.
struct PixelPart {
  int64_t n = 0, h = 0, w = 0;
  int64_t channel = 0, count = 0, at = 0;
};

/// Runs body(part) for the pixels that elements begin .. end - 1 belong to.
template <class Body>
void for_each_pixel(int64_t begin, int64_t end, int64_t height, int64_t width, int64_t channels,
                    const Body& body) {
  const int64_t pixel = begin / channels, line = pixel / width;
  PixelPart part{.n = line / height, .h = line % height, .w = pixel % width, .channel = begin % channels};
  for (part.at = begin; part.at < end; part.at += part.count, part.channel = 0) {
    part.count = std::min(channels - part.channel, end - part.at);
    body(part);
    if (++part.w < width) continue;
    part.w = 0;
    if (++part.h < height) continue;
    part.h = 0;
    ++part.n;
  }
}

/// The blocks of a MaxPool as quantise and measure ask for them.
class MaxPoolBlocks {
 public:
  explicit MaxPoolBlocks(const MaxPool& pool)
      : pool_(pool),
        run_((pool.values != nullptr ? fuse_kernels().max_pool
                                     : fuse_kernels().max_pool_to_float)[type_index(pool.type)]) {
    check_pool(pool.shape);
    require(!is_smooth(pool.activation), "max_pool", "only ReLU and ReLU6 may stand in front of one");
    if (pool.scale == nullptr && pool.shift == nullptr) return;
    scale_ = row_of(pool.scale, 1.0F);
    shift_ = row_of(pool.shift, 0.0F);
  }

  ComputedTensor tensor() const {
    return {.type = pool_.values != nullptr ? pool_.type : OutputType::kFloat32,
            .compute = [this](int64_t begin, int64_t end, void* to) { compute(begin, end, to); },
            .values = pool_.values};
  }

 private:
  std::vector<float> row_of(const float* values, float fallback) const {
    std::vector<float> row(static_cast<size_t>(pool_.shape.channels), fallback);
    if (values != nullptr) std::copy_n(values, pool_.shape.channels, row.begin());
    return row;
  }

  void compute(int64_t begin, int64_t end, void* to) const {
    const PoolShape& s = pool_.shape;
    const OutputType out_type = pool_.values != nullptr ? pool_.type : OutputType::kFloat32;
    const void* taps[kNowhere];
    uint8_t places[kNowhere];
    PoolWindow window{.taps = taps, .places = places, .activation = pool_.activation};
    for_each_pixel(begin, end, s.out_height(), s.out_width(), s.channels, [&](const PixelPart& part) {
      const int64_t top = part.h * s.stride - s.padding, left = part.w * s.stride - s.padding;
      window.count = 0;
      for (int64_t row = std::max<int64_t>(0, -top); row < std::min(s.kernel, s.in_height - top); ++row) {
        for (int64_t column = std::max<int64_t>(0, -left); column < std::min(s.kernel, s.in_width - left);
             ++column) {
          const int64_t from = (part.n * s.in_height + top + row) * s.in_width + left + column;
          taps[window.count] = element_at(pool_.x, pool_.type, from * s.channels + part.channel);
          places[window.count++] = static_cast<uint8_t>(row * s.kernel + column);
        }
      }
      window.channels = part.count;
      window.scale = scale_.empty() ? nullptr : scale_.data() + part.channel;
      window.shift = shift_.empty() ? nullptr : shift_.data() + part.channel;
      window.best = element_at(pool_.best, pool_.type, part.at);
      run_(window, element_at(to, out_type, part.at - begin), pool_.where + part.at);
    });
  }

  const MaxPool& pool_;
  void (*run_)(const PoolWindow&, void*, uint8_t*);
  std::vector<float> scale_, shift_;
};

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

Range compute(const MaxPool& pool) {
  const PhaseScope phase(Phase::kEpilogue);
  const MaxPoolBlocks blocks(pool);
  return measure_range(blocks.tensor(), pool.shape.output_elements());
}

QuantizeStatistics compute_and_quantize(const MaxPool& pool, const Format& format,
                                        std::span<const QuantParams> params, RandomKey key, void* codes) {
  const PhaseScope phase(Phase::kEpilogue);
  const MaxPoolBlocks blocks(pool);
  return quantize(blocks.tensor(), pool.shape.output(), format, params, key, codes);
}

struct MaxPoolGradient::Plan {
  PoolShape shape;
  OutputType type;
  const void* dy;
  const uint8_t* where;
  void (*run)(const PoolWindow&, const uint8_t* const*, void*);
  Memberships rows, columns;
};

MaxPoolGradient::MaxPoolGradient(const PoolShape& shape, OutputType type, const void* dy,
                                 const uint8_t* where) {
  check_pool(shape);
  plan_ = std::make_unique<const Plan>(Plan{shape, type, dy, where,
                                            fuse_kernels().max_pool_backward[type_index(type)],
                                            memberships(shape.in_height, shape.out_height(), shape),
                                            memberships(shape.in_width, shape.out_width(), shape)});
}

MaxPoolGradient::~MaxPoolGradient() = default;

void MaxPoolGradient::expand(int64_t begin, int64_t end, void* dx) const {
  const Plan& plan = *plan_;
  const PoolShape& s = plan.shape;
  const void* taps[kNowhere];
  const uint8_t* wheres[kNowhere];
  uint8_t places[kNowhere];
  PoolWindow window{.taps = taps, .places = places};
  for_each_pixel(begin, end, s.in_height, s.in_width, s.channels, [&](const PixelPart& part) {
    window.count = 0;
    for (const Membership& row : plan.rows[static_cast<size_t>(part.h)]) {
      for (const Membership& column : plan.columns[static_cast<size_t>(part.w)]) {
        const int64_t pixel = (part.n * s.out_height() + row.out) * s.out_width() + column.out;
        const int64_t from = pixel * s.channels + part.channel;
        taps[window.count] = element_at(plan.dy, plan.type, from);
        wheres[window.count] = plan.where + from;
        places[window.count++] = static_cast<uint8_t>(row.place * s.kernel + column.place);
      }
    }
    window.channels = part.count;
    plan.run(window, wheres, element_at(dx, plan.type, part.at - begin));
  });
}

void max_pool_backward(const PoolShape& s, OutputType type, const void* dy, const uint8_t* where, void* dx) {
  const PhaseScope phase(Phase::kEpilogue);
  const MaxPoolGradient gradient(s, type, dy, where);
  const int64_t line = s.in_width * s.channels;
  parallel_for(s.batch * s.in_height, std::max<int64_t>(1, kPixelGrain / s.in_width),
               [&](int64_t first, int64_t last) {
                 const IeeeFloat environment;
                 gradient.expand(first * line, last * line, element_at(dx, type, first * line));
               });
}

namespace {

void check_pool(const AveragePoolShape& s) {
  require(std::min(s.kernel_height, s.kernel_width) >= 1 && std::min(s.stride_height, s.stride_width) >= 1 &&
              s.in_height >= s.kernel_height && s.in_width >= s.kernel_width,
          "average_pool", "kernel {}x{}, stride {}x{} on {}x{} pixels is impossible", s.kernel_height,
          s.kernel_width, s.stride_height, s.stride_width, s.in_height, s.in_width);
}

/// The blocks of an AveragePool as quantise and measure ask for them.
class AveragePoolBlocks {
 public:
  explicit AveragePoolBlocks(const AveragePool& pool)
      : pool_(pool),
        out_type_(pool.values != nullptr ? pool.values_type : OutputType::kFloat32),
        run_((out_type_ == OutputType::kFloat32 ? fuse_kernels().sum_window_to_float
                                                : fuse_kernels().sum_window)[type_index(pool.type)]) {
    check_pool(pool.shape);
    require(out_type_ == OutputType::kFloat32 || out_type_ == pool.type, "average_pool",
            "bfloat16 of float32 images is not supported");
  }

  ComputedTensor tensor() const {
    return {.type = out_type_,
            .compute = [this](int64_t begin, int64_t end, void* to) { compute(begin, end, to); },
            .values = pool_.values};
  }

 private:
  void compute(int64_t begin, int64_t end, void* to) const {
    const AveragePoolShape& s = pool_.shape;
    SumWindow window{.rows = s.kernel_height,
                     .columns = s.kernel_width,
                     .row_stride = s.in_width * s.channels,
                     .column_stride = s.channels,
                     .factor = 1.0F / static_cast<float>(s.kernel_height * s.kernel_width)};
    for_each_pixel(begin, end, s.out_height(), s.out_width(), s.channels, [&](const PixelPart& part) {
      const int64_t row = part.n * s.in_height + part.h * s.stride_height;
      const int64_t pixel = row * s.in_width + part.w * s.stride_width;
      window.x = element_at(pool_.x, pool_.type, pixel * s.channels + part.channel);
      window.channels = part.count;
      run_(window, element_at(to, out_type_, part.at - begin));
    });
  }

  const AveragePool& pool_;
  const OutputType out_type_;
  void (*run_)(const SumWindow&, void*);
};

/// Along one axis the windows, begin .. end - 1, that a coordinate lies in.
struct WindowSpan {
  int64_t begin = 0, end = 0;
};

WindowSpan windows_with(int64_t i, int64_t kernel, int64_t stride, int64_t count) {
  const int64_t end = std::min(i / stride + 1, count);
  return {std::min(i < kernel ? 0 : (i - kernel) / stride + 1, end), end};
}

}  // namespace

Range compute(const AveragePool& pool) {
  const PhaseScope phase(Phase::kEpilogue);
  const AveragePoolBlocks blocks(pool);
  return measure_range(blocks.tensor(), pool.shape.output_elements());
}

QuantizeStatistics compute_and_quantize(const AveragePool& pool, const Format& format,
                                        std::span<const QuantParams> params, RandomKey key, void* codes) {
  const PhaseScope phase(Phase::kEpilogue);
  const AveragePoolBlocks blocks(pool);
  return quantize(blocks.tensor(), pool.shape.output(), format, params, key, codes);
}

void average_pool_backward(const AveragePoolShape& s, OutputType type, const void* dy, void* dx) {
  const PhaseScope phase(Phase::kEpilogue);
  check_pool(s);
  const auto run = fuse_kernels().sum_window[type_index(type)];
  const int64_t height = s.out_height(), width = s.out_width(), line = s.in_width * s.channels;
  parallel_for(s.batch * s.in_height, std::max<int64_t>(1, kPixelGrain / s.in_width),
               [&](int64_t first, int64_t last) {
                 const IeeeFloat environment;
                 SumWindow window{.row_stride = width * s.channels,
                                  .column_stride = s.channels,
                                  .channels = s.channels,
                                  .factor = 1.0F / static_cast<float>(s.kernel_height * s.kernel_width)};
                 for (int64_t row = first; row < last; ++row) {
                   const WindowSpan rows =
                       windows_with(row % s.in_height, s.kernel_height, s.stride_height, height);
                   const int64_t from = (row / s.in_height * height + rows.begin) * width;
                   window.rows = rows.end - rows.begin;
                   for (int64_t w = 0; w < s.in_width; ++w) {
                     const WindowSpan columns = windows_with(w, s.kernel_width, s.stride_width, width);
                     window.x = element_at(dy, type, (from + columns.begin) * s.channels);
                     window.columns = columns.end - columns.begin;
                     run(window, element_at(dx, type, row * line + w * s.channels));
                   }
                 }
               });
}

}  // namespace bitdial::kernels
