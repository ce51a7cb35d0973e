// A 1x1 convolution of int8 codes with the installed kernels.
#include <bitdial/kernels/conv2d.h>
#include <bitdial/kernels/isa.h>

#include <cstdint>
#include <iostream>
#include <vector>

int main() {
  namespace kernels = bitdial::kernels;
  kernels::ConvShape shape;
  shape.batch = 2;
  shape.in_channels = 3;
  shape.out_channels = 1;
  const std::vector<int8_t> x{1, 2, 3, -4, 5, -128};
  const std::vector<int8_t> w{127, -1, 2};
  const bitdial::QuantParams x_params{.scale = 0.5F};
  const bitdial::QuantParams w_params{.scale = 2.0F};
  std::vector<float> y(2);
  kernels::conv2d_forward(shape, {x.data(), kernels::CodeType::kS8, {&x_params, 1}},
                          {w.data(), kernels::CodeType::kS8, {&w_params, 1}}, nullptr,
                          {y.data(), kernels::OutputType::kFloat32});
  std::cout << kernels::to_string(kernels::active_isa()) << ": " << y[0] << ' ' << y[1] << '\n';
  return y[0] == 127 - 2 + 6 && y[1] == -4 * 127 - 5 - 256 ? 0 : 1;
}
