#include "bitdial/data/cifar.h"

#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/data/files.h"

namespace bitdial::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPixels = 32 * 32;
constexpr ImageShape kShape{3, 32, 32};
constexpr int64_t kRecordsPerFile10 = 10000;
constexpr int64_t kTrainRecords100 = 50000;
constexpr int64_t kTestRecords100 = 10000;

// Names from the archive's own list where it is there and complete.
std::vector<std::string> names_or(const fs::path& file, std::vector<std::string> otherwise) {
  auto names = read_lines(file);
  return names.size() == otherwise.size() ? names : otherwise;
}

void append_record(const uint8_t* planes, std::vector<uint8_t>& images) {
  for (int64_t p = 0; p < kPixels; ++p) {
    for (int64_t c = 0; c < 3; ++c) images.push_back(planes[c * kPixels + p]);
  }
}

}  // namespace

std::shared_ptr<const MemoryDataset> read_cifar(const CifarLayout& layout, const std::vector<fs::path>& files,
                                                int64_t records_per_file,
                                                std::vector<std::string> class_names) {
  const int64_t record = layout.label_bytes + 3 * kPixels;
  std::vector<uint8_t> images;
  std::vector<int32_t> labels;
  images.reserve(files.size() * static_cast<size_t>(records_per_file * 3 * kPixels));
  for (const fs::path& file : files) {
    const auto bytes = read_file(layout.name, file);
    require(static_cast<int64_t>(bytes.size()) == record * records_per_file, layout.name,
            "{}: expected {} bytes ({} records of {}), found {}", file.string(), record * records_per_file,
            records_per_file, record, bytes.size());
    for (int64_t r = 0; r < records_per_file; ++r) {
      const uint8_t* data = bytes.data() + r * record;
      const int label = data[layout.label_bytes - 1];
      require(label < layout.classes, layout.name, "{}: label of record {} is {}, expected 0..{}",
              file.string(), r, label, layout.classes - 1);
      labels.push_back(label);
      append_record(data + layout.label_bytes, images);
    }
  }
  return std::make_shared<MemoryDataset>(kShape, std::move(images), std::move(labels),
                                         std::move(class_names));
}

std::shared_ptr<const MemoryDataset> open_cifar10(const fs::path& dir, Split split) {
  const CifarLayout layout{"cifar10", 1, 10};
  const fs::path folder = find_folder(layout.name, dir, {"", "cifar-10-batches-bin"},
                                      {"data_batch_1.bin", "test_batch.bin", "data_batch_2.bin"});
  std::vector<fs::path> files;
  if (split == Split::kTest) {
    files.push_back(folder / "test_batch.bin");
  } else {
    for (int batch = 1; batch <= 5; ++batch)
      files.push_back(folder / fmt::format("data_batch_{}.bin", batch));
  }
  return read_cifar(layout, files, kRecordsPerFile10,
                    names_or(folder / "batches.meta.txt", {"airplane", "automobile", "bird", "cat", "deer",
                                                           "dog", "frog", "horse", "ship", "truck"}));
}

std::shared_ptr<const MemoryDataset> open_cifar100(const fs::path& dir, Split split) {
  const CifarLayout layout{"cifar100", 2, 100};
  const fs::path folder = find_folder(layout.name, dir, {"", "cifar-100-binary"}, {"train.bin", "test.bin"});
  std::vector<std::string> names;
  for (int i = 0; i < layout.classes; ++i) names.push_back(fmt::format("class {}", i));
  names = names_or(folder / "fine_label_names.txt", std::move(names));
  return split == Split::kTest
             ? read_cifar(layout, {folder / "test.bin"}, kTestRecords100, std::move(names))
             : read_cifar(layout, {folder / "train.bin"}, kTrainRecords100, std::move(names));
}

}  // namespace bitdial::data
