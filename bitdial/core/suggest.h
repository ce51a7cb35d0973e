#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

/// "did you mean": the nearest known name to a misspelt one.
namespace bitdial {

/// Fewest insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (bytes; optimal
/// string alignment).
int edit_distance(std::string_view a, std::string_view b);

/// The candidate that `word` was most likely meant to be, or an empty string when none is near: at most a
/// third of the word's length (at least 2) away, or an extension of it. Ignores case, "-" and "_".
std::string nearest_name(std::string_view word, std::span<const std::string> candidates);

/// "; did you mean \"epochs\"?" or, when nothing is near and the list is short, "; known: a, b, c". For the
/// end of an error message.
std::string suggestion(std::string_view word, std::span<const std::string> candidates);

}  // namespace bitdial
