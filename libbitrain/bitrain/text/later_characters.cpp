#include <bitrain/text/later_characters.h>

#include <algorithm>
#include <bitset>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

enum Kind : std::uint8_t {
  kSame,   // The stand-in is of the same script.
  kOther,  // It is not: there is none.
  kPcre2,  // For PCRE2 alone, which takes U+180E for a blank.
};

struct Row {
  std::uint32_t first, last, stand_in;
  Kind kind;
};

// From the tables of tokenizers 0.23.3, one character at a time (tests/python/test_patterns.py does it
// again).
constexpr Row kRows[] = {
    {0x363, 0x36F, 0x64B, kSame},        {0x897, 0x897, 0x8D4, kSame},
    {0xC04, 0xC04, 0xC00, kSame},        {0xCF3, 0xCF3, 0xCD6, kSame},
    {0xECE, 0xECE, 0xECC, kSame},        {0xF82, 0xF83, 0xF81, kSame},
    {0x10FC, 0x10FC, 0x1D2C, kOther},    {0x180E, 0x180E, 0x200B, kPcre2},
    {0x1B4E, 0x1B4F, 0x1B5A, kSame},     {0x1B7F, 0x1B7F, 0x1B7E, kSame},
    {0x1C89, 0x1C89, 0xA640, kSame},     {0x1C8A, 0x1C8A, 0x1C88, kSame},
    {0x1DD3, 0x1DE6, 0x1DE7, kSame},     {0x2427, 0x2429, 0x2426, kSame},
    {0x2FFC, 0x2FFF, 0x2FFB, kSame},     {0x31E4, 0x31E5, 0x31E3, kSame},
    {0x31EF, 0x31EF, 0x31E3, kSame},     {0xA7CB, 0xA7CC, 0xA7C9, kSame},
    {0xA7CD, 0xA7CD, 0xA7CA, kSame},     {0xA7DA, 0xA7DA, 0xA7D8, kSame},
    {0xA7DB, 0xA7DB, 0xA7D9, kSame},     {0xA7DC, 0xA7DC, 0xA7D8, kSame},
    {0xA7F2, 0xA7F4, 0xA7F8, kSame},     {0xAB69, 0xAB69, 0xAB5F, kSame},
    {0x105C0, 0x105F3, 0x10E80, kOther}, {0x10D40, 0x10D49, 0x11950, kOther},
    {0x10D4A, 0x10D4D, 0x10E80, kOther}, {0x10D4E, 0x10D4E, 0x1E137, kOther},
    {0x10D4F, 0x10D4F, 0x10E80, kOther}, {0x10D50, 0x10D65, 0x10595, kOther},
    {0x10D69, 0x10D69, 0x10EAB, kOther}, {0x10D6A, 0x10D6D, 0x1193E, kOther},
    {0x10D6E, 0x10D6E, 0x10EAD, kOther}, {0x10D6F, 0x10D6F, 0x1E137, kOther},
    {0x10D70, 0x10D85, 0x105BC, kOther}, {0x10D8E, 0x10D8F, 0x1D6C1, kOther},
    {0x10EC2, 0x10EC4, 0x1EE00, kSame},  {0x10EFC, 0x10EFC, 0x10EAC, kOther},
    {0x10EFD, 0x10EFF, 0x1193E, kOther}, {0x11080, 0x11081, 0x110B3, kSame},
    {0x1123F, 0x11240, 0x1122B, kSame},  {0x11241, 0x11241, 0x1123E, kSame},
    {0x11380, 0x11389, 0x10EB1, kOther}, {0x1138B, 0x1138B, 0x10EB1, kOther},
    {0x1138E, 0x1138E, 0x10EB1, kOther}, {0x11390, 0x113B5, 0x10EB1, kOther},
    {0x113B7, 0x113B7, 0x10EB1, kOther}, {0x113B8, 0x113BA, 0x11930, kOther},
    {0x113BB, 0x113C0, 0x10EAC, kOther}, {0x113C2, 0x113C2, 0x11930, kOther},
    {0x113C5, 0x113C5, 0x11930, kOther}, {0x113C7, 0x113CA, 0x11930, kOther},
    {0x113CC, 0x113CD, 0x11930, kOther}, {0x113CE, 0x113CE, 0x1193E, kOther},
    {0x113CF, 0x113CF, 0x1193D, kOther}, {0x113D0, 0x113D0, 0x1193E, kOther},
    {0x113D1, 0x113D1, 0x10EB1, kOther}, {0x113D2, 0x113D2, 0x1193E, kOther},
    {0x113D3, 0x113D3, 0x10EB1, kOther}, {0x113D4, 0x113D5, 0x11944, kOther},
    {0x113D7, 0x113D8, 0x11944, kOther}, {0x113E1, 0x113E2, 0x1193E, kOther},
    {0x116D0, 0x116E3, 0x11950, kOther}, {0x1171E, 0x1171E, 0x11720, kSame},
    {0x11B00, 0x11B09, 0x119E2, kOther}, {0x11BC0, 0x11BE0, 0x119E3, kOther},
    {0x11BE1, 0x11BE1, 0x119E2, kOther}, {0x11BF0, 0x11BF9, 0x11959, kOther},
    {0x11F00, 0x11F01, 0x119DB, kOther}, {0x11F02, 0x11F02, 0x119E3, kOther},
    {0x11F03, 0x11F03, 0x119E4, kOther}, {0x11F04, 0x11F10, 0x119E3, kOther},
    {0x11F12, 0x11F33, 0x119E3, kOther}, {0x11F34, 0x11F35, 0x119E4, kOther},
    {0x11F36, 0x11F3A, 0x119DB, kOther}, {0x11F3E, 0x11F3F, 0x119E4, kOther},
    {0x11F40, 0x11F40, 0x119DB, kOther}, {0x11F41, 0x11F41, 0x1193D, kOther},
    {0x11F42, 0x11F42, 0x119E0, kOther}, {0x11F43, 0x11F4F, 0x119E2, kOther},
    {0x11F50, 0x11F59, 0x11959, kOther}, {0x11F5A, 0x11F5A, 0x119E0, kOther},
    {0x1342F, 0x1342F, 0x1342E, kSame},  {0x13439, 0x1343F, 0x13438, kSame},
    {0x13440, 0x13440, 0x119E0, kOther}, {0x13441, 0x13446, 0x1342E, kSame},
    {0x13447, 0x13455, 0x119E0, kOther}, {0x13460, 0x143FA, 0x1342E, kSame},
    {0x16100, 0x1611D, 0x12FF0, kOther}, {0x1611E, 0x16129, 0x119DB, kOther},
    {0x1612A, 0x1612C, 0x119E4, kOther}, {0x1612D, 0x1612E, 0x119DB, kOther},
    {0x1612F, 0x1612F, 0x119E0, kOther}, {0x16130, 0x16139, 0x11959, kOther},
    {0x16D40, 0x16D42, 0x1E137, kOther}, {0x16D43, 0x16D6A, 0x12FF0, kOther},
    {0x16D6B, 0x16D6C, 0x1E137, kOther}, {0x16D6D, 0x16D6F, 0x12FF2, kOther},
    {0x16D70, 0x16D79, 0x11959, kOther}, {0x18CFF, 0x18CFF, 0x18CD5, kSame},
    {0x1B132, 0x1B132, 0x1B11F, kSame},  {0x1B155, 0x1B155, 0x1B164, kSame},
    {0x1CC00, 0x1CCEF, 0x1CF50, kSame},  {0x1CCF0, 0x1CCF9, 0x1D7CE, kSame},
    {0x1CD00, 0x1CEB3, 0x1CF50, kSame},  {0x1D2C0, 0x1D2D3, 0x1D2E0, kSame},
    {0x1DF25, 0x1DF2A, 0x1DF1E, kSame},  {0x1E030, 0x1E06D, 0x107BA, kOther},
    {0x1E08F, 0x1E08F, 0x119DB, kOther}, {0x1E4D0, 0x1E4EA, 0x1E2AD, kOther},
    {0x1E4EB, 0x1E4EB, 0x1E13D, kOther}, {0x1E4EC, 0x1E4EF, 0x1E2AE, kOther},
    {0x1E4F0, 0x1E4F9, 0x1E149, kOther}, {0x1E5D0, 0x1E5ED, 0x1E2AD, kOther},
    {0x1E5EE, 0x1E5EF, 0x1E2AE, kOther}, {0x1E5F0, 0x1E5F0, 0x1E2AD, kOther},
    {0x1E5F1, 0x1E5FA, 0x1E149, kOther}, {0x1E5FF, 0x1E5FF, 0x12FF2, kOther},
    {0x1F6DC, 0x1F6DC, 0x1F6DD, kSame},  {0x1F774, 0x1F776, 0x1F773, kSame},
    {0x1F77B, 0x1F77F, 0x1F780, kSame},  {0x1F7D9, 0x1F7D9, 0x1F7D8, kSame},
    {0x1F8B2, 0x1F8BB, 0x1F8B1, kSame},  {0x1F8C0, 0x1F8C1, 0x1F8B1, kSame},
    {0x1FA75, 0x1FA77, 0x1FA74, kSame},  {0x1FA87, 0x1FA89, 0x1FA86, kSame},
    {0x1FA8F, 0x1FA8F, 0x1FA90, kSame},  {0x1FAAD, 0x1FAAF, 0x1FAAC, kSame},
    {0x1FABB, 0x1FABF, 0x1FABA, kSame},  {0x1FAC6, 0x1FAC6, 0x1FAC5, kSame},
    {0x1FACE, 0x1FACF, 0x1FAD0, kSame},  {0x1FADA, 0x1FADC, 0x1FAD9, kSame},
    {0x1FADF, 0x1FADF, 0x1FAE0, kSame},  {0x1FAE8, 0x1FAE9, 0x1FAE7, kSame},
    {0x1FAF7, 0x1FAF8, 0x1FAF6, kSame},  {0x1FBCB, 0x1FBEF, 0x1FBCA, kSame},
    {0x2B739, 0x2B739, 0x2B738, kSame},  {0x2EBF0, 0x2EE5D, 0x2EBE0, kSame},
    {0x31350, 0x323AF, 0x3134A, kSame},
};

// Names in which versions agree. Not here: the properties of grapheme clusters and of identifiers, which have
// changed for old characters too; Age and blocks.
constexpr std::string_view kProperties =
    " adlam ahom alnum alpha alphabetic any arabic armenian ascii assigned avestan balinese bamum"
    " bassavah batak bengali bhaiksuki blank bopomofo brahmi braille buginese buhid c canadianaboriginal"
    " carian cased caucasianalbanian cc cf chakma cham cherokee chorasmian cn cntrl co common coptic"
    " cuneiform cypriot cyprominoan cyrillic dash deseret devanagari digit divesakuru dogra duployan"
    " egyptianhieroglyphs elbasan elymaic emoji emojicomponent emojimodifier emojipresentation ethiopic"
    " georgian glagolitic gothic grantha graph greek gujarati gunjalagondi gurmukhi han hangul"
    " hanifirohingya hanunoo hatran hebrew hexdigit hiragana ideographic imperialaramaic inherited"
    " inscriptionalpahlavi inscriptionalparthian javanese joincontrol kaithi kannada katakana kayahli"
    " kharoshthi khitansmallscript khmer khojki khudawadi l lao latin lc lepcha limbu lineara linearb"
    " lisu ll lm lo lower lowercase lt lu lycian lydian m mahajani makasar malayalam mandaic manichaean"
    " marchen masaramgondi mc me medefaidrin meeteimayek mendekikakui meroiticcursive"
    " meroitichieroglyphs miao mn modi mongolian mro multani myanmar n nabataean nandinagari nd newa"
    " newtailue nko nl no nushu nyiakengpuachuehmong ogham olchiki oldhungarian olditalic"
    " oldnortharabian oldpermic oldpersian oldsogdian oldsoutharabian oldturkic olduyghur oriya osage"
    " osmanya p pahawhhmong palmyrene paucinhau pc pd pe pf phagspa phoenician pi po print ps"
    " psalterpahlavi punct rejang runic s samaritan saurashtra sc sharada shavian siddham signwriting"
    " sinhala sk sm so sogdian sorasompeng soyombo space sundanese sylotinagri syriac tagalog tagbanwa"
    " taile taitham taiviet takri tamil tangsa tangut telugu thaana thai tibetan tifinagh tirhuta toto"
    " ugaritic unifiedideograph upper uppercase vai vithkuqi wancho warangciti whitespace xdigit yezidi"
    " yi z zanabazarsquare zl zp zs ";

/// Scripts that have characters of kind kOther, or their stand-ins.
constexpr std::string_view kTouchedScripts =
    " arabic common cyprominoan cyrillic devanagari divesakuru egyptianhieroglyphs georgian latin"
    " myanmar nandinagari nyiakengpuachuehmong toto vithkuqi yezidi ";

bool is_in_list(std::string_view list, std::string_view name) {
  for (std::size_t at = list.find(name); at != std::string_view::npos; at = list.find(name, at + 1)) {
    if (at > 0 && list[at - 1] == ' ' && list[at + name.size()] == ' ') return !name.empty();
  }
  return false;
}

/// For the first look at a character: whether any of the 64 around it is in the table.
using Pages = std::bitset<(0x110000 >> 6)>;
const Pages& pages() {
  static const Pages kPages = [] {
    Pages result;
    for (const Row& row : kRows) {
      for (std::uint32_t page = row.first >> 6; page <= row.last >> 6; ++page) result.set(page);
    }
    return result;
  }();
  return kPages;
}

const Row* find_row(std::uint32_t code) {
  const Row* found = std::upper_bound(std::begin(kRows), std::end(kRows), code,
                                      [](std::uint32_t c, const Row& row) { return c < row.first; });
  if (found == std::begin(kRows) || code > std::prev(found)->last) return nullptr;
  return std::prev(found);
}

/// The next byte that is not ASCII.
std::size_t skip_ascii(std::string_view text, std::size_t at) {
  for (; at + 8 <= text.size(); at += 8) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, text.data() + at, sizeof(eight));
    if ((eight & 0x8080808080808080ULL) != 0) break;
  }
  while (at < text.size() && static_cast<std::uint8_t>(text[at]) < 0x80) ++at;
  return at;
}

/// Of a valid text.
Utf8Char character_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) -> std::uint32_t { return static_cast<std::uint8_t>(text[at + i]); };
  if (byte(0) < 0xE0) return {(byte(0) & 0x1FU) << 6 | (byte(1) & 0x3FU), 2};
  if (byte(0) < 0xF0) return {(byte(0) & 0xFU) << 12 | (byte(1) & 0x3FU) << 6 | (byte(2) & 0x3FU), 3};
  return {(byte(0) & 7U) << 18 | (byte(1) & 0x3FU) << 12 | (byte(2) & 0x3FU) << 6 | (byte(3) & 0x3FU), 4};
}

struct CodeRange {
  std::uint32_t first, last;
};

/// A character of an expression, as itself, \x{..}, \xHH or \uHHHH; moves `at` past it.
std::uint32_t read_code(std::string_view text, std::size_t& at) {
  const std::size_t begin = at;
  const Utf8Char c = utf8_at(text, at);
  at += c.length;
  if (c.code != '\\' || at >= text.size() || (text[at] != 'x' && text[at] != 'u')) return c.code;
  const bool braces = text[at] == 'x' && at + 1 < text.size() && text[at + 1] == '{';
  const std::size_t most = braces ? 8 : text[at] == 'x' ? 2 : 4;
  std::uint32_t code = 0;
  std::size_t digits = 0;
  for (at += braces ? 2 : 1; at < text.size() && digits < most; ++at, ++digits) {
    const char d = text[at];
    const int value = d >= '0' && d <= '9'   ? d - '0'
                      : d >= 'a' && d <= 'f' ? d - 'a' + 10
                      : d >= 'A' && d <= 'F' ? d - 'A' + 10
                                             : -1;
    if (value < 0) break;
    code = code << 4 | static_cast<std::uint32_t>(value);
  }
  if (braces && at < text.size() && text[at] == '}') ++at;
  if (digits == 0) at = begin + 1;
  return digits == 0 ? c.code : code;
}

/// The characters that an expression names, and the ranges "a-b" of them, wherever they stand.
std::vector<CodeRange> named_characters(std::string_view expression) {
  std::vector<CodeRange> ranges;
  for (std::size_t at = 0; at < expression.size();) {
    const std::uint32_t code = read_code(expression, at);
    if (!ranges.empty() && ranges.back().last == '-' && ranges.size() > 1) {
      ranges.pop_back();
      CodeRange& range = ranges.back();
      if (range.first <= code) range.last = std::max(range.last, code);
      continue;
    }
    ranges.push_back({code, code});
  }
  return ranges;
}

/// Whether the expression asks for a script in which a stand-in may be another's.
bool asks_for_touched_script(std::string_view expression) {
  for (std::size_t at = expression.find('{'); at != std::string_view::npos;
       at = expression.find('{', at + 1)) {
    std::string_view name = expression.substr(at + 1);
    name = name.substr(0, name.find('}'));
    if (!name.empty() && name[0] == '^') name.remove_prefix(1);
    if (is_in_list(kTouchedScripts, plain_property_name(name))) return true;
  }
  return false;
}

std::string hexadecimal(std::uint32_t code) {
  char digits[16] = {};
  std::snprintf(digits, sizeof(digits), "%04X", code);
  return digits;
}

}  // namespace

std::uint32_t stand_in_of(std::uint32_t code) {
  const Row* row = code >= 0x300 && code <= 0x10FFFF && pages().test(code >> 6) ? find_row(code) : nullptr;
  return row == nullptr || row->kind == kPcre2 ? code : row->stand_in;
}

std::string plain_property_name(std::string_view name) {
  std::string plain;
  for (const char c : name) {
    if (c != ' ' && c != '_' && c != '-')
      plain += static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  }
  return plain;
}

bool is_known_property(const std::string& plain_name) {
  return is_in_list(kProperties, plain_name);
}

StandIns::StandIns(std::string_view expression, For engine, std::string where) : where_(std::move(where)) {
  const std::vector<CodeRange> ranges = named_characters(expression);
  const bool scripts = asks_for_touched_script(expression);
  uses_.reserve(std::size(kRows));
  for (const Row& row : kRows) {
    if (row.kind == kPcre2 && engine == For::kOniguruma) {
      uses_.push_back(Use::kLeave);
      continue;
    }
    const bool told_apart = std::any_of(ranges.begin(), ranges.end(), [&](const CodeRange& range) {
      const auto holds = [&](std::uint32_t code) { return range.first <= code && code <= range.last; };
      const bool some = range.first <= row.last && row.first <= range.last;
      const bool all = holds(row.first) && holds(row.last);
      return holds(row.stand_in) ? !all : some;
    });
    uses_.push_back(told_apart || (scripts && row.kind == kOther) ? Use::kRefuse : Use::kReplace);
  }
}

std::string_view StandIns::apply(std::string_view text, std::string& buffer) const {
  bool copied = false;
  for (std::size_t at = skip_ascii(text, 0); at < text.size();) {
    const Utf8Char c = character_at(text, at);
    if (pages().test(c.code >> 6)) {
      if (const Row* row = find_row(c.code)) {
        const Use use = uses_[static_cast<std::size_t>(row - std::begin(kRows))];
        if (use == Use::kRefuse)
          throw DataError(where_, ": the expression asks for characters among which U+", hexadecimal(c.code),
                          " may be, which is too new to say: replace it in the text");
        if (use == Use::kReplace) {
          if (!copied) buffer.assign(text);
          copied = true;
          std::string stand_in;
          append_utf8(stand_in, row->stand_in);
          buffer.replace(at, c.length, stand_in);
        }
      }
    }
    at = skip_ascii(text, at + c.length);
  }
  return copied ? std::string_view(buffer) : text;
}

}  // namespace bitrain::text
