#include "bitdial/data/skeleton_dataset.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "bitdial/core/error.h"
#include "bitdial/data/files.h"

namespace bitdial::data {
namespace {

constexpr const char* kName = "skeleton";  // in brackets before every error

// The numbers of a row, each 0..255.
std::vector<uint8_t> parse_row(const std::string& where, const std::string& row) {
  std::vector<uint8_t> values;
  const char* end = row.data() + row.size();
  for (const char* at = row.data(); at <= end; ++at) {
    uint8_t value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    require(error == std::errc() && (next == end || *next == ','), kName,
            "{}: value {} is not a number of 0..255", where, values.size());
    values.push_back(value);
    at = next;
  }
  return values;
}

}  // namespace

SkeletonDataset::SkeletonDataset(const std::filesystem::path& dir, Split split) {
  const auto file = dir / (std::string(to_string(split)) + ".csv");
  const auto rows = read_lines(file);
  require(!rows.empty(), kName, "{}: expected rows of a label and pixels, found none", file.string());
  for (size_t r = 0; r < rows.size(); ++r) add_row(fmt::format("{}: row {}", file.string(), r + 1), rows[r]);
  classes_ = *std::max_element(labels_.begin(), labels_.end()) + 1;
}

void SkeletonDataset::add_row(const std::string& where, const std::string& row) {
  const auto values = parse_row(where, row);
  const auto pixels = static_cast<int64_t>(values.size()) - 1;
  if (labels_.empty()) edge_ = std::lround(std::sqrt(static_cast<double>(pixels)));
  require(pixels > 0 && pixels == edge_ * edge_, kName, "{}: expected a label and {} pixels, found {} values",
          where, edge_ * edge_, values.size());
  labels_.push_back(values[0]);
  pixels_.insert(pixels_.end(), values.begin() + 1, values.end());
}

std::vector<std::string> SkeletonDataset::class_names() const {
  std::vector<std::string> names;
  for (int c = 0; c < classes_; ++c) names.push_back(std::to_string(c));
  return names;
}

void SkeletonDataset::read(int64_t i, uint8_t* hwc) const {
  std::copy_n(pixels_.begin() + i * edge_ * edge_, edge_ * edge_, hwc);
}

}  // namespace bitdial::data
