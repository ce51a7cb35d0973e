#pragma once

#include <cstdint>

#include "bitdial/kernels/amx/portable/product.h"
#include "bitdial/kernels/workspace.h"

/// Operand A of forward and data gradient: which 16 pixels are the rows of a tile, and the copy of the tensor
/// that makes their addresses a fixed stride.
namespace bitdial::kernels::amx {

/// Rows of a tile are 16 images at one pixel (the row stride is the image stride; taps outside the image are
/// skipped for all at once), or 16 neighbours along the fused axis (image, padded width) of one image row.
enum class TileRows : uint8_t { kImages, kPixels };

struct RowsPlan {
  TileRows tile_rows = TileRows::kImages;
  bool gather = false;     ///< all taps of an output pixel are copied next to each other (very few channels)
  bool fuse_taps = false;  ///< neighbouring taps of a kernel row are one run of channels (narrow inputs)
  bool copy = true;        ///< false: tiles read the tensor in place
  int64_t left = 0, width = 0;  ///< zero pixels before a row, and its width with them and those behind
  bool halo() const { return fuse_taps || tile_rows == TileRows::kPixels; }
};

/// Addresses are data + image * n + row * h + pixel * (left + w), in bytes; one such buffer per plane.
struct Rows {
  const uint8_t* data = nullptr;
  int64_t plane = 0, image = 0, row = 0, pixel = 0;
};

RowsPlan plan_rows(const Product& product);

/// The product that remains once the taps are gathered: a 1x1 convolution of the output's size.
Product gathered(const Product& product);

/// The 64-byte steps of one output pixel, by tap and by fused runs of taps.
int64_t steps_by_tap(const Product& product);
int64_t steps_by_run(const Product& product);

class PackedRows {
 public:
  /// `product` is the original one, also when `plan.gather`.
  PackedRows(const Product& product, const RowsPlan& plan, Workspace& memory);
  const Rows& rows() const { return rows_; }

 private:
  void copy_rows(const Product& product, const RowsPlan& plan);
  void gather_taps(const Product& product, const RowsPlan& plan);

  Rows rows_;
  uint8_t* buffer_ = nullptr;
};

}  // namespace bitdial::kernels::amx
