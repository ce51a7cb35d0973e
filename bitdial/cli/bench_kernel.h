#pragma once

namespace CLI {
class App;
}

namespace bitdial::cli {

/// Adds `bench kernel`: checks convolution problems against the scalar reference and times them.
void add_bench_kernel(CLI::App& bench);

}  // namespace bitdial::cli
