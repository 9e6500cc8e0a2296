#include <bitrain/text/charsmap.h>

#include <cstring>

#include <bitrain/base/error.h>

namespace bitrain::text {

CharsMap::CharsMap(std::string_view blob, const std::string& name) {
  if (blob.empty()) return;
  std::uint32_t size = 0;
  if (blob.size() < sizeof(size)) throw FormatError(name, ": the normalisation table is truncated");
  std::memcpy(&size, blob.data(), sizeof(size));
  blob.remove_prefix(sizeof(size));
  if (size == 0 || size % sizeof(std::uint32_t) != 0 || size > blob.size())
    throw FormatError(name, ": the normalisation table claims ", size, " bytes of ", blob.size());
  units_.resize(size / sizeof(std::uint32_t));
  std::memcpy(units_.data(), blob.data(), size);
  strings_ = std::string(blob.substr(size));
}

/// Calls found(length, text) for each entry, shortest first, until it returns false.
template <class Found>
void CharsMap::prefixes(std::string_view text, std::size_t at, Found&& found) const {
  // The units of Darts-clone: 8 bits of label, a leaf flag, and an offset to the children.
  const auto offset = [](std::uint32_t unit) { return unit >> 10 << ((unit & (1U << 9)) >> 6); };
  if (units_.empty()) return;
  std::size_t node = offset(units_[0]);
  for (std::size_t i = at; i < text.size(); ++i) {
    const auto byte = static_cast<std::uint8_t>(text[i]);
    node ^= byte;
    if (node >= units_.size()) return;
    const std::uint32_t unit = units_[node];
    if ((unit & (1U << 31 | 0xFFU)) != byte) return;
    node ^= offset(unit);
    if ((unit >> 8 & 1U) == 0) continue;
    if (node >= units_.size()) return;
    const std::size_t begin = units_[node] & 0x7FFFFFFFU;
    if (begin > strings_.size()) return;
    const std::string_view tail = std::string_view(strings_).substr(begin);
    if (!found(i + 1 - at, tail.substr(0, tail.find('\0')))) return;
  }
}

std::pair<std::size_t, std::string_view> CharsMap::longest(std::string_view text, std::size_t at) const {
  std::pair<std::size_t, std::string_view> best{0, {}};
  prefixes(text, at, [&](std::size_t length, std::string_view mapped) {
    best = {length, mapped};
    return true;
  });
  return best;
}

std::optional<std::string_view> CharsMap::shortest(std::string_view text, std::size_t at) const {
  std::optional<std::string_view> result;
  prefixes(text, at, [&](std::size_t, std::string_view mapped) {
    result = mapped;
    return false;
  });
  return result;
}

}  // namespace bitrain::text
