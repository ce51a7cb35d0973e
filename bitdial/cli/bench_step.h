#pragma once

namespace CLI {
class App;
}

namespace bitdial::cli {

/// Adds `bench step`: times training steps of LibTorch and of policies side by side.
void add_bench_step(CLI::App& bench);

}  // namespace bitdial::cli
