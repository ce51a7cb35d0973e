#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "bitdial/kernels/fuse.h"

/// Max and average pools of channels_last images, float32 or bfloat16 (one type per call). As in fuse.h a
/// max pool is one pass with what stands before it, normalisation and activation, and with the quantiser of
/// who reads it; its gradient is part of the pass that reads that. An average pool is one pass with the
/// quantiser of who reads it. Results do not depend on instruction set or thread count.
namespace bitdial::kernels {

struct PoolShape {
  int64_t batch = 1, channels = 1, in_height = 1, in_width = 1;
  int64_t kernel = 2, stride = 2, padding = 0;  ///< kernel * kernel < 255

  int64_t out_height() const { return (in_height + 2 * padding - kernel) / stride + 1; }
  int64_t out_width() const { return (in_width + 2 * padding - kernel) / stride + 1; }
  int64_t input_elements() const { return batch * in_height * in_width * channels; }
  int64_t output_elements() const { return batch * out_height() * out_width() * channels; }
  TensorShape output() const {
    return {.outer = batch,
            .channels = channels,
            .inner = out_height() * out_width(),
            .order = MemoryOrder::kInterleaved};
  }
};

/// y = the largest element of each window of activation(scale[c] * x + shift[c]), of which x alone is stored.
/// NaN is skipped unless a window holds nothing else. Null pointers: scales of 1, no shift.
struct MaxPool {
  PoolShape shape;
  OutputType type = OutputType::kFloat32;
  const void* x = nullptr;
  const float* scale = nullptr;
  const float* shift = nullptr;
  Activation activation = Activation::kNone;  ///< not kGelu
  /// Receives the maximum's place in its window (row * kernel + column; the first of equal ones), or
  /// kNowhere.
  uint8_t* where = nullptr;
  void* best = nullptr;    ///< receives the element of x at that place
  void* values = nullptr;  ///< receives y
};

/// Computes y into `values` and returns its range (both members NaN if an element is not finite).
Range compute(const MaxPool& pool);

/// Computes and quantises y in one pass: the codes and statistics of quantize() on the stored values or,
/// where `values` is not given, on y in float32.
QuantizeStatistics compute_and_quantize(const MaxPool& pool, const Format& format,
                                        std::span<const QuantParams> params, RandomKey key, void* codes);

/// The gradient of a max pool's x from that of its y, dy, of which dy alone is stored: an element has the sum
/// over the windows whose maximum it was, in float32, rounded once; behind a scale, a shift and an activation
/// the gradient of scale * x + shift.
class MaxPoolGradient {
 public:
  MaxPoolGradient(const PoolShape& shape, OutputType type, const void* dy, const uint8_t* where);
  ~MaxPoolGradient();
  MaxPoolGradient(const MaxPoolGradient&) = delete;
  MaxPoolGradient& operator=(const MaxPoolGradient&) = delete;

  /// Elements begin .. end - 1 of x's gradient. Any thread.
  void expand(int64_t begin, int64_t end, void* dx) const;

 private:
  struct Plan;
  std::unique_ptr<const Plan> plan_;
};

/// All of it.
void max_pool_backward(const PoolShape& shape, OutputType type, const void* dy, const uint8_t* where,
                       void* dx);

struct AveragePoolShape {
  int64_t batch = 1, channels = 1, in_height = 1, in_width = 1;
  int64_t kernel_height = 2, kernel_width = 2, stride_height = 2, stride_width = 2;

  int64_t out_height() const { return (in_height - kernel_height) / stride_height + 1; }
  int64_t out_width() const { return (in_width - kernel_width) / stride_width + 1; }
  int64_t input_elements() const { return batch * in_height * in_width * channels; }
  int64_t output_elements() const { return batch * out_height() * out_width() * channels; }
  TensorShape output() const {
    return {.outer = batch,
            .channels = channels,
            .inner = out_height() * out_width(),
            .order = MemoryOrder::kInterleaved};
  }
};

/// y = the mean of each window of x, added up in float32 row by row and rounded once.
struct AveragePool {
  AveragePoolShape shape;
  OutputType type = OutputType::kFloat32;  ///< of x
  const void* x = nullptr;
  OutputType values_type = OutputType::kFloat32;  ///< float32 or that of x
  void* values = nullptr;                         ///< receives y
};

/// As for a max pool.
Range compute(const AveragePool& pool);
QuantizeStatistics compute_and_quantize(const AveragePool& pool, const Format& format,
                                        std::span<const QuantParams> params, RandomKey key, void* codes);

/// dx[pixel] = the sum of dy over the windows with that pixel, by the pixels of a window.
void average_pool_backward(const AveragePoolShape& shape, OutputType type, const void* dy, void* dx);

}  // namespace bitdial::kernels
