#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "bitdial/data/dataset.h"

namespace bitdial::data {

/// Chosen images of another data set, in the given order.
class Subset : public Dataset {
 public:
  /// Throws Error when an index lies outside the data set.
  Subset(std::shared_ptr<const Dataset> dataset, std::vector<int64_t> indices);

  int64_t size() const override { return static_cast<int64_t>(indices_.size()); }
  int classes() const override { return dataset_->classes(); }
  ImageShape shape() const override { return dataset_->shape(); }
  int label(int64_t i) const override { return dataset_->label(indices_[static_cast<size_t>(i)]); }
  void read(int64_t i, uint8_t* hwc) const override { dataset_->read(indices_[static_cast<size_t>(i)], hwc); }
  void read_region(int64_t i, const RectChooser& choose, uint8_t* hwc) const override {
    dataset_->read_region(indices_[static_cast<size_t>(i)], choose, hwc);
  }
  std::vector<std::string> class_names() const override { return dataset_->class_names(); }

 private:
  std::shared_ptr<const Dataset> dataset_;
  std::vector<int64_t> indices_;
};

/// k disjoint index sets that together hold every image once; each has every class in the proportion of the
/// whole (counts differ by at most one). The same seed gives the same folds.
std::vector<std::vector<int64_t>> stratified_folds(const Dataset& dataset, int k, uint64_t seed);

/// Indices of (the rest, a share of each class): round(share * count) images of every class are held out.
/// 0 < share < 1.
std::pair<std::vector<int64_t>, std::vector<int64_t>> stratified_split(const Dataset& dataset, double share,
                                                                       uint64_t seed);

}  // namespace bitdial::data
