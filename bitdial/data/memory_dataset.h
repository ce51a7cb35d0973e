#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bitdial/data/dataset.h"

namespace bitdial::data {

/// Images held in memory, 8 bits per value, one after another in height x width x channels order.
class MemoryDataset : public Dataset {
 public:
  /// Throws Error when counts do not agree or a label has no class name.
  MemoryDataset(ImageShape shape, std::vector<uint8_t> images, std::vector<int32_t> labels,
                std::vector<std::string> class_names);

  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  int classes() const override { return static_cast<int>(class_names_.size()); }
  ImageShape shape() const override { return shape_; }
  int label(int64_t i) const override { return labels_[static_cast<size_t>(i)]; }
  void read(int64_t i, uint8_t* hwc) const override;
  std::vector<std::string> class_names() const override { return class_names_; }

 private:
  ImageShape shape_;
  std::vector<uint8_t> images_;
  std::vector<int32_t> labels_;
  std::vector<std::string> class_names_;
};

/// The same images at size x size pixels; the data set itself when it already has that size (or size is 0).
std::shared_ptr<const MemoryDataset> resized(std::shared_ptr<const MemoryDataset> dataset, int64_t size);

}  // namespace bitdial::data
