#include "bitdial/data/idx.h"

#include "helpers.h"

namespace bitdial::data {
namespace {

const std::vector<std::string> kThree{"a", "b", "c"};

void append_big_endian(Bytes& bytes, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<uint8_t>(value >> shift));
}

Bytes idx_images(uint32_t count, uint32_t height, uint32_t width, uint32_t magic = 0x803) {
  Bytes bytes;
  for (uint32_t value : {magic, count, height, width}) append_big_endian(bytes, value);
  for (uint32_t i = 0; i < count * height * width; ++i) bytes.push_back(static_cast<uint8_t>(i));
  return bytes;
}

Bytes idx_labels(uint32_t count, uint32_t classes, uint32_t magic = 0x801) {
  Bytes bytes;
  for (uint32_t value : {magic, count}) append_big_endian(bytes, value);
  for (uint32_t i = 0; i < count; ++i) bytes.push_back(static_cast<uint8_t>(i % classes));
  return bytes;
}

class Idx : public testing::Test {
 protected:
  std::shared_ptr<const MemoryDataset> read() const {
    return read_idx("mnist", dir_ / "images", dir_ / "labels", kThree);
  }
  TempDir dir_;
};

TEST_F(Idx, ReadsPlainAndGzip) {
  const Bytes images = idx_images(7, 5, 4);
  const Bytes labels = idx_labels(7, 3);
  for (const bool zipped : {false, true}) {
    zipped ? write_gzip(dir_ / "images", images) : write_file(dir_ / "images", images);
    zipped ? write_gzip(dir_ / "labels", labels) : write_file(dir_ / "labels", labels);
    const auto dataset = read();
    ASSERT_EQ(dataset->size(), 7);
    EXPECT_EQ(dataset->shape(), (ImageShape{1, 5, 4}));
    EXPECT_EQ(dataset->label(5), 2);
    Bytes image(20);
    dataset->read(2, image.data());
    EXPECT_EQ(image.front(), 40);
    EXPECT_EQ(image.back(), 59);
  }
}

TEST_F(Idx, NamesWhatIsWrong) {
  write_file(dir_ / "labels", idx_labels(7, 3));
  expect_error([&] { read(); }, "[mnist]", "images", "cannot open");

  write_file(dir_ / "images", idx_images(7, 5, 4, 0x801));
  expect_error([&] { read(); }, "images", "expected IDX images (magic 0x00000803)", "0x00000801");

  Bytes images = idx_images(7, 5, 4);
  write_file(dir_ / "images", Bytes(images.begin(), images.begin() + 9));
  expect_error([&] { read(); }, "images", "header");
  write_file(dir_ / "images", Bytes(images.begin(), images.end() - 1));
  expect_error([&] { read(); }, "images", "expected 140 bytes of pixels, found 139");
  images.push_back(1);
  write_file(dir_ / "images", images);
  expect_error([&] { read(); }, "images", "more data than its header announces");
  write_file(dir_ / "images", {});
  expect_error([&] { read(); }, "images", "found 0");

  // A header gone wrong must not make the reader ask for gigabytes.
  images = idx_images(1, 5, 4);
  images[4] = 0xFF;
  write_file(dir_ / "images", images);
  expect_error([&] { read(); }, "images", "too much for a file of");

  write_file(dir_ / "images", idx_images(7, 5, 4));
  write_file(dir_ / "labels", idx_labels(6, 3));
  expect_error([&] { read(); }, "labels", "expected 7 labels, one per image, found 6");
  write_file(dir_ / "labels", idx_labels(7, 4));
  expect_error([&] { read(); }, "labels", "label of image 3 is 3, expected 0..2");
  write_file(dir_ / "labels", idx_labels(7, 3, 0x803));
  expect_error([&] { read(); }, "labels", "expected IDX labels (magic 0x00000801)");
}

TEST_F(Idx, NoticesDamagedGzip) {
  write_file(dir_ / "labels", idx_labels(60, 3));
  write_gzip(dir_ / "images", idx_images(60, 28, 28));
  const Bytes good = read_back(dir_ / "images");

  write_file(dir_ / "images", Bytes(good.begin(), good.begin() + static_cast<int64_t>(good.size() / 2)));
  expect_error([&] { read(); }, "images", "truncated gzip file");

  Bytes damaged = good;
  damaged[damaged.size() - 7] ^= 0x10;  // the stored checksum
  write_file(dir_ / "images", damaged);
  expect_error([&] { read(); }, "images", "corrupt gzip file");

  // Whatever byte of the file is wrong, the images are as they were or there is one error that names the
  // file.
  const auto reference = [&] {
    write_file(dir_ / "images", good);
    Bytes all(static_cast<size_t>(60 * 784));
    const auto dataset = read();
    for (int64_t i = 0; i < 60; ++i) dataset->read(i, all.data() + i * 784);
    return all;
  }();
  for (size_t at = 2; at < good.size(); at += 3) {
    damaged = good;
    damaged[at] ^= 0x55;
    write_file(dir_ / "images", damaged);
    try {
      const auto dataset = read();
      Bytes all(reference.size());
      for (int64_t i = 0; i < 60; ++i) dataset->read(i, all.data() + i * 784);
      EXPECT_EQ(all, reference) << "byte " << at;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("images"), std::string::npos) << e.what();
    }
  }
}

TEST_F(Idx, OpensBothLayoutsAndResizes) {
  const std::filesystem::path folder = dir_ / "MNIST/raw";
  std::filesystem::create_directories(folder);
  write_gzip(folder / "t10k-images-idx3-ubyte.gz", idx_images(20, 28, 28));
  write_file(folder / "t10k-labels-idx1-ubyte", idx_labels(20, 10));
  const auto test = open_dataset("mnist", dir_.path(), Split::kTest);
  EXPECT_EQ(test->shape(), (ImageShape{1, 32, 32}));
  EXPECT_EQ(test->size(), 20);
  EXPECT_EQ(test->classes(), 10);
  EXPECT_EQ(test->label(13), 3);
  EXPECT_EQ(open_dataset("mnist", folder, Split::kTest, {.image_size = 28})->shape(),
            (ImageShape{1, 28, 28}));
  expect_error([&] { open_dataset("mnist", folder, Split::kTrain); }, "train-images-idx3-ubyte",
               "cannot open");
  expect_error([&] { open_dataset("fashion-mnist", dir_.path(), Split::kTest); }, "fashion-mnist",
               "bitdial data get fashion-mnist");
}

TEST_F(Idx, OpensTheBalancedSplitOfEmnist) {
  expect_error([&] { open_dataset("emnist", dir_.path(), Split::kTrain); }, "[emnist]", "gzip.zip");
  const std::filesystem::path folder = dir_ / "gzip";
  std::filesystem::create_directories(folder);
  write_gzip(folder / "emnist-balanced-train-images-idx3-ubyte.gz", idx_images(94, 28, 28));
  write_gzip(folder / "emnist-balanced-train-labels-idx1-ubyte.gz", idx_labels(94, 47));
  const auto train = open_dataset("emnist", dir_.path(), Split::kTrain);
  EXPECT_EQ(train->shape(), (ImageShape{1, 32, 32}));
  EXPECT_EQ(train->classes(), 47);
  EXPECT_EQ(train->label(93), 46);
  EXPECT_EQ(train->class_names()[10], "A");
  EXPECT_EQ(train->class_names()[36], "a");
  EXPECT_EQ(train->class_names()[46], "t");
  expect_error([&] { open_dataset("emnist", dir_.path(), Split::kTest); },
               "emnist-balanced-test-images-idx3-ubyte", "cannot open");
}

}  // namespace
}  // namespace bitdial::data
