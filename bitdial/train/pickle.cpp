#include "bitdial/train/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <unordered_map>

#include "bitdial/core/error.h"

namespace bitdial::train {

namespace {
constexpr const char* kOperation = "state dict";
}

/// A stack machine, as the format prescribes.
class PickleReader {
 public:
  explicit PickleReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  Pickle run() {
    while (!pickle_.root_) step(number<uint8_t>());
    return std::move(pickle_);
  }

 private:
  using Kind = PickleValue::Kind;

  void step(uint8_t opcode);
  bool step_scalar(uint8_t opcode);
  bool step_container(uint8_t opcode);
  bool step_memo(uint8_t opcode);
  bool step_object(uint8_t opcode);

  template <class T>
  T number() {
    T value;
    const auto raw = take(sizeof(T));
    std::memcpy(&value, raw.data(), sizeof(T));
    return value;
  }

  std::span<const std::byte> take(size_t count) {
    require(count <= bytes_.size() - position_, kOperation, "the pickle ends in the middle of a value");
    const auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }

  std::string take_text(size_t count) {
    const auto raw = take(count);
    return {reinterpret_cast<const char*>(raw.data()), raw.size()};
  }

  std::string take_line() {
    std::string line;
    for (char c = number<char>(); c != '\n'; c = number<char>()) line += c;
    return line;
  }

  PickleValue* push(Kind kind) {
    PickleValue& value = pickle_.values_.emplace_back();
    value.kind = kind;
    stack_.push_back(&value);
    return &value;
  }

  void push_int(int64_t value) { push(Kind::kInt)->integer = value; }
  void push_text(std::string text) { push(Kind::kText)->text = std::move(text); }

  /// A little-endian two's-complement integer of any length that fits 64 bits.
  void push_long(size_t length) {
    require(length <= sizeof(int64_t), kOperation, "the pickle holds an integer of {} bytes", length);
    const auto raw = take(length);
    uint64_t bits = !raw.empty() && (raw.back() & std::byte{0x80}) != std::byte{} ? ~uint64_t{0} : 0;
    std::memcpy(&bits, raw.data(), length);
    push_int(static_cast<int64_t>(bits));
  }

  PickleValue* pop() {
    require(!stack_.empty() && (marks_.empty() || stack_.size() > marks_.back()), kOperation,
            "the pickle's stack is empty");
    PickleValue* value = stack_.back();
    stack_.pop_back();
    return value;
  }

  PickleValue* top(Kind kind) {
    require(!stack_.empty() && stack_.back()->kind == kind, kOperation,
            "the pickle puts items into no container");
    return stack_.back();
  }

  std::vector<PickleValue*> pop_to_mark() {
    require(!marks_.empty(), kOperation, "the pickle has no mark");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleValue*> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }

  void push_tuple(size_t size) {
    std::vector<PickleValue*> items(size);
    for (size_t i = size; i-- > 0;) items[i] = pop();
    push(Kind::kTuple)->items = std::move(items);
  }

  /// Items of a container that is an object of an unknown class are dropped.
  void append(const std::vector<PickleValue*>& items) {
    require(!stack_.empty(), kOperation, "the pickle puts items into no container");
    if (stack_.back()->kind == Kind::kObject) return;
    auto& list = top(Kind::kList)->items;
    list.insert(list.end(), items.begin(), items.end());
  }

  void set_items(const std::vector<PickleValue*>& items) {
    require(items.size() % 2 == 0 && !stack_.empty(), kOperation, "the pickle sets a key without a value");
    if (stack_.back()->kind == Kind::kObject) return;
    auto& entries = top(Kind::kDict)->entries;
    for (size_t i = 0; i < items.size(); i += 2) entries.emplace_back(items[i], items[i + 1]);
  }

  /// Calls are recorded, not made; an ordered dictionary is a dictionary.
  void call(PickleValue* arguments, PickleValue* callable) {
    if (callable->kind == Kind::kGlobal && callable->text == "collections.OrderedDict" &&
        arguments->items.empty()) {
      push(Kind::kDict);
      return;
    }
    push(Kind::kObject)->items = {callable, arguments};
  }

  void remember(uint64_t slot) {
    require(!stack_.empty(), kOperation, "the pickle remembers nothing");
    memo_[slot] = stack_.back();
  }

  void recall(uint64_t slot) {
    const auto found = memo_.find(slot);
    require(found != memo_.end(), kOperation, "the pickle recalls what it never stored");
    stack_.push_back(found->second);
  }

  std::span<const std::byte> bytes_;
  size_t position_ = 0;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, PickleValue*> memo_;
  Pickle pickle_;
};

void PickleReader::step(uint8_t opcode) {
  if (step_scalar(opcode) || step_container(opcode) || step_memo(opcode) || step_object(opcode)) return;
  switch (opcode) {
    case 0x80:
      number<uint8_t>();
      return;  // PROTO
    case 0x95:
      number<uint64_t>();
      return;  // FRAME
    case '(':
      marks_.push_back(stack_.size());
      return;  // MARK
    case '0':
      pop();
      return;  // POP
    case '.':
      pickle_.root_ = pop();
      return;  // STOP
    default:
      fail(kOperation, "the pickle uses the unsupported opcode 0x{:02x}", opcode);
  }
}

bool PickleReader::step_scalar(uint8_t opcode) {
  switch (opcode) {
    case 'N':
      push(Kind::kNone);
      return true;
    case 0x88:
      push(Kind::kBool)->integer = 1;
      return true;
    case 0x89:
      push(Kind::kBool)->integer = 0;
      return true;
    case 'J':
      push_int(number<int32_t>());
      return true;  // BININT
    case 'K':
      push_int(number<uint8_t>());
      return true;  // BININT1
    case 'M':
      push_int(number<uint16_t>());
      return true;  // BININT2
    case 0x8a:
      push_long(number<uint8_t>());
      return true;  // LONG1
    case 'G': {     // BINFLOAT, big-endian
      push(Kind::kFloat)->real = std::bit_cast<double>(__builtin_bswap64(number<uint64_t>()));
      return true;
    }
    case 'X':
      push_text(take_text(number<uint32_t>()));
      return true;  // BINUNICODE
    case 0x8c:
      push_text(take_text(number<uint8_t>()));
      return true;  // SHORT_BINUNICODE
    case 'U':
      push_text(take_text(number<uint8_t>()));
      return true;  // SHORT_BINSTRING
    case 'T':
      push_text(take_text(number<uint32_t>()));
      return true;  // BINSTRING
    case 'B':
      push_text(take_text(number<uint32_t>()));
      return true;  // BINBYTES
    case 'C':
      push_text(take_text(number<uint8_t>()));
      return true;  // SHORT_BINBYTES
    default:
      return false;
  }
}

bool PickleReader::step_container(uint8_t opcode) {
  switch (opcode) {
    case '}':
      push(Kind::kDict);
      return true;
    case ']':
      push(Kind::kList);
      return true;
    case ')':
      push(Kind::kTuple);
      return true;
    case 0x85:
      push_tuple(1);
      return true;
    case 0x86:
      push_tuple(2);
      return true;
    case 0x87:
      push_tuple(3);
      return true;
    case 't': {
      auto items = pop_to_mark();
      push(Kind::kTuple)->items = std::move(items);
      return true;
    }
    case 'a':
      append({pop()});
      return true;
    case 'e':
      append(pop_to_mark());
      return true;
    case 's': {
      PickleValue* value = pop();
      PickleValue* key = pop();
      set_items({key, value});
      return true;
    }
    case 'u':
      set_items(pop_to_mark());
      return true;
    default:
      return false;
  }
}

bool PickleReader::step_memo(uint8_t opcode) {
  switch (opcode) {
    case 'q':
      remember(number<uint8_t>());
      return true;
    case 'r':
      remember(number<uint32_t>());
      return true;
    case 0x94:
      remember(memo_.size());
      return true;  // MEMOIZE
    case 'h':
      recall(number<uint8_t>());
      return true;
    case 'j':
      recall(number<uint32_t>());
      return true;
    default:
      return false;
  }
}

bool PickleReader::step_object(uint8_t opcode) {
  switch (opcode) {
    case 'c': {  // GLOBAL
      const std::string module = take_line();
      push(Kind::kGlobal)->text = module + "." + take_line();
      return true;
    }
    case 0x93: {  // STACK_GLOBAL
      const PickleValue* name = pop();
      const PickleValue* module = pop();
      push(Kind::kGlobal)->text = module->text + "." + name->text;
      return true;
    }
    case 'R':     // REDUCE
    case 0x81: {  // NEWOBJ
      PickleValue* arguments = pop();
      call(arguments, pop());
      return true;
    }
    case 'b':
      pop();
      return true;  // BUILD: attributes of an object, for instance a state dict's _metadata
    case 'Q': {     // BINPERSID
      PickleValue* id = pop();
      push(Kind::kPersistent)->items = {id};
      return true;
    }
    default:
      return false;
  }
}

Pickle Pickle::parse(std::span<const std::byte> bytes) { return PickleReader(bytes).run(); }

void PickleWriter::text(std::string_view value) {
  const auto length = static_cast<uint32_t>(value.size());
  bytes_ += 'X';
  bytes_.append(reinterpret_cast<const char*>(&length), sizeof(length));
  bytes_ += value;
}

void PickleWriter::integer(int64_t value) {
  bytes_ += "\x8a\x08";  // LONG1 of 8 bytes
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PickleWriter::global(std::string_view module, std::string_view name) {
  bytes_ += fmt::format("c{}\n{}\n", module, name);
}

}  // namespace bitdial::train
