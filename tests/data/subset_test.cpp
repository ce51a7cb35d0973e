#include "bitdial/data/subset.h"

#include <set>

#include "bitdial/data/memory_dataset.h"
#include "helpers.h"

namespace bitdial::data {
namespace {

// Classes of 50, 30, 20 and 7 images; image i has value i.
std::shared_ptr<const MemoryDataset> uneven() {
  Bytes images;
  std::vector<int32_t> labels;
  const int counts[] = {50, 30, 20, 7};
  for (int c = 0; c < 4; ++c) labels.insert(labels.end(), static_cast<size_t>(counts[c]), c);
  for (size_t i = 0; i < labels.size(); ++i) images.push_back(static_cast<uint8_t>(i));
  return std::make_shared<MemoryDataset>(ImageShape{1, 1, 1}, std::move(images), std::move(labels),
                                         std::vector<std::string>{"a", "b", "c", "d"});
}

std::vector<int> class_counts(const Dataset& dataset, const std::vector<int64_t>& indices) {
  std::vector<int> counts(static_cast<size_t>(dataset.classes()));
  for (int64_t i : indices) ++counts[static_cast<size_t>(dataset.label(i))];
  return counts;
}

TEST(Subset, ShowsTheChosenImages) {
  const Subset subset(uneven(), {106, 3, 50});
  EXPECT_EQ(subset.size(), 3);
  EXPECT_EQ(subset.classes(), 4);
  EXPECT_EQ(subset.label(0), 3);
  EXPECT_EQ(subset.label(2), 1);
  uint8_t value = 0;
  subset.read(2, &value);
  EXPECT_EQ(value, 50);
  expect_error([] { Subset(uneven(), {107}); }, "index 107", "107 images");
}

TEST(Subset, SplitKeepsClassShares) {
  const auto dataset = uneven();
  const auto [rest, held_out] = stratified_split(*dataset, 0.1, 4);
  EXPECT_EQ(class_counts(*dataset, held_out), (std::vector<int>{5, 3, 2, 1}));
  std::set<int64_t> all(rest.begin(), rest.end());
  all.insert(held_out.begin(), held_out.end());
  EXPECT_EQ(all.size(), 107U);
  EXPECT_EQ(rest.size() + held_out.size(), 107U);
  EXPECT_EQ(stratified_split(*dataset, 0.1, 4).second, held_out);
  EXPECT_NE(stratified_split(*dataset, 0.1, 5).second, held_out);
  expect_error([&] { stratified_split(*dataset, 1.0, 0); }, "share is 1");
}

TEST(Subset, FoldsPartitionTheDataSet) {
  const auto dataset = uneven();
  const auto folds = stratified_folds(*dataset, 10, 1);
  ASSERT_EQ(folds.size(), 10U);
  std::set<int64_t> all;
  for (const auto& fold : folds) {
    EXPECT_GE(fold.size(), 10U);
    EXPECT_LE(fold.size(), 11U);
    const auto counts = class_counts(*dataset, fold);
    EXPECT_EQ(counts[0], 5);
    EXPECT_EQ(counts[1], 3);
    EXPECT_EQ(counts[2], 2);
    EXPECT_LE(counts[3], 1);
    all.insert(fold.begin(), fold.end());
  }
  EXPECT_EQ(all.size(), 107U);
  expect_error([&] { stratified_folds(*dataset, 1, 0); }, "1 folds");
}

}  // namespace
}  // namespace bitdial::data
