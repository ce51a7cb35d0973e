#pragma once

#include <string>
#include <string_view>

#include "bitdial/kernels/conv2d.h"

/// Convolution problems as strings in benchdnn's notation: "mb64ic64ih32oc64kh3sh1ph1".
/// mb batch, g groups, ic/oc channels (of all groups), ih/iw input, oh/ow output, kh/kw kernel, sh/sw stride,
/// ph/pw padding, dh/dw dilation (0 = dense). Defaults: mb2 g1 sh1 ph0 dh0; a missing height is the width and
/// the other way round. oh and ow are optional and checked. A trailing n"name" is ignored.
namespace bitdial::kernels {

/// Throws Error that names the first thing it cannot read, or the output size that does not fit.
ConvShape parse_problem(std::string_view text);

/// The shortest string that parse_problem turns back into `shape`, with mb, ic, ih, oc, oh and kh always
/// present.
std::string to_string(const ConvShape& shape);

}  // namespace bitdial::kernels
