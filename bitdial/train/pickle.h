#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The part of Python's pickle format that PyTorch's state dicts use. Reading builds plain values; classes
/// and functions stay names, so nothing of the file is executed.
namespace bitdial::train {

struct PickleValue {
  enum class Kind : uint8_t {
    kNone,
    kBool,
    kInt,
    kFloat,
    kText,
    kTuple,
    kList,
    kDict,
    kGlobal,
    kPersistent,
    kObject
  };
  Kind kind = Kind::kNone;
  int64_t integer = 0;              ///< kInt, kBool
  double real = 0.0;                ///< kFloat
  std::string text;                 ///< kText; kGlobal: "module.name"
  std::vector<PickleValue*> items;  ///< kTuple, kList; kPersistent: the id; kObject: callable, arguments
  std::vector<std::pair<PickleValue*, PickleValue*>> entries;  ///< kDict
};

/// Owns all values of one pickle: values may refer to each other in cycles.
class Pickle {
 public:
  /// Throws Error on anything but a complete, well-formed pickle.
  static Pickle parse(std::span<const std::byte> bytes);

  const PickleValue& root() const { return *root_; }

 private:
  friend class PickleReader;
  std::deque<PickleValue> values_;
  PickleValue* root_ = nullptr;
};

/// Writes opcodes of protocol 2.
class PickleWriter {
 public:
  PickleWriter() { bytes_ += "\x80\x02"; }
  void text(std::string_view value);
  void integer(int64_t value);
  void boolean(bool value) { bytes_ += value ? '\x88' : '\x89'; }
  void global(std::string_view module, std::string_view name);
  void mark() { bytes_ += '('; }
  void tuple() { bytes_ += 't'; }  ///< of everything since the mark
  void empty_tuple() { bytes_ += ')'; }
  void reduce() { bytes_ += 'R'; }
  void persistent_id() { bytes_ += 'Q'; }
  void set_items() { bytes_ += 'u'; }  ///< pairs since the mark, into the dictionary before it
  std::string finish() { return std::move(bytes_ += '.'); }

 private:
  std::string bytes_;
};

}  // namespace bitdial::train
