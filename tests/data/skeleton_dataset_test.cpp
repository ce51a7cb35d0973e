#include "bitdial/data/skeleton_dataset.h"

#include "bitdial/data/loader.h"
#include "helpers.h"

namespace bitdial::data {
namespace {

void write_text(const std::filesystem::path& file, const std::string& text) {
  write_file(file, Bytes(text.begin(), text.end()));
}

TEST(Skeleton, ReadsRowsAndLoads) {
  const TempDir dir;
  write_text(dir / "train.csv", "0,1,2,3,4\n2,5,6,7,255\n1,0,0,0,9\n");
  const auto dataset = std::make_shared<SkeletonDataset>(dir.path(), Split::kTrain);
  ASSERT_EQ(dataset->size(), 3);
  EXPECT_EQ(dataset->classes(), 3);
  EXPECT_EQ(dataset->class_names().size(), 3U);
  EXPECT_EQ(dataset->shape(), (ImageShape{1, 2, 2}));
  EXPECT_EQ(dataset->label(1), 2);
  Bytes image(4);
  dataset->read(1, image.data());
  EXPECT_EQ(image, (Bytes{5, 6, 7, 255}));
  Loader loader(dataset, {.batch_size = 2});
  loader.start_epoch(0);
  EXPECT_EQ(loader.next()->images.size(), 8U);
}

TEST(Skeleton, NamesFileAndRow) {
  const TempDir dir;
  const auto open = [&] { SkeletonDataset(dir.path(), Split::kTest); };
  expect_error(open, "[skeleton]", "test.csv", "found none");
  write_text(dir / "test.csv", "0,1,2,3,4\n1,1,2,3\n");
  expect_error(open, "test.csv: row 2", "expected a label and 4 pixels, found 4 values");
  write_text(dir / "test.csv", "0,1,256,3,4\n");
  expect_error(open, "test.csv: row 1", "value 2 is not a number of 0..255");
  write_text(dir / "test.csv", "0,1,,3,4\n");
  expect_error(open, "value 2 is not a number");
  write_text(dir / "test.csv", "0,1,2,3,4,5\n");
  expect_error(open, "row 1", "found 6 values");
  write_text(dir / "test.csv", "0,1,2,3,\n");
  expect_error(open, "value 4 is not a number");
}

}  // namespace
}  // namespace bitdial::data
