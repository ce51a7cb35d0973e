// bitdial policies, bitdial models.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "bitdial/cli/command.h"
#include "bitdial/cli/table.h"
#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"
#include "bitdial/models/zoo.h"
#include "bitdial/policies/registry.h"

namespace bitdial::cli {

namespace {

void print_policy(const std::string& name) {
  const auto known = policies::names();
  require(std::find(known.begin(), known.end(), name) != known.end(), "policies", "unknown policy \"{}\"{}",
          name, suggestion(name, known));
  fmt::print("{}: {}\n", name, policies::help(name));
  const auto options = policies::options(name);
  if (options.empty()) return;
  Table table({"option", "default", "allowed", "meaning"});
  for (const auto& option : options)
    table.add({option.name, option.default_value, option.allowed, option.text});
  fmt::print(
      "\n{}\nIn a recipe: [precision.options]; on the command line: --set precision.options.NAME=VALUE\n",
      table.text());
}

void print_policies() {
  Table table({"policy", "what it does"});
  for (const std::string& name : policies::names()) table.add({name, policies::help(name)});
  fmt::print("{}\n`bitdial policies NAME` lists the options of one.\n", table.text());
}

std::string size_text(const models::ImageSize& size) {
  if (size.height == 1 && size.width == 1) return std::to_string(size.channels);
  return fmt::format("{}x{}x{}", size.channels, size.height, size.width);
}

void print_model(const std::string& name, const models::Options& options) {
  const auto rows = models::layer_table(name, options);
  Table table({"layer", "kind", "input", "output", "kernel", "parameters", "MACs"});
  for (const auto& row : rows) {
    const std::string kernel =
        row.kernel == 0 ? "" : fmt::format("{}/{}", row.kernel, std::max<int64_t>(row.stride, 1));
    table.add({row.name, row.kind, size_text(row.input), size_text(row.output), kernel,
               grouped(row.parameters), row.macs > 0 ? grouped(row.macs) : ""});
  }
  table.add(
      {"total", "", "", "", "", grouped(models::total_parameters(rows)), grouped(models::total_macs(rows))});
  const bool classifies = std::ranges::find(models::names(), name) != models::names().end();
  fmt::print("{}{}; shapes are channels x height x width of one sample, kernel is edge/stride\n\n{}", name,
             classifies ? fmt::format(" for {} classes", options.classes) : "", table.text());
}

void print_models() {
  Table table({"network", "input", "classes", "parameters", "MACs"});
  for (const std::string_view name : models::names()) {
    models::Options options;
    options.classes = name.ends_with("imagenet") ? 1000 : 10;
    const auto rows = models::layer_table(name, options);
    table.add({std::string(name), size_text(rows.front().input), std::to_string(options.classes),
               grouped(models::total_parameters(rows)), grouped(models::total_macs(rows))});
  }
  for (const std::string_view name : models::table_only_names()) {
    const auto rows = models::layer_table(name);
    table.add({std::string(name), size_text(rows.front().input), "layer table only",
               grouped(models::total_parameters(rows)), grouped(models::total_macs(rows))});
  }
  fmt::print(
      "{}\nMACs: multiply-accumulates of one forward pass of one sample. `bitdial models NAME` lists the "
      "layers.\n",
      table.text());
}

}  // namespace

void add_policies_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("policies", "List the precision policies, or the options of one");
  const auto name = std::make_shared<std::string>();
  command->add_option("NAME", *name, "A policy");
  command->callback([name] { name->empty() ? print_policies() : print_policy(*name); });
}

void add_models_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("models", "List the networks, or the layers of one");
  struct Arguments {
    std::string name;
    models::Options options;
  };
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("NAME", arguments->name, "A network");
  command->add_option("--classes", arguments->options.classes, "Classes")->capture_default_str();
  command->callback([arguments] {
    arguments->name.empty() ? print_models() : print_model(arguments->name, arguments->options);
  });
}

}  // namespace bitdial::cli
