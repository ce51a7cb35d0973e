#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "bitdial/data/dataset.h"

// A data set to copy: grey images as rows "label,pixel,pixel,..." of train.csv and test.csv. To make it your
// own:
//   1. rename the class and read your format in the constructor (or in read(), when it does not fit into
//   memory);
//   2. add one line to kEntries in dataset.cpp: the name that recipes and the command will know;
//   3. add mean and deviation to kKnown in augmentation.cpp.
// Then `bitdial data info NAME --dir D` and `bitdial train RECIPE --set data.name=NAME` work.
namespace bitdial::data {

class SkeletonDataset : public Dataset {
 public:
  /// Reads everything at once and checks everything here, so that read() has nothing left to fail at. Errors
  /// name the file and the line, what was expected and what came.
  SkeletonDataset(const std::filesystem::path& dir, Split split);

  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  int classes() const override { return classes_; }
  ImageShape shape() const override { return {1, edge_, edge_}; }
  int label(int64_t i) const override { return labels_[static_cast<size_t>(i)]; }
  std::vector<std::string> class_names() const override;

  /// Called from several threads at once: reads members, changes none.
  void read(int64_t i, uint8_t* hwc) const override;

 private:
  void add_row(const std::string& where, const std::string& row);

  int64_t edge_ = 0;  // images are edge_ x edge_ pixels, as many as the first row has
  int classes_ = 0;
  std::vector<int> labels_;
  std::vector<uint8_t> pixels_;
};

}  // namespace bitdial::data
