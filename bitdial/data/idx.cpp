#include "bitdial/data/idx.h"

#include <zlib.h>

#include <cerrno>
#include <cstring>

#include "bitdial/core/error.h"
#include "bitdial/data/files.h"

namespace bitdial::data {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kImagesMagic = 0x00000803;
constexpr uint32_t kLabelsMagic = 0x00000801;
constexpr int64_t kGzipRatio = 1100;  // gzip never shrinks data more than 1032 times

// A file read through zlib, which passes files without gzip's magic on as they are.
class GzipReader {
 public:
  GzipReader(const char* operation, const fs::path& file)
      : operation_(operation), name_(file.string()), file_(gzopen(file.c_str(), "rb")) {
    require(file_ != nullptr, operation_, "{}: cannot open: {}", name_, std::strerror(errno));
    gzbuffer(file_, 1U << 17);
  }
  ~GzipReader() { gzclose(file_); }
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;

  // Throws unless all `bytes` are there.
  void read(uint8_t* to, int64_t bytes, const char* what) {
    int64_t got = 0;
    while (got < bytes) {
      const auto chunk = static_cast<unsigned>(std::min<int64_t>(bytes - got, 1 << 24));
      const int count = gzread(file_, to + got, chunk);
      check_stream(count < 0);
      if (count <= 0) break;
      got += count;
    }
    if (got < bytes) {
      check_stream(false);
      fail(operation_, "{}: expected {} bytes of {}, found {}", name_, bytes, what, got);
    }
  }

  uint32_t read_big_endian(const char* what) {
    uint8_t b[4];
    read(b, 4, what);
    return uint32_t{b[0]} << 24 | uint32_t{b[1]} << 16 | uint32_t{b[2]} << 8 | uint32_t{b[3]};
  }

  // Reaching the end also makes zlib compare gzip's checksum.
  void expect_end() {
    uint8_t extra = 0;
    const int count = gzread(file_, &extra, 1);
    check_stream(count < 0);
    require(count == 0, operation_, "{}: more data than its header announces", name_);
  }

 private:
  void check_stream(bool failed) {
    int code = Z_OK;
    const char* text = gzerror(file_, &code);
    if (code == Z_ERRNO) fail(operation_, "{}: cannot read: {}", name_, std::strerror(errno));
    if (code == Z_BUF_ERROR) fail(operation_, "{}: truncated gzip file", name_);
    if (failed || code < 0) fail(operation_, "{}: corrupt gzip file: {}", name_, text);
  }

  const char* operation_;
  std::string name_;
  gzFile file_;
};

struct IdxImages {
  ImageShape shape;
  int64_t count = 0;
  std::vector<uint8_t> pixels;
};

IdxImages read_idx_images(const char* operation, const fs::path& file) {
  GzipReader reader(operation, file);
  const uint32_t magic = reader.read_big_endian("header");
  require(magic == kImagesMagic, operation, "{}: expected IDX images (magic {:#010x}), found magic {:#010x}",
          file.string(), kImagesMagic, magic);
  IdxImages images;
  images.count = reader.read_big_endian("header");
  const int64_t height = reader.read_big_endian("header");
  const int64_t width = reader.read_big_endian("header");
  images.shape = {1, height, width};
  const auto stored = static_cast<int64_t>(fs::file_size(file));
  require(height > 0 && width > 0 && height <= 4096 && width <= 4096 &&
              images.count * images.shape.elements() <= stored * kGzipRatio,
          operation, "{}: header announces {} images of {}x{}, too much for a file of {} bytes",
          file.string(), images.count, height, width, stored);
  images.pixels.resize(static_cast<size_t>(images.count * height * width));
  reader.read(images.pixels.data(), static_cast<int64_t>(images.pixels.size()), "pixels");
  reader.expect_end();
  return images;
}

std::vector<uint8_t> read_idx_labels(const char* operation, const fs::path& file, int64_t expected) {
  GzipReader reader(operation, file);
  const uint32_t magic = reader.read_big_endian("header");
  require(magic == kLabelsMagic, operation, "{}: expected IDX labels (magic {:#010x}), found magic {:#010x}",
          file.string(), kLabelsMagic, magic);
  const int64_t count = reader.read_big_endian("header");
  require(count == expected, operation, "{}: expected {} labels, one per image, found {}", file.string(),
          expected, count);
  std::vector<uint8_t> labels(static_cast<size_t>(count));
  reader.read(labels.data(), count, "labels");
  reader.expect_end();
  return labels;
}

fs::path plain_or_gzip(const fs::path& plain) {
  std::error_code error;
  if (fs::exists(plain, error)) return plain;
  fs::path zipped = plain;
  zipped += ".gz";
  return fs::exists(zipped, error) ? zipped : plain;
}

std::shared_ptr<const MemoryDataset> open_pair(const char* operation, const fs::path& dir, Split split,
                                               std::initializer_list<const char*> folders,
                                               std::vector<std::string> names) {
  const bool train = split == Split::kTrain;
  const fs::path folder = find_folder(operation, dir, folders,
                                      {"train-images-idx3-ubyte", "train-images-idx3-ubyte.gz",
                                       "t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz"});
  const std::string prefix = train ? "train" : "t10k";
  return read_idx(operation, plain_or_gzip(folder / (prefix + "-images-idx3-ubyte")),
                  plain_or_gzip(folder / (prefix + "-labels-idx1-ubyte")), std::move(names));
}

}  // namespace

std::shared_ptr<const MemoryDataset> read_idx(const char* operation, const fs::path& images,
                                              const fs::path& labels, std::vector<std::string> class_names) {
  IdxImages pictures = read_idx_images(operation, images);
  const auto codes = read_idx_labels(operation, labels, pictures.count);
  for (size_t i = 0; i < codes.size(); ++i) {
    require(codes[i] < class_names.size(), operation, "{}: label of image {} is {}, expected 0..{}",
            labels.string(), i, codes[i], class_names.size() - 1);
  }
  return std::make_shared<MemoryDataset>(pictures.shape, std::move(pictures.pixels),
                                         std::vector<int32_t>(codes.begin(), codes.end()),
                                         std::move(class_names));
}

std::shared_ptr<const MemoryDataset> open_mnist(const fs::path& dir, Split split) {
  return open_pair("mnist", dir, split, {"", "mnist", "MNIST/raw"},
                   {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"});
}

std::shared_ptr<const MemoryDataset> open_fashion_mnist(const fs::path& dir, Split split) {
  return open_pair("fashion-mnist", dir, split, {"", "fashion-mnist", "FashionMNIST/raw"},
                   {"T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker",
                    "bag", "ankle boot"});
}

std::shared_ptr<const MemoryDataset> open_emnist(const fs::path& dir, Split split) {
  const fs::path folder =
      find_folder("emnist", dir, {"", "gzip", "emnist", "EMNIST/raw"},
                  {"emnist-balanced-train-images-idx3-ubyte", "emnist-balanced-train-images-idx3-ubyte.gz"},
                  "NIST offers it as one archive, \"gzip.zip\": unpack it there");
  const std::string prefix = split == Split::kTrain ? "emnist-balanced-train" : "emnist-balanced-test";
  // Small letters that look like their capitals are one class with them (Cohen et al. 2017).
  std::vector<std::string> names;
  for (const char c : std::string_view("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")) {
    names.emplace_back(1, c);
  }
  return read_idx("emnist", plain_or_gzip(folder / (prefix + "-images-idx3-ubyte")),
                  plain_or_gzip(folder / (prefix + "-labels-idx1-ubyte")), std::move(names));
}

}  // namespace bitdial::data
