#include "bitdial/data/subset.h"

#include <algorithm>
#include <cmath>

#include "bitdial/core/error.h"
#include "bitdial/data/order.h"

namespace bitdial::data {
namespace {

// The indices of each class, each list shuffled by (seed, class).
std::vector<std::vector<int64_t>> shuffled_classes(const Dataset& dataset, uint64_t seed) {
  std::vector<std::vector<int64_t>> members(static_cast<size_t>(dataset.classes()));
  for (int64_t i = 0; i < dataset.size(); ++i) members[static_cast<size_t>(dataset.label(i))].push_back(i);
  for (size_t c = 0; c < members.size(); ++c) shuffle(members[c], split_key(seed, static_cast<uint32_t>(c)));
  return members;
}

}  // namespace

Subset::Subset(std::shared_ptr<const Dataset> dataset, std::vector<int64_t> indices)
    : dataset_(std::move(dataset)), indices_(std::move(indices)) {
  require(dataset_ != nullptr, "subset", "expected a data set, got none");
  for (int64_t index : indices_) {
    require(index >= 0 && index < dataset_->size(), "subset", "index {} lies outside a data set of {} images",
            index, dataset_->size());
  }
}

std::vector<std::vector<int64_t>> stratified_folds(const Dataset& dataset, int k, uint64_t seed) {
  require(k >= 2 && k <= dataset.size(), "folds", "{} images do not make {} folds, expected 2..{}",
          dataset.size(), k, dataset.size());
  std::vector<std::vector<int64_t>> folds(static_cast<size_t>(k));
  size_t next = 0;  // dealing goes on from class to class, so that fold sizes differ by at most one too
  for (const auto& members : shuffled_classes(dataset, seed)) {
    for (int64_t i : members) folds[next++ % folds.size()].push_back(i);
  }
  for (auto& fold : folds) std::sort(fold.begin(), fold.end());
  return folds;
}

std::pair<std::vector<int64_t>, std::vector<int64_t>> stratified_split(const Dataset& dataset, double share,
                                                                       uint64_t seed) {
  require(share > 0 && share < 1, "split", "share is {}, expected between 0 and 1", share);
  std::pair<std::vector<int64_t>, std::vector<int64_t>> split;
  for (const auto& members : shuffled_classes(dataset, seed)) {
    const auto held_out = std::lround(share * static_cast<double>(members.size()));
    split.second.insert(split.second.end(), members.begin(), members.begin() + held_out);
    split.first.insert(split.first.end(), members.begin() + held_out, members.end());
  }
  std::sort(split.first.begin(), split.first.end());
  std::sort(split.second.begin(), split.second.end());
  return split;
}

}  // namespace bitdial::data
