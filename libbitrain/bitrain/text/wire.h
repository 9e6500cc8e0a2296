#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include <bitrain/base/error.h>

namespace bitrain::text {

/// One field of a protobuf message on the wire.
struct WireField {
  enum Type : std::uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
  std::uint32_t number = 0;
  Type type = kVarint;
  std::uint64_t value = 0;  ///< Unless the type is kBytes.
  std::string_view bytes;   ///< Of kBytes.
  std::string_view raw;     ///< Tag and value, to keep a field as it came.

  [[nodiscard]] float as_float() const {
    const auto bits = static_cast<std::uint32_t>(value);
    float result = 0;
    std::memcpy(&result, &bits, sizeof(result));
    return result;
  }
};

/// Reads protobuf's wire format; every length is checked against what is left. Throws FormatError.
class WireReader {
 public:
  WireReader(std::string_view bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  /// The next field, false at the end.
  bool next(WireField& field) {
    if (at_ == bytes_.size()) return false;
    const std::size_t begin = at_;
    const std::uint64_t tag = varint();
    if (tag >> 3 == 0 || tag >> 32 != 0) fail();
    field = {};
    field.number = static_cast<std::uint32_t>(tag >> 3);
    field.type = static_cast<WireField::Type>(tag & 7);
    switch (field.type) {
      case WireField::kVarint: field.value = varint(); break;
      case WireField::kFixed64: field.value = fixed(8); break;
      case WireField::kBytes: field.bytes = take(varint()); break;
      case WireField::kFixed32: field.value = fixed(4); break;
      default: fail();  // Groups are not used by any format we read.
    }
    field.raw = bytes_.substr(begin, at_ - begin);
    return true;
  }

 private:
  [[noreturn]] void fail() const {
    throw FormatError(name_, ": not a SentencePiece model, or damaged near byte ", at_);
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) fail();
      const auto byte = static_cast<std::uint8_t>(bytes_[at_++]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail();
  }
  std::string_view take(std::uint64_t size) {
    if (size > bytes_.size() - at_) fail();
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  std::uint64_t fixed(std::size_t size) {
    std::uint64_t value = 0;
    std::memcpy(&value, take(size).data(), size);
    return value;
  }

  std::string_view bytes_;
  const std::string& name_;
  std::size_t at_ = 0;
};

/// Appends fields to a message.
class WireWriter {
 public:
  void number(std::uint32_t field, std::uint64_t value) {
    varint(field << 3 | WireField::kVarint);
    varint(value);
  }
  void bytes(std::uint32_t field, std::string_view value) {
    varint(field << 3 | WireField::kBytes);
    varint(value.size());
    message_ += value;
  }
  void real(std::uint32_t field, float value) {
    varint(field << 3 | WireField::kFixed32);
    message_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void raw(std::string_view fields) { message_ += fields; }
  [[nodiscard]] const std::string& message() const { return message_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) message_ += static_cast<char>(value | 0x80);
    message_ += static_cast<char>(value);
  }
  std::string message_;
};

}  // namespace bitrain::text
