#pragma once

#include <filesystem>
#include <memory>

#include "bitdial/data/dataset.h"

namespace bitdial::data {

/// PNG and JPEG files in one folder per class; classes are the folder names in alphabetical order. `dir`
/// holds train/ and val/ (or test/) with the class folders, or the class folders themselves: then one image
/// in ten of every class, chosen by a fixed rule, is the test split. read() cuts the centred square of
/// 224/256 of the shorter side and resizes it to image_size x image_size. Files are listed here and read when
/// they are asked for. Throws Error for missing or empty folders, and when the classes of the two splits
/// differ.
std::shared_ptr<const Dataset> open_image_folder(const std::filesystem::path& dir, Split split,
                                                 int64_t image_size);

}  // namespace bitdial::data
