#pragma once

#include <string>
#include <vector>

namespace bitdial::cli {

/// Text in columns; numbers go to the right. The first row is the head.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : rows_{std::move(head)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// 40818944 -> "40,818,944"
std::string grouped(long value);

}  // namespace bitdial::cli
