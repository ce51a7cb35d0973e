#pragma once

#include <cstdint>

#include "bitdial/kernels/conv2d.h"

/// The inner loops of depth-wise convolutions: one block of channels, one image row. Plain data, so that
/// source files with instruction-set flags share no inline function with others.
///
/// Codes are multiplied as int16: two products per instruction and lane are added into int32 (vpmaddwd).
/// Codes of 8 bits are one such plane; of 16 bits, the first operand stays whole if signed, the second is
/// split into digits of 8 bits (unsigned ones always are), so that 256 products of a lane never overflow.
namespace bitdial::kernels::depthwise {

constexpr int64_t kMaxProducts = 256;

/// One row of output pixels of forward or data gradient.
struct RowTask {
  const uint8_t* const* taps = nullptr;  ///< [pixel][2 * pairs] the pixel at each tap; zeros for padding
  int64_t tap_offset = 0;                ///< bytes from there to the block's channels
  int64_t pixels = 0, pairs = 0;
  CodeType type = CodeType::kS8;
  const int16_t* weights = nullptr;  ///< [pair][plane][weight_position]
  int weight_planes = 1;             ///< 2: digits of 16-bit weights
  void* output = nullptr;            ///< of the first pixel; pixels are `output_stride` elements apart
  int64_t output_stride = 0;
  OutputType output_type = OutputType::kFloat32;
  int64_t channels = 0;  ///< lanes that are stored
  float scale = 1.0F;
  const float* weight_scale = nullptr;  ///< [lane]
  const float* bias = nullptr;          ///< [lane] or null
  // With zero codes or offsets (corrected):
  bool corrected = false;
  float offset = 0.0F;
  int64_t zero_code = 0;
  const float* weight_offset = nullptr;       ///< [lane]
  const int64_t* weight_zero_code = nullptr;  ///< [lane]
  const int64_t* const* weight_sums =
      nullptr;                      ///< [pixel] -> [channel] sums of the weights over the valid taps
  int64_t first_channel = 0;        ///< of the block
  const int64_t* counts = nullptr;  ///< [pixel] valid taps
};

/// One tap's products along one row: sums[lane] += x * dy over the pixels.
struct GradientTask {
  const void* x = nullptr;
  const void* dy = nullptr;
  int64_t x_step = 0, dy_step = 0;  ///< bytes from pixel to pixel
  int64_t pixels = 0;               ///< at most kMaxProducts
  CodeType x_type = CodeType::kS8, dy_type = CodeType::kS8;
  int64_t* sums = nullptr;
};

/// Where a lane's weight of the first (0) or second (1) tap of a pair stands: vpunpck joins the taps' codes
/// within each 128 bits, the lower four channels in one vector and the upper four in the next.
constexpr int weight_position(int lanes, int lane, int tap) {
  return lane % 8 / 4 * lanes + lane / 8 * 8 + lane % 4 * 2 + tap;
}

struct DepthwiseKernels {
  int lanes = 0;
  void (*row)(const RowTask& task) = nullptr;
  void (*gradient)(const GradientTask& task) = nullptr;
};

}  // namespace bitdial::kernels::depthwise

/// Null where the instruction set does not exist for the target of the build.
namespace bitdial::kernels::avx2 {
extern const depthwise::DepthwiseKernels* const kDepthwise;
}
namespace bitdial::kernels::avx512vnni {
extern const depthwise::DepthwiseKernels* const kDepthwise;
}
