#include "bitdial/train/reproduce.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>

#include "bitdial/core/error.h"

namespace bitdial::train {

static void PrintTo(const ReproducedGroup& group, std::ostream* stream) { *stream << group.name; }

namespace {

class ReproduceTest : public ::testing::TestWithParam<ReproducedGroup> {};

TEST_P(ReproduceTest, EveryCellIsWithinItsTolerance) {
  const auto cells = GetParam().cells();
  EXPECT_FALSE(cells.empty());
  for (const ReproducedCell& cell : cells)
    EXPECT_TRUE(cell.ok()) << cell.name << ": paper " << cell.paper << ", ours " << cell.ours;
}

INSTANTIATE_TEST_SUITE_P(Groups, ReproduceTest,
                         ::testing::ValuesIn(reproduced_groups().begin(), reproduced_groups().end()),
                         [](const auto& info) {
                           std::string name(info.param.name);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Reproduce, NamesOfCellsDiffer) {
  std::set<std::string> names;
  size_t cells = 0;
  for (const ReproducedGroup& group : reproduced_groups()) {
    for (const ReproducedCell& cell : group.cells()) {
      const auto json = to_json(group, cell);
      names.insert(json.at("name").get<std::string>());
      EXPECT_EQ(json.at("ok").get<bool>(),
                std::abs(json.at("difference").get<double>()) <= json.at("tolerance").get<double>());
      ++cells;
    }
  }
  EXPECT_EQ(names.size(), cells);
}

TEST(Reproduce, ACellOutOfItsToleranceIsNotOk) {
  EXPECT_FALSE((ReproducedCell{"high", 1.0, 1.2, 0.1}).ok());
  EXPECT_FALSE((ReproducedCell{"low", 1.0, 0.8, 0.1}).ok());
  EXPECT_FALSE((ReproducedCell{"none", 1.0, std::nan(""), 0.1}).ok());
  EXPECT_TRUE((ReproducedCell{"exact", 5.0, 5.0, 0.0}).ok());
}

TEST(Reproduce, SuggestsTheNearestGroup) {
  try {
    reproduced_group("cpt-cifer");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("\"cpt-cifar\""), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace bitdial::train
