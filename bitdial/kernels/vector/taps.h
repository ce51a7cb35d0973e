#pragma once

#include <cstdint>
#include <vector>

/// Which taps of the kernel meet which input rows (or columns). Both the forward convolution and the data
/// gradient gather: output coordinate o sums over taps t of input(o, t) * weight(t).
namespace bitdial::kernels::vector {

/// The valid taps [first, last) of one output coordinate, in packed order; tap t reads input coordinate
/// input + (t - first) * dilation.
struct TapSpan {
  int32_t first = 0, last = 0, input = 0;
};

/// One spatial axis of a gathering convolution.
struct TapAxis {
  int64_t in = 0;
  int64_t out = 0;
  int64_t dilation = 1;
  std::vector<TapSpan> spans;  ///< one per output coordinate
  std::vector<TapSpan> whole;  ///< the same with the taps outside the image
  std::vector<int32_t> order;  ///< packed tap -> tap of the kernel
  std::vector<TapSpan>
      classes;  ///< the distinct (first, last): border classes, and phases of a strided gradient
  std::vector<std::vector<int32_t>> members;  ///< by class, its output coordinates in order
};

/// One axis of conv2d's geometry.
struct ConvAxis {
  int64_t in = 1, out = 1, kernel = 1, stride = 1, padding = 0, dilation = 1;
};

TapAxis forward_taps(const ConvAxis& axis);

/// The data gradient as a gather over dY: output coordinates of equal remainder modulo the stride meet the
/// same taps, so the taps are packed by remainder, in the order of ascending dY coordinates.
TapAxis backward_taps(const ConvAxis& axis);

/// An axis whose input is surrounded by as much padding as taps reach into, so that no tap is outside.
struct PaddedAxis {
  TapAxis axis;        ///< `in` counts the padding
  int64_t before = 0;  ///< padding in front
  double waste = 1.0;  ///< taps by valid taps
};

PaddedAxis pad(const TapAxis& axis);

}  // namespace bitdial::kernels::vector
