#pragma once

#include <cstdint>

#include "bitdial/kernels/conv2d.h"

/// The data movements between dense tensors and the operands of tiles. A tile holds 1024 bytes.
namespace bitdial::kernels::amx {

/// Splits `count` codes into their planes (digits.h); one plane is a copy.
void split_codes(const void* codes, CodeType type, int64_t count, uint8_t* plane0, uint8_t* plane1);

/// 64 rows of 16 bytes -> [16 groups of 4 rows][16][4]: operand B from rows along the columns.
void interleave_rows(const uint8_t* rows, int64_t row_stride, uint8_t* tile);

/// 16 rows of 64 bytes -> [16 groups of 4 bytes][16 rows][4]: operand B from rows along the reduced axis.
/// Also the transpose of a 16 x 16 matrix of 32-bit words.
void transpose_words(const void* rows, int64_t row_stride, void* tile);

/// 64 rows of 16 bytes -> [16][64 rows]: operand A from rows across the reduced axis.
void transpose_bytes(const uint8_t* rows, int64_t row_stride, uint8_t* tile);

}  // namespace bitdial::kernels::amx
