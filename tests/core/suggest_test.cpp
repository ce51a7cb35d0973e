#include "bitdial/core/suggest.h"

#include <gtest/gtest.h>

namespace bitdial {
namespace {

const std::vector<std::string> kKeys{"epochs", "learning_rate", "batch_size", "resnet20-cifar",
                                     "sgd",    "adam",          "adamw"};

TEST(Suggest, EditDistance) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("abc", ""), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("aplha", "alpha"), 1) << "a swap is one error";
  EXPECT_EQ(edit_distance("adam", "adamw"), 1);
}

TEST(Suggest, NearestName) {
  EXPECT_EQ(nearest_name("epoch", kKeys), "epochs");
  EXPECT_EQ(nearest_name("learningrate", kKeys), "learning_rate");
  EXPECT_EQ(nearest_name("Batch-Size", kKeys), "batch_size");
  EXPECT_EQ(nearest_name("resnet20", kKeys), "resnet20-cifar");
  EXPECT_EQ(nearest_name("adma", kKeys), "adam");
  EXPECT_EQ(nearest_name("adamw", kKeys), "adamw");
  EXPECT_EQ(nearest_name("zebra", kKeys), "");
  EXPECT_EQ(nearest_name("", kKeys), "");
  EXPECT_EQ(nearest_name("ab", std::vector<std::string>{"xy"}), "") << "nothing in common";
}

TEST(Suggest, Text) {
  EXPECT_EQ(suggestion("epoch", kKeys), "; did you mean \"epochs\"?");
  EXPECT_EQ(suggestion("zebra", std::vector<std::string>{"sgd", "adam"}), "; known: sgd, adam");
  EXPECT_EQ(suggestion("zebra", {}), "");
}

}  // namespace
}  // namespace bitdial
