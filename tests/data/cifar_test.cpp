#include "bitdial/data/cifar.h"

#include <cstdlib>

#include "helpers.h"

namespace bitdial::data {
namespace {

const std::vector<std::string> kTen{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"};

// Record r has label r mod classes, red = r, green = r + 1, blue = column.
Bytes records(int count, int label_bytes, int classes) {
  Bytes bytes;
  for (int r = 0; r < count; ++r) {
    for (int b = 0; b < label_bytes; ++b)
      bytes.push_back(static_cast<uint8_t>(r % classes + b - (label_bytes - 1)));
    for (int p = 0; p < 1024; ++p) bytes.push_back(static_cast<uint8_t>(r));
    for (int p = 0; p < 1024; ++p) bytes.push_back(static_cast<uint8_t>(r + 1));
    for (int p = 0; p < 1024; ++p) bytes.push_back(static_cast<uint8_t>(p % 32));
  }
  return bytes;
}

TEST(Cifar, ReadsPlanesAsPixels) {
  const TempDir dir;
  write_file(dir / "one.bin", records(12, 1, 10));
  write_file(dir / "two.bin", records(12, 1, 10));
  const auto dataset = read_cifar({"cifar10", 1, 10}, {dir / "one.bin", dir / "two.bin"}, 12, kTen);
  ASSERT_EQ(dataset->size(), 24);
  EXPECT_EQ(dataset->classes(), 10);
  EXPECT_EQ(dataset->shape(), (ImageShape{3, 32, 32}));
  EXPECT_EQ(dataset->label(11), 1);
  EXPECT_EQ(dataset->label(12), 0);
  Bytes image(3072);
  dataset->read(17, image.data());  // record 5 of the second file
  EXPECT_EQ(image[(3 * 32 + 7) * 3 + 0], 5);
  EXPECT_EQ(image[(3 * 32 + 7) * 3 + 1], 6);
  EXPECT_EQ(image[(3 * 32 + 7) * 3 + 2], 7);
}

TEST(Cifar, TakesTheFineLabelOfCifar100) {
  const TempDir dir;
  write_file(dir / "train.bin", records(150, 2, 100));
  std::vector<std::string> names(100, "x");
  const auto dataset = read_cifar({"cifar100", 2, 100}, {dir / "train.bin"}, 150, names);
  EXPECT_EQ(dataset->label(42), 42);
  EXPECT_EQ(dataset->label(142), 42);
}

TEST(Cifar, NamesFileAndExpectationOfMalformedData) {
  const TempDir dir;
  const CifarLayout layout{"cifar10", 1, 10};
  const auto read = [&] { read_cifar(layout, {dir / "data.bin"}, 10, kTen); };
  expect_error(read, "[cifar10]", "data.bin", "cannot open");

  Bytes bytes = records(10, 1, 10);
  bytes.pop_back();
  write_file(dir / "data.bin", bytes);
  expect_error(read, "data.bin", "expected 30730 bytes (10 records of 3073)", "found 30729");

  bytes = records(10, 1, 10);
  bytes.push_back(0);
  write_file(dir / "data.bin", bytes);
  expect_error(read, "found 30731");

  bytes = records(10, 1, 10);
  bytes[4 * 3073] = 10;
  write_file(dir / "data.bin", bytes);
  expect_error(read, "data.bin", "label of record 4 is 10, expected 0..9");

  std::filesystem::remove(dir / "data.bin");
  std::filesystem::create_directory(dir / "data.bin");
  expect_error(read, "data.bin");
}

// Files of the official size that hold nothing but zeros.
void write_official_sizes(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  for (const char* name : {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
                           "data_batch_5.bin", "test_batch.bin"}) {
    write_file(folder / name, {});
    std::filesystem::resize_file(folder / name, 30730000);
  }
}

TEST(Cifar, FindsTheFolderItselfOrTheOneAbove) {
  const TempDir dir;
  write_official_sizes(dir / "cifar-10-batches-bin");
  for (const auto& at : {dir.path(), dir / "cifar-10-batches-bin"}) {
    const auto test = open_dataset("cifar10", at, Split::kTest);
    EXPECT_EQ(test->size(), 10000);
    EXPECT_EQ(test->class_names()[3], "cat");
  }
  EXPECT_EQ(open_dataset("cifar10", dir.path(), Split::kTrain)->size(), 50000);
}

TEST(Cifar, SaysWhatIsMissing) {
  const TempDir dir;
  expect_error([&] { open_dataset("cifar10", dir.path(), Split::kTrain); }, dir.path().string(),
               "data_batch_1.bin", "cifar-10-batches-bin", "bitdial data get cifar10");
  expect_error([&] { open_dataset("cifar100", dir / "nowhere", Split::kTest); }, "nowhere", "train.bin",
               "bitdial data get cifar100");
  write_official_sizes(dir.path());
  std::filesystem::remove(dir / "data_batch_4.bin");
  expect_error([&] { open_dataset("cifar10", dir.path(), Split::kTrain); }, "data_batch_4.bin",
               "cannot open");
  std::filesystem::resize_file(dir / "test_batch.bin", 30726927);  // one record short
  expect_error([&] { open_dataset("cifar10", dir.path(), Split::kTest); }, "test_batch.bin",
               "expected 30730000 bytes", "found 30726927");
}

TEST(Cifar, ReadsCifar100WithItsNames) {
  const TempDir dir;
  write_file(dir / "test.bin", {});
  std::filesystem::resize_file(dir / "test.bin", 30740000);
  EXPECT_EQ(open_dataset("cifar100", dir.path(), Split::kTest)->class_names()[7], "class 7");
  std::ofstream names(dir / "fine_label_names.txt");
  for (int i = 0; i < 100; ++i) names << "name" << i << "\r\n";
  names.close();
  const auto test = open_dataset("cifar100", dir.path(), Split::kTest);
  EXPECT_EQ(test->classes(), 100);
  EXPECT_EQ(test->class_names()[7], "name7");
}

// The real files, where BITDIAL_TEST_DATA names a folder that has them: class counts and the first labels as
// published.
TEST(Cifar, RealFiles) {
  const char* dir = std::getenv("BITDIAL_TEST_DATA");
  if (dir == nullptr || !std::filesystem::exists(std::filesystem::path(dir) / "cifar-10-batches-bin")) {
    GTEST_SKIP() << "BITDIAL_TEST_DATA names no folder with cifar-10-batches-bin";
  }
  const auto train = open_dataset("cifar10", dir, Split::kTrain);
  ASSERT_EQ(train->size(), 50000);
  std::vector<int> counts(10);
  for (int64_t i = 0; i < train->size(); ++i) ++counts[static_cast<size_t>(train->label(i))];
  EXPECT_EQ(counts, std::vector<int>(10, 5000));
  EXPECT_EQ(train->label(0), 6);
  EXPECT_EQ(train->label(1), 9);
  Bytes image(3072);
  train->read(0, image.data());
  EXPECT_EQ(image[0], 59);  // the frog's first pixel
  EXPECT_EQ(image[1], 62);
  EXPECT_EQ(image[2], 63);
}

}  // namespace
}  // namespace bitdial::data
