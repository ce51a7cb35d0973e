#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "bitdial/data/memory_dataset.h"

namespace bitdial::data {

/// The binary version of CIFAR: records of label bytes, then 32x32 values each of red, green and blue.
/// Source: https://www.cs.toronto.edu/~kriz/cifar.html
struct CifarLayout {
  const char* name = "cifar10";
  int label_bytes = 1;  ///< the last of them is the class (CIFAR-100: coarse, fine)
  int classes = 10;
};

/// Reads `files`, each of exactly `records_per_file` records.
std::shared_ptr<const MemoryDataset> read_cifar(const CifarLayout& layout,
                                                const std::vector<std::filesystem::path>& files,
                                                int64_t records_per_file,
                                                std::vector<std::string> class_names);

/// CIFAR-10: data_batch_1..5.bin / test_batch.bin in `dir` or `dir`/cifar-10-batches-bin.
std::shared_ptr<const MemoryDataset> open_cifar10(const std::filesystem::path& dir, Split split);

/// CIFAR-100, 100 fine classes: train.bin / test.bin in `dir` or `dir`/cifar-100-binary.
std::shared_ptr<const MemoryDataset> open_cifar100(const std::filesystem::path& dir, Split split);

}  // namespace bitdial::data
