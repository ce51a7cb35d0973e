#include "bitdial/nn/option_scope.h"

#include <utility>

namespace bitdial::nn {
namespace {

thread_local OptionScope::Values current_option;

}  // namespace

OptionScope::OptionScope(int option, std::shared_ptr<const GroupRanges> ranges)
    : outer_(std::exchange(current_option, Values{option, std::move(ranges)})) {}

OptionScope::~OptionScope() { current_option = std::move(outer_); }

OptionScope::Values OptionScope::current() { return current_option; }

}  // namespace bitdial::nn
