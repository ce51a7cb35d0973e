#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "bitdial/data/memory_dataset.h"

namespace bitdial::data {

/// Reads a pair of IDX files of 8-bit grey images (magic 0x00000803, any height and width) and labels
/// (0x00000801), plain or gzip. `operation` names the data set in errors.
std::shared_ptr<const MemoryDataset> read_idx(const char* operation, const std::filesystem::path& images,
                                              const std::filesystem::path& labels,
                                              std::vector<std::string> class_names);

/// {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz] in `dir`, `dir`/mnist or `dir`/MNIST/raw.
std::shared_ptr<const MemoryDataset> open_mnist(const std::filesystem::path& dir, Split split);

/// The same in `dir`, `dir`/fashion-mnist or `dir`/FashionMNIST/raw.
std::shared_ptr<const MemoryDataset> open_fashion_mnist(const std::filesystem::path& dir, Split split);

/// EMNIST's balanced split, 47 classes: emnist-balanced-{train,test}-{images-idx3,labels-idx1}-ubyte[.gz] in
/// `dir`, `dir`/gzip (as in NIST's archive), `dir`/emnist or `dir`/EMNIST/raw. Rows and columns stay swapped
/// as in the files.
std::shared_ptr<const MemoryDataset> open_emnist(const std::filesystem::path& dir, Split split);

}  // namespace bitdial::data
