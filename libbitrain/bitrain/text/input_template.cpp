#include <algorithm>
#include <utility>

#include <bitrain/text/tokenizer.h>

#include <bitrain/base/error.h>

namespace bitrain::text {
namespace {

using Item = InputTemplate::Item;
using Kind = InputTemplate::Kind;

Encoding frame_items(const std::vector<Item>& items, const Encoding& first, const Encoding& second) {
  Encoding framed;
  for (const Item& item : items) {
    if (item.kind == Kind::kSpecial) {
      framed.ids.push_back(item.id);
      framed.offsets.push_back({});
    } else {
      const Encoding& text = item.kind == Kind::kFirst ? first : second;
      framed.ids.insert(framed.ids.end(), text.ids.begin(), text.ids.end());
      framed.offsets.insert(framed.offsets.end(), text.offsets.begin(), text.offsets.end());
    }
    framed.type_ids.resize(framed.ids.size(), item.type_id);
  }
  return framed;
}

}  // namespace

std::int64_t InputTemplate::special_count(bool two_texts) const {
  const std::vector<Item>& items = two_texts ? pair : single;
  return std::count_if(items.begin(), items.end(),
                       [](const Item& item) { return item.kind == Kind::kSpecial; });
}

std::int64_t InputTemplate::special_count_before_second() const {
  const auto second =
      std::find_if(pair.begin(), pair.end(), [](const Item& item) { return item.kind == Kind::kSecond; });
  return std::count_if(pair.begin(), second, [](const Item& item) { return item.kind == Kind::kSpecial; });
}

std::vector<TokenId> InputTemplate::frame(const std::vector<TokenId>& ids) const {
  std::vector<TokenId> framed;
  framed.reserve(ids.size() + single.size());
  for (const Item& item : single) {
    if (item.kind == Kind::kSpecial)
      framed.push_back(item.id);
    else
      framed.insert(framed.end(), ids.begin(), ids.end());
  }
  return framed;
}

Encoding InputTemplate::frame(const Encoding& text) const {
  return frame_items(single, text, {});
}

Encoding InputTemplate::frame(const Encoding& first, const Encoding& second) const {
  return frame_items(pair, first, second);
}

const InputTemplate& Tokenizer::input_template() const {
  static const InputTemplate kPlain;
  return kPlain;
}

std::vector<TokenId> encode_framed(const Tokenizer& tokenizer, std::string_view text,
                                   std::int64_t max_length) {
  const InputTemplate& input = tokenizer.input_template();
  const std::int64_t room = max_length - input.special_count();
  if (room < 1)
    throw ConfigError("max_length ", max_length, " leaves no room for text beside ", input.special_count(),
                      " special tokens");
  std::vector<TokenId> ids = tokenizer.encode(text);
  if (static_cast<std::int64_t>(ids.size()) > room) ids.resize(static_cast<std::size_t>(room));
  return input.frame(ids);
}

Encoding Tokenizer::encode_markup(std::string_view text, const std::vector<Offset>& /*markup*/) const {
  return encode_with_offsets(text);
}

void cut_longest_first(Encoding& first, Encoding& second, std::int64_t room) {
  const auto most = static_cast<std::size_t>(std::max<std::int64_t>(0, room));
  if (first.ids.size() + second.ids.size() <= most) return;
  const bool first_is_longer = first.ids.size() > second.ids.size();
  Encoding& longer = first_is_longer ? first : second;
  Encoding& shorter = first_is_longer ? second : first;
  const auto cut = [](Encoding& text, std::size_t length) {
    text.ids.resize(length);
    text.offsets.resize(length);
  };
  if (shorter.ids.size() > most / 2) cut(shorter, most / 2);
  cut(longer, most - shorter.ids.size());
}

FramedPair encode_pair_framed(const Tokenizer& tokenizer, std::string_view first, std::string_view second,
                              std::int64_t max_length) {
  const InputTemplate& input = tokenizer.input_template();
  const std::int64_t special = input.special_count(/*two_texts=*/true);
  if (max_length < special + 2)
    throw ConfigError("max_length ", max_length, " leaves no room for two texts beside ", special,
                      " special tokens");
  Encoding left = tokenizer.encode_with_offsets(first);
  Encoding right = tokenizer.encode_with_offsets(second);
  cut_longest_first(left, right, max_length - special);
  Encoding framed = input.frame(left, right);
  return {std::move(framed.ids), std::move(framed.type_ids),
          left.ids.size() + static_cast<std::size_t>(input.special_count_before_second())};
}

}  // namespace bitrain::text
