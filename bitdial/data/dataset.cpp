#include "bitdial/data/dataset.h"

#include <algorithm>
#include <array>

#include "bitdial/core/error.h"
#include "bitdial/data/cifar.h"
#include "bitdial/data/idx.h"
#include "bitdial/data/image_folder.h"
#include "bitdial/data/resize.h"
#include "bitdial/data/shapes.h"

namespace bitdial::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSmallImage = 32;
constexpr int64_t kFolderImage = 224;

using Open = std::shared_ptr<const Dataset> (*)(const fs::path&, Split, const DatasetOptions&);

struct Entry {
  std::string_view name;
  bool needs_directory;
  Open open;
};

int64_t image_size(const DatasetOptions& options, int64_t otherwise) {
  return options.image_size == 0 ? otherwise : options.image_size;
}

// A new data set is one file that implements Dataset, and one line here.
constexpr std::array kEntries{
    Entry{"cifar10", true,
          [](const fs::path& dir, Split split, const DatasetOptions& o) -> std::shared_ptr<const Dataset> {
            return resized(open_cifar10(dir, split), image_size(o, kSmallImage));
          }},
    Entry{"cifar100", true,
          [](const fs::path& dir, Split split, const DatasetOptions& o) -> std::shared_ptr<const Dataset> {
            return resized(open_cifar100(dir, split), image_size(o, kSmallImage));
          }},
    Entry{"mnist", true,
          [](const fs::path& dir, Split split, const DatasetOptions& o) -> std::shared_ptr<const Dataset> {
            return resized(open_mnist(dir, split), image_size(o, kSmallImage));
          }},
    Entry{"fashion-mnist", true,
          [](const fs::path& dir, Split split, const DatasetOptions& o) -> std::shared_ptr<const Dataset> {
            return resized(open_fashion_mnist(dir, split), image_size(o, kSmallImage));
          }},
    Entry{"emnist", true,
          [](const fs::path& dir, Split split, const DatasetOptions& o) -> std::shared_ptr<const Dataset> {
            return resized(open_emnist(dir, split), image_size(o, kSmallImage));
          }},
    Entry{"image-folder", true,
          [](const fs::path& dir, Split split, const DatasetOptions& o) -> std::shared_ptr<const Dataset> {
            return open_image_folder(dir, split, image_size(o, kFolderImage));
          }},
    Entry{"shapes", false,
          [](const fs::path&, Split split, const DatasetOptions& o) -> std::shared_ptr<const Dataset> {
            const bool train = split == Split::kTrain;
            const int64_t asked = train ? o.train_images : o.test_images;
            const int64_t images = asked != 0 ? asked : train ? kShapesTrainImages : kShapesTestImages;
            return resized(make_shapes(split, images, o.seed), image_size(o, kSmallImage));
          }},
};

}  // namespace

std::string_view to_string(Split split) { return split == Split::kTrain ? "train" : "test"; }

void Dataset::read_region(int64_t i, const RectChooser& choose, uint8_t* hwc) const {
  const ImageShape stored = shape();
  std::vector<uint8_t> image(static_cast<size_t>(stored.elements()));
  read(i, image.data());
  resize_region({image.data(), stored}, choose(stored.width, stored.height), stored.height, stored.width,
                hwc);
}

const std::vector<std::string>& dataset_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Entry& entry : kEntries) all.emplace_back(entry.name);
    return all;
  }();
  return names;
}

bool needs_directory(std::string_view name) {
  const auto* entry =
      std::find_if(kEntries.begin(), kEntries.end(), [&](const Entry& e) { return e.name == name; });
  return entry == kEntries.end() || entry->needs_directory;
}

std::shared_ptr<const Dataset> open_dataset(std::string_view name, const fs::path& dir, Split split,
                                            const DatasetOptions& options) {
  require(options.image_size >= 0 && options.image_size <= 4096, "dataset",
          "image size is {}, expected 1..4096", options.image_size);
  for (const Entry& entry : kEntries) {
    if (entry.name == name) return entry.open(dir, split, options);
  }
  std::string known;
  for (const auto& other : dataset_names()) known += (known.empty() ? "" : ", ") + other;
  fail("dataset", "unknown data set '{}', expected one of {}", name, known);
}

}  // namespace bitdial::data
