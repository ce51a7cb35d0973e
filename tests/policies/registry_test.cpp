#include "bitdial/policies/registry.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "bitdial/core/error.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using nlohmann::json;

std::string error_of(std::string_view spec, const json& options = json::object()) {
  try {
    make(spec, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Registry, NamesAndHelp) {
  const std::vector<std::string> expected{"float32", "bf16",     "static", "sbm",       "cpt",   "pfq",
                                          "random",  "schedule", "apt",    "muppet",    "adapt", "adept",
                                          "marvin",  "auto",     "dfq",    "fractrain", "ldp",   "skeleton"};
  EXPECT_EQ(names(), expected);
  for (const std::string& name : names()) {
    EXPECT_EQ(make(name)->name(), name);
    EXPECT_GT(help(name).size(), 20U);
    EXPECT_EQ(help(name).find('\n'), std::string::npos);
  }
}

// The help, the defaults and the checks come from the same place.
TEST(Registry, DescribedOptionsAreTheAcceptedOnes) {
  for (const std::string& name : names()) {
    const json resolved = make(name)->options();
    const std::vector<OptionHelp> described = options(name);
    EXPECT_EQ(described.size(), resolved.size()) << name;
    for (const OptionHelp& option : described) {
      EXPECT_TRUE(resolved.contains(option.name)) << name << " " << option.name;
      EXPECT_FALSE(option.text.empty()) << name << " " << option.name;
      EXPECT_FALSE(option.allowed.empty()) << name << " " << option.name;
    }
    EXPECT_EQ(make(name, resolved)->options(), resolved) << name;
  }
}

// docs/policies.md holds a row for every policy and every option, as in the program.
TEST(Registry, DocumentationListsEveryOption) {
  std::ifstream stream(BITDIAL_SOURCE_DIR "/docs/policies.md");
  std::ostringstream document;
  document << stream.rdbuf();
  const std::string text = document.str();
  const auto escaped = [](const std::string& cell) {
    std::string out;
    for (const char c : cell) out += c == '|' ? std::string("\\|") : std::string(1, c);
    return out;
  };
  for (const std::string& name : names()) {
    EXPECT_NE(text.find("| `" + name + "` | " + help(name) + " |"), std::string::npos)
        << name << ": " << help(name);
    for (const OptionHelp& option : options(name)) {
      const std::string row = "| `" + option.name + "` | `" + option.default_value + "` | " +
                              escaped(option.allowed) + " | " + escaped(option.text) + " |\n";
      EXPECT_NE(text.find(row), std::string::npos) << name << "\n" << row;
    }
  }
}

TEST(Registry, UnknownNameSuggestsTheNearest) {
  EXPECT_EQ(error_of("atp"), "[policies] there is no policy \"atp\"; did you mean \"apt\"?");
  EXPECT_EQ(error_of("Static:8/8/8"), "[policies] there is no policy \"Static\"; did you mean \"static\"?");
  EXPECT_NE(error_of("quantum").find("known: float32, bf16, static"), std::string::npos)
      << error_of("quantum");
  EXPECT_THROW(make(""), Error);
}

TEST(Registry, UnknownOptionSuggestsTheNearest) {
  EXPECT_EQ(error_of("apt", {{"aplha", 0.1}}),
            "[policies] \"apt\" has no option \"aplha\"; did you mean \"alpha\"?");
  EXPECT_EQ(error_of("static", {{"weight-bit", 8}}),
            "[policies] \"static\" has no option \"weight-bit\"; did you mean \"weight_bits\"?");
  EXPECT_EQ(error_of("float32", {{"bits", 8}}), "[policies] \"float32\" has no options, got \"bits\"");
}

TEST(Registry, WrongValues) {
  EXPECT_EQ(error_of("static", {{"weight_bits", 1}}),
            "[policies] option \"weight_bits\" of \"static\" must be 2 .. 32, got 1");
  EXPECT_EQ(
      error_of("static", {{"range", "previuos"}}),
      "[policies] option \"range\" of \"static\" must be exact | previous, got \"previuos\"; did you mean "
      "\"previous\"?");
  EXPECT_THROW(make("apt", json::array()), Error);
  EXPECT_NO_THROW(make("apt", nullptr));
}

TEST(Registry, StaticArgument) {
  const json resolved = make("static:4/6/16")->options();
  EXPECT_EQ(resolved["weight_bits"], 4);
  EXPECT_EQ(resolved["activation_bits"], 6);
  EXPECT_EQ(resolved["gradient_bits"], 16);
  for (const char* bad : {"static:", "static:8", "static:8/8", "static:8/8/8/8", "static:8/8/x",
                          "static:8//8", "static:1/8/8", "static:8/8/33", "static: 8/8/8", "apt:8/8/8"}) {
    EXPECT_THROW(make(bad), Error) << bad;
  }
  EXPECT_THROW(make("static:8/8/8", {{"weight_bits", 4}}), Error);
  EXPECT_NO_THROW(make("static:8/8/8", {{"weight_bits", 8}}));
}

TEST(Registry, FloatPolicies) {
  const auto float32 = make("float32"), bf16 = make("bf16");
  EXPECT_FALSE(float32->quantizes());
  EXPECT_FALSE(bf16->quantizes());
  EXPECT_EQ(float32->float_arithmetic(), FloatArithmetic::kFloat32);
  EXPECT_EQ(bf16->float_arithmetic(), FloatArithmetic::kBFloat16Autocast);
  bitdial::testing::VectorProbe probe({1.0F});
  EXPECT_TRUE(bf16->plan({}, {}, probe).format.is_float());
  EXPECT_EQ(probe.measures, 0);
}

}  // namespace
}  // namespace bitdial::policies
