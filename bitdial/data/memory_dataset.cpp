#include "bitdial/data/memory_dataset.h"

#include <algorithm>
#include <cstring>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/data/resize.h"

namespace bitdial::data {

MemoryDataset::MemoryDataset(ImageShape shape, std::vector<uint8_t> images, std::vector<int32_t> labels,
                             std::vector<std::string> class_names)
    : shape_(shape),
      images_(std::move(images)),
      labels_(std::move(labels)),
      class_names_(std::move(class_names)) {
  const auto expected = static_cast<size_t>(shape_.elements()) * labels_.size();
  require(images_.size() == expected, "dataset", "{} labels of {}x{}x{} images need {} bytes, got {}",
          labels_.size(), shape_.height, shape_.width, shape_.channels, expected, images_.size());
  const auto classes = static_cast<int32_t>(class_names_.size());
  for (size_t i = 0; i < labels_.size(); ++i) {
    require(labels_[i] >= 0 && labels_[i] < classes, "dataset", "label of image {} is {}, expected 0..{}", i,
            labels_[i], classes - 1);
  }
}

void MemoryDataset::read(int64_t i, uint8_t* hwc) const {
  const int64_t elements = shape_.elements();
  std::memcpy(hwc, images_.data() + i * elements, static_cast<size_t>(elements));
}

std::shared_ptr<const MemoryDataset> resized(std::shared_ptr<const MemoryDataset> dataset, int64_t size) {
  const ImageShape from = dataset->shape();
  if (size == 0 || (from.height == size && from.width == size)) return dataset;
  const ImageShape to{from.channels, size, size};
  std::vector<uint8_t> images(static_cast<size_t>(dataset->size() * to.elements()));
  std::vector<int32_t> labels(static_cast<size_t>(dataset->size()));
  parallel_for(dataset->size(), 64, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> stored(static_cast<size_t>(from.elements()));
    const Rect whole{0, 0, static_cast<double>(from.width), static_cast<double>(from.height)};
    for (int64_t i = begin; i < end; ++i) {
      labels[static_cast<size_t>(i)] = dataset->label(i);
      dataset->read(i, stored.data());
      resize_region({stored.data(), from}, whole, to.height, to.width, images.data() + i * to.elements());
    }
  });
  return std::make_shared<MemoryDataset>(to, std::move(images), std::move(labels), dataset->class_names());
}

}  // namespace bitdial::data
