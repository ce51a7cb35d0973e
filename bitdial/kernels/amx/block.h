#pragma once

#include <cstdint>

#include "bitdial/kernels/amx/digits.h"

/// What runs on tiles: one block of up to 32 rows x 32 columns of sums, in any of the three GEMMs.
///
/// Operand A is read as rows of 64 bytes along the reduced axis. Operand B is packed in tiles of 1024 bytes,
/// [16 groups of 4][16 columns][4], the second column tile right behind the first. Operands of 16 bits are
/// two such buffers (planes).
///
/// The driver (portable/) never touches a tile; it calls through BlockKernels, of which there is one for the
/// hardware and one for the plain C++ twin. Everything here is plain data, so that no inline function of a
/// source file with instruction-set flags can leak into the rest of the program.
namespace bitdial::kernels::amx {

constexpr int64_t kTileBytes = 1024;
/// Readable bytes that operands have behind their last row: tile rows are 64 bytes whatever the channels.
constexpr int64_t kReadSlack = 256;
constexpr int64_t kBlockSums = 1024;  ///< 32 x 32, as four tiles [row tile][column tile][16][16]

/// `steps` products of 64 along the reduced axis; step i reads A at a + i * a_step and B at b + i * b_step.
/// At most 256 steps.
struct Run {
  const uint8_t* a = nullptr;
  const uint8_t* b = nullptr;
  int64_t steps = 0;
};

/// Strides in bytes, common to the runs of a block.
struct BlockGeometry {
  int row_tiles = 2, column_tiles = 2;
  int64_t a_row = 0;       ///< from one row of a tile to the next
  int64_t a_row_tile = 0;  ///< from the first row tile to the second
  int64_t a_step = 64, b_step = 2 * kTileBytes;
  int64_t a_plane = 0, b_plane = 0;
};

/// The sums of a block between visits. While no more than DigitPlan::max_steps steps were added they stay in
/// int32; before the next they move to int64.
struct BlockSums {
  int32_t* narrow = nullptr;  ///< [digit class][kBlockSums], 64-byte aligned
  int64_t* wide = nullptr;    ///< [kBlockSums]; needed when more than max_steps steps can come
  int64_t steps = 0;          ///< in `narrow`; 0 means that its contents do not count
  bool has_wide = false;
};

/// One row of a block on its way to the output. `output` is null for rows that are padding.
struct OutputRow {
  void* output = nullptr;
  float scale = 1.0F, offset = 0.0F;
  int64_t zero_code = 0;
  int64_t count = 0;                     ///< valid products
  int64_t code_sum = 0;                  ///< sum of operand A's codes over them
  const int64_t* column_sums = nullptr;  ///< sum of operand B's codes over them, per column
};

/// The columns of a block. Arrays have 32 readable entries.
struct OutputColumns {
  int64_t count = 32;
  OutputType type = OutputType::kFloat32;
  bool corrected = false;  ///< a zero code or an offset is not 0: OutputRow's and these fields count
  const float* scale = nullptr;
  const float* offset = nullptr;
  const int64_t* zero_code = nullptr;
  const float* bias = nullptr;  ///< or null
};

struct BlockKernels {
  /// Around every use of the others, on every thread.
  void (*configure)();
  void (*release)();
  /// sums += the products of the runs.
  void (*accumulate)(const DigitPlan& digits, const BlockGeometry& geometry, const Run* runs,
                     int64_t run_count, BlockSums& sums);
  /// Scales, corrects, adds the bias, rounds and stores rows [0, row_count) of a block.
  void (*store_rows)(const DigitPlan& digits, const BlockSums& sums, const OutputRow* rows, int64_t row_count,
                     const OutputColumns& columns);
  /// totals[i] = the exact sums, in the order of BlockSums.
  void (*collect)(const DigitPlan& digits, const BlockSums& sums, int64_t* totals);
};

}  // namespace bitdial::kernels::amx
