#include "bitdial/data/image_folder.h"

#include <set>

#include "bitdial/data/image_file.h"
#include "helpers.h"
#include "jpeg_writer.h"

namespace bitdial::data {
namespace {

namespace fs = std::filesystem;

// An image of one colour.
void write_plain(const fs::path& file, int64_t width, int64_t height, uint8_t value) {
  fs::create_directories(file.parent_path());
  write_png(file, {width, height, Bytes(static_cast<size_t>(width * height * 3), value)});
}

TEST(ImageFolder, ClassesAreSortedFolders) {
  const TempDir dir;
  write_plain(dir / "train/zebra/1.png", 20, 30, 10);
  write_plain(dir / "train/ant/nested/2.PNG", 40, 25, 20);
  write_jpeg(dir / "train/ant/3.jpeg", 33, 22, 3, Bytes(33 * 22 * 3, 30));
  write_plain(dir / "val/ant/1.png", 50, 50, 40);
  write_plain(dir / "val/zebra/1.png", 50, 50, 50);
  write_file(dir / "train/ant/notes.txt", {'x'});
  write_file(dir / "train/ant/.hidden.png", {'x'});
  write_file(dir / "train/readme.md", {'x'});

  const auto train = open_dataset("image-folder", dir.path(), Split::kTrain, {.image_size = 8});
  ASSERT_EQ(train->size(), 3);
  EXPECT_EQ(train->class_names(), (std::vector<std::string>{"ant", "zebra"}));
  EXPECT_EQ(train->shape(), (ImageShape{3, 8, 8}));
  Bytes image(192);
  const std::vector<std::pair<int, int>> expected{{0, 30}, {0, 20}, {1, 10}};  // label, value
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(train->label(static_cast<int64_t>(i)), expected[i].first);
    train->read(static_cast<int64_t>(i), image.data());
    EXPECT_NEAR(image[100], expected[i].second, 2);
  }
  EXPECT_EQ(open_dataset("image-folder", dir.path(), Split::kTest)->shape(), (ImageShape{3, 224, 224}));
  EXPECT_EQ(open_dataset("image-folder", dir.path(), Split::kTest)->size(), 2);
}

// 512 x 256 pixels: the centred 224 of 256, that is x 144..367 and y 16..239.
TEST(ImageFolder, TestImagesAreTheCentre) {
  const TempDir dir;
  Image image{512, 256, {}};
  for (int64_t y = 0; y < 256; ++y) {
    for (int64_t x = 0; x < 512; ++x) {
      for (int64_t value : {x / 2, y, int64_t{0}}) image.rgb.push_back(static_cast<uint8_t>(value));
    }
  }
  fs::create_directories(dir / "train/a");
  fs::create_directories(dir / "test/a");
  write_png(dir / "train/a/1.png", image);
  write_png(dir / "test/a/1.png", image);
  const auto test = open_dataset("image-folder", dir.path(), Split::kTest);
  Bytes out(224 * 224 * 3);
  test->read(0, out.data());
  EXPECT_EQ(out[0], 144 / 2);
  EXPECT_EQ(out[1], 16);
  EXPECT_EQ(out[out.size() - 3], 367 / 2);
  EXPECT_EQ(out[out.size() - 2], 239);
}

// A large JPEG is decoded at a fraction of its size; the region stays the same.
TEST(ImageFolder, ShrunkenDecodingKeepsTheRegion) {
  const TempDir dir;
  Bytes rgb;
  for (int y = 0; y < 512; ++y) {
    for (int x = 0; x < 1024; ++x) {
      for (int value : {x / 4, y / 2, 60}) rgb.push_back(static_cast<uint8_t>(value));
    }
  }
  for (const char* split : {"train", "val"}) write_jpeg(dir / split / "a/1.jpg", 1024, 512, 3, rgb);
  const auto dataset = open_dataset("image-folder", dir.path(), Split::kTrain, {.image_size = 16});
  Bytes out(16 * 16 * 3);
  dataset->read_region(
      0,
      [](int64_t, int64_t) {
        return Rect{512, 128, 256, 256};
      },
      out.data());
  for (int y = 0; y < 16; ++y) {
    for (int x = 0; x < 16; ++x) {
      const auto at = static_cast<size_t>((y * 16 + x) * 3);
      ASSERT_NEAR(out[at], (512 + 16 * x + 8) / 4, 3);
      ASSERT_NEAR(out[at + 1], (128 + 16 * y + 8) / 2, 4);
    }
  }
}

TEST(ImageFolder, SplitsOneFolderByAFixedRule) {
  const TempDir dir;
  for (int i = 0; i < 20; ++i) {
    for (const char* name : {"a", "b"}) {
      write_plain(dir / name / fmt::format("{}.png", i), 8, 8,
                  static_cast<uint8_t>(i + (*name == 'b' ? 100 : 0)));
    }
  }
  std::set<uint8_t> seen;
  for (const Split split : {Split::kTrain, Split::kTest}) {
    const auto dataset = open_dataset("image-folder", dir.path(), split, {.image_size = 4});
    EXPECT_EQ(dataset->size(), split == Split::kTrain ? 36 : 4);
    std::vector<int> counts(2);
    for (int64_t i = 0; i < dataset->size(); ++i) {
      Bytes image(48);
      dataset->read(i, image.data());
      EXPECT_TRUE(seen.insert(image[0]).second);
      EXPECT_EQ(dataset->label(i), image[0] >= 100 ? 1 : 0);
      ++counts[static_cast<size_t>(dataset->label(i))];
    }
    EXPECT_EQ(counts[0], counts[1]);
  }
  EXPECT_EQ(seen.size(), 40U);
}

TEST(ImageFolder, NamesWhatIsWrong) {
  const TempDir dir;
  const auto open = [&](Split split) {
    return open_dataset("image-folder", dir.path(), split, {.image_size = 8});
  };
  expect_error([&] { open_dataset("image-folder", dir / "none", Split::kTrain); }, "none", "no such folder");
  expect_error([&] { open(Split::kTrain); }, dir.path().string(), "one sub-folder per class, found none");
  fs::create_directories(dir / "cat");
  expect_error([&] { open(Split::kTrain); }, "cat", "expected .png, .jpg or .jpeg files, found none");
  write_plain(dir / "cat/1.png", 8, 8, 1);
  expect_error([&] { open(Split::kTest); }, "too few to split off a test set");

  write_plain(dir / "train/cat/1.png", 8, 8, 1);
  write_plain(dir / "train/dog/1.png", 8, 8, 1);
  expect_error([&] { open(Split::kTrain); }, "neither val/ nor test/");
  write_plain(dir / "test/cat/1.png", 8, 8, 1);
  expect_error([&] { open(Split::kTest); }, "test", "(cat, dog)", "found cat");
  write_plain(dir / "test/dog/1.png", 8, 8, 1);
  EXPECT_EQ(open(Split::kTest)->size(), 2);

  write_file(dir / "train/cat/0.jpg", {'b', 'a', 'd'});
  const auto dataset = open(Split::kTrain);
  Bytes image(192);
  expect_error([&] { dataset->read(0, image.data()); }, "train/cat/0.jpg", "expected a PNG or JPEG");
  fs::remove(dir / "train/cat/0.jpg");
  expect_error([&] { dataset->read(0, image.data()); }, "train/cat/0.jpg", "cannot open");
}

TEST(Datasets, UnknownNamesAreErrors) {
  expect_error([] { open_dataset("cifar11", "", Split::kTrain); }, "'cifar11'", "cifar10, cifar100, mnist");
  expect_error([] { open_dataset("shapes", "", Split::kTrain, {.image_size = 9999}); }, "9999");
  EXPECT_FALSE(needs_directory("shapes"));
  EXPECT_TRUE(needs_directory("mnist"));
  EXPECT_EQ(dataset_names().size(), 7U);
}

}  // namespace
}  // namespace bitdial::data
