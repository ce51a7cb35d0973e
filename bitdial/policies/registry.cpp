#include "bitdial/policies/registry.h"

#include <charconv>
#include <functional>

#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"
#include "bitdial/policies/apt.h"
#include "bitdial/policies/auto.h"
#include "bitdial/policies/bf16.h"
#include "bitdial/policies/float32.h"
#include "bitdial/policies/options.h"
#include "bitdial/policies/skeleton.h"
#include "bitdial/policies/static_policy.h"

namespace bitdial::policies {
namespace {

using Factory = std::function<std::shared_ptr<Policy>(OptionReader&)>;
// Turns the argument after the colon into options.
using Argument = std::function<nlohmann::json(std::string_view)>;

struct Entry {
  std::string name;
  std::string help;
  Factory make;
  Argument argument;  // empty: the name takes no argument
};

template <class P>
Factory plain() {
  return [](OptionReader&) { return std::make_shared<P>(); };
}

template <class P>
Factory with_options() {
  return [](OptionReader& options) { return std::make_shared<P>(options); };
}

Factory static_factory(const std::string& name) {
  return [name](OptionReader& options) { return std::make_shared<StaticPolicy>(name, options); };
}

// "8/8/16": word lengths of W, A and G; "sbm": the preset.
nlohmann::json static_argument(std::string_view text) {
  if (text == "sbm") return {{"preset", "sbm"}};
  constexpr std::array<const char*, 3> kNames{"weight_bits", "activation_bits", "gradient_bits"};
  nlohmann::json options = nlohmann::json::object();
  std::string_view rest = text;
  for (size_t i = 0; i < kNames.size(); ++i) {
    int bits = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), bits);
    const auto used = static_cast<size_t>(end - rest.data());
    const bool last = i + 1 == kNames.size();
    const bool separated = last ? used == rest.size() : used < rest.size() && rest[used] == '/';
    require(error == std::errc{} && separated, "policies",
            "\"static\" takes W/A/G, the word lengths of weights, activations and gradients "
            "(\"static:8/8/16\"), or "
            "\"static:sbm\"; got \"{}\"",
            text);
    options[kNames[i]] = bits;
    rest.remove_prefix(last ? used : used + 1);
  }
  return options;
}

// One line per policy.
const std::vector<Entry>& table() {
  static const std::vector<Entry> entries{
      {"float32", "no quantisation, LibTorch's float32 kernels (baseline)", plain<Float32Policy>(), {}},
      {"bf16",
       "no quantisation, GEMMs in bfloat16 by LibTorch's autocast (baseline)",
       plain<BFloat16Policy>(),
       {}},
      {"static", "the same word lengths everywhere and always; static:W/A/G, default 8/8/8",
       static_factory("static"), static_argument},
      {"sbm",
       "8 bits with Range BN and a float copy of the gradient for WTGRAD (Banner et al. 2018)",
       static_factory("sbm"),
       {}},
      {"apt",
       "width per tensor from the quantisation error, widened when it grows (Zhang et al. 2020)",
       with_options<AptPolicy>(),
       {}},
      {"auto",
       "per layer and GEMM the fastest arithmetic on this machine whose error stays within apt's bounds",
       with_options<AutoPolicy>(),
       {}},
      {"skeleton",
       "a small policy to copy: gradients get 16 bits where too many codes are zero",
       with_options<SkeletonPolicy>(),
       {}},
  };
  return entries;
}

const Entry& find(std::string_view name) {
  for (const Entry& entry : table()) {
    if (entry.name == name) return entry;
  }
  fail("policies", "there is no policy \"{}\"{}", name, suggestion(name, names()));
}

}  // namespace

std::shared_ptr<Policy> make(std::string_view spec, const nlohmann::json& options) {
  const size_t colon = spec.find(':');
  const Entry& entry = find(spec.substr(0, colon));
  nlohmann::json all = options.is_null() ? nlohmann::json::object() : options;
  if (colon != std::string_view::npos) {
    const std::string_view text = spec.substr(colon + 1);
    require(static_cast<bool>(entry.argument), "policies", "\"{}\" takes no argument, got \"{}\"", entry.name,
            spec);
    const nlohmann::json given = entry.argument(text);
    for (const auto& [name, value] : given.items()) {
      require(!all.contains(name) || all[name] == value, "policies",
              "\"{}\" and the option \"{}\" say different things", spec, name);
      all[name] = value;
    }
  }
  OptionReader reader(entry.name, all);
  std::shared_ptr<Policy> policy = entry.make(reader);
  reader.finish();
  return policy;
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const Entry& entry : table()) all.push_back(entry.name);
  return all;
}

std::string help(std::string_view name) { return find(name).help; }

std::vector<OptionHelp> options(std::string_view name) {
  const Entry& entry = find(name);
  OptionReader reader(entry.name, nlohmann::json::object());
  entry.make(reader);
  return reader.described();
}

}  // namespace bitdial::policies
