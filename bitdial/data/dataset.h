#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace bitdial::data {

enum class Split : uint8_t { kTrain, kTest };
std::string_view to_string(Split split);

struct ImageShape {
  int64_t channels = 3;
  int64_t height = 32;
  int64_t width = 32;
  int64_t elements() const { return channels * height * width; }
  bool operator==(const ImageShape&) const = default;
};

/// A region of an image in pixels; edges may lie between pixels.
struct Rect {
  double x = 0;
  double y = 0;
  double width = 0;
  double height = 0;
};

/// Chooses the region to cut from an image of the given size.
using RectChooser = std::function<Rect(int64_t width, int64_t height)>;

/// Labelled images of one shape. Every method is const and may be called from any thread at any time.
class Dataset {
 public:
  virtual ~Dataset() = default;

  virtual int64_t size() const = 0;
  virtual int classes() const = 0;
  virtual ImageShape shape() const = 0;

  /// Class of image i, 0 .. classes() - 1.
  virtual int label(int64_t i) const = 0;

  /// Writes image i, 8 bits per value, height x width x channels: shape().elements() bytes. Throws Error
  /// naming the file when it cannot be read.
  virtual void read(int64_t i, uint8_t* hwc) const = 0;

  /// Writes a region of image i, resized to shape(). The chooser sees the size of the stored image, which may
  /// be larger than shape(). By default the region is cut from what read() gives.
  virtual void read_region(int64_t i, const RectChooser& choose, uint8_t* hwc) const;

  /// One name per class.
  virtual std::vector<std::string> class_names() const = 0;
};

/// What some data sets can be told. Zero means the data set's own default.
struct DatasetOptions {
  int64_t image_size = 0;    ///< height and width after resizing; 32 everywhere but in image folders (224)
  int64_t train_images = 0;  ///< shapes: 10 000
  int64_t test_images = 0;   ///< shapes: 2 000
  uint64_t seed = 0;         ///< shapes: the seed of its generator, not of training
};

/// The names that open_dataset knows: cifar10, cifar100, mnist, fashion-mnist, emnist, image-folder, shapes.
const std::vector<std::string>& dataset_names();

/// Whether `name` is read from files; the others (shapes) are generated and ignore `dir`.
bool needs_directory(std::string_view name);

/// Opens one split. `dir` is the folder of the files itself or the one above it (see docs/data.md for the
/// layouts). Throws Error for an unknown name and for missing, truncated or malformed files, naming file,
/// expectation and find.
std::shared_ptr<const Dataset> open_dataset(std::string_view name, const std::filesystem::path& dir,
                                            Split split, const DatasetOptions& options = {});

}  // namespace bitdial::data
