#include "bitdial/data/image_folder.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/data/image_file.h"
#include "bitdial/data/resize.h"
#include "bitdial/data/subset.h"

namespace bitdial::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kImageFolder = "image-folder";
// Resize to 256, cut 224 from the centre (ImageNet's usual test images).
constexpr double kCenterShare = 224.0 / 256.0;
constexpr double kTestShare = 0.1;
constexpr uint64_t kTestSeed = 0;

struct LabelledFile {
  fs::path path;
  int label = 0;
};

class ImageFolder : public Dataset {
 public:
  ImageFolder(std::vector<std::string> class_names, std::vector<LabelledFile> files, int64_t image_size)
      : class_names_(std::move(class_names)), files_(std::move(files)), image_size_(image_size) {}

  int64_t size() const override { return static_cast<int64_t>(files_.size()); }
  int classes() const override { return static_cast<int>(class_names_.size()); }
  ImageShape shape() const override { return {3, image_size_, image_size_}; }
  int label(int64_t i) const override { return files_[static_cast<size_t>(i)].label; }
  std::vector<std::string> class_names() const override { return class_names_; }

  void read(int64_t i, uint8_t* hwc) const override {
    read_region(
        i, [](int64_t w, int64_t h) { return center_square(w, h, kCenterShare); }, hwc);
  }

  void read_region(int64_t i, const RectChooser& choose, uint8_t* hwc) const override {
    Rect region;
    bool chosen = false;
    const auto shrink = [&](int64_t width, int64_t height) {
      region = choose(width, height);
      chosen = true;
      int factor = 8;
      // A decoder that shrinks must leave at least the pixels that are asked for.
      while (factor > 1 &&
             std::min(region.width, region.height) < static_cast<double>(image_size_ * factor)) {
        factor /= 2;
      }
      return factor;
    };
    const DecodedImage decoded = read_image(files_[static_cast<size_t>(i)].path, shrink);
    if (!chosen) region = choose(decoded.stored_width, decoded.stored_height);
    const Image& image = decoded.image;
    const double x = static_cast<double>(image.width) / static_cast<double>(decoded.stored_width);
    const double y = static_cast<double>(image.height) / static_cast<double>(decoded.stored_height);
    resize_region({image.rgb.data(), {3, image.height, image.width}},
                  {region.x * x, region.y * y, region.width * x, region.height * y}, image_size_, image_size_,
                  hwc);
  }

 private:
  std::vector<std::string> class_names_;
  std::vector<LabelledFile> files_;
  int64_t image_size_;
};

bool is_image_name(const fs::path& file) {
  std::string extension = file.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension == ".png" || extension == ".jpg" || extension == ".jpeg";
}

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with('.'); }

std::vector<std::string> list_classes(const fs::path& dir) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) {
    if (entry.is_directory() && !is_hidden(entry.path())) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  require(!names.empty(), kImageFolder, "{}: expected one sub-folder per class, found none", dir.string());
  return names;
}

std::vector<LabelledFile> list_files(const fs::path& dir, const std::vector<std::string>& classes) {
  std::vector<LabelledFile> files;
  for (size_t c = 0; c < classes.size(); ++c) {
    std::vector<fs::path> paths;
    const auto follow = fs::directory_options::follow_directory_symlink;
    for (const auto& entry : fs::recursive_directory_iterator(dir / classes[c], follow)) {
      if (entry.is_regular_file() && is_image_name(entry.path()) && !is_hidden(entry.path())) {
        paths.push_back(entry.path());
      }
    }
    require(!paths.empty(), kImageFolder, "{}: expected .png, .jpg or .jpeg files, found none",
            (dir / classes[c]).string());
    std::sort(paths.begin(), paths.end());
    for (fs::path& path : paths) files.push_back({std::move(path), static_cast<int>(c)});
  }
  return files;
}

fs::path test_folder(const fs::path& dir) {
  for (const char* name : {"val", "test"}) {
    if (fs::is_directory(dir / name)) return dir / name;
  }
  fail(kImageFolder, "{}: has train/, but neither val/ nor test/ beside it", dir.string());
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::shared_ptr<const Dataset> open_folders(const fs::path& dir, Split split, int64_t image_size) {
  if (fs::is_directory(dir / "train")) {
    const fs::path test = test_folder(dir);
    auto classes = list_classes(dir / "train");
    const auto test_classes = list_classes(test);
    require(classes == test_classes, kImageFolder, "{}: expected the classes of train/ ({}), found {}",
            test.string(), join(classes), join(test_classes));
    auto files = list_files(split == Split::kTrain ? dir / "train" : test, classes);
    return std::make_shared<ImageFolder>(std::move(classes), std::move(files), image_size);
  }
  auto classes = list_classes(dir);
  auto files = list_files(dir, classes);
  auto whole = std::make_shared<ImageFolder>(std::move(classes), std::move(files), image_size);
  auto [train, test] = stratified_split(*whole, kTestShare, kTestSeed);
  require(!test.empty(), kImageFolder,
          "{}: has fewer than 5 images in every class, too few to split off a test set", dir.string());
  return std::make_shared<Subset>(whole, split == Split::kTrain ? std::move(train) : std::move(test));
}

}  // namespace

std::shared_ptr<const Dataset> open_image_folder(const fs::path& dir, Split split, int64_t image_size) {
  require(image_size > 0 && image_size <= 4096, kImageFolder, "image size is {}, expected 1..4096",
          image_size);
  std::error_code error;
  require(fs::is_directory(dir, error), kImageFolder, "{}: no such folder", dir.string());
  try {
    return open_folders(dir, split, image_size);
  } catch (const fs::filesystem_error& e) {
    fail(kImageFolder, "{}: cannot list: {}", e.path1().string(), e.code().message());
  }
}

}  // namespace bitdial::data
