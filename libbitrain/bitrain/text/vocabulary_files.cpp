#include <bitrain/text/vocabulary_files.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file.h>
#include <bitrain/text/characters.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

using io::Json;

/// Calls line(text, number from 0) for each line, without its end.
template <class Line>
void for_lines(std::string_view text, Line&& line) {
  for (std::uint64_t number = 0; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view one = text.substr(0, end);
    if (end < text.size() && ends_with(one, "\r")) one.remove_suffix(1);
    line(one, number);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

std::string read_text(const TokenizerFolder& folder, const char* file) {
  std::string text = io::read_file(folder.path / file);
  if (const std::size_t at = find_invalid_utf8(text); at != std::string_view::npos)
    throw FormatError(folder.where(file), ": byte ", at + 1, " is not UTF-8");
  if (text.substr(0, 3) == "\xEF\xBB\xBF")
    throw FormatError(folder.where(file),
                      ": begins with a byte order mark, which would become part of its first token; take it "
                      "off (sed -i '1s/^\\xEF\\xBB\\xBF//')");
  return text;
}

std::string_view without_trailing_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t begin = end - 1;
    while (begin > 0 && (static_cast<std::uint8_t>(text[begin]) & 0xC0U) == 0x80U) --begin;
    if (class_of(utf8_at(text, begin).code) != CharacterClass::kSpace) break;
    end = begin;
  }
  return text.substr(0, end);
}

}  // namespace

TokenizerVocabulary read_vocab_txt(const TokenizerFolder& folder) {
  const std::string text = read_text(folder, "vocab.txt");
  Json::object_t entries;  // Filled as a list: its own look-up is linear.
  std::unordered_map<std::string, std::size_t> places;
  for_lines(text, [&](std::string_view line, std::uint64_t id) {
    std::string token(without_trailing_space(line));
    const auto [place, is_new] = places.emplace(token, entries.size());
    if (is_new)
      entries.Container::emplace_back(std::move(token), id);
    else
      entries.Container::operator[](place->second).second = id;
  });
  if (entries.empty()) throw FormatError(folder.where("vocab.txt"), ": is empty");
  TokenizerVocabulary result;
  result.vocab = std::move(entries);
  return result;
}

TokenizerVocabulary read_vocab_json(const TokenizerFolder& folder) {
  TokenizerVocabulary result;
  result.vocab = io::read_json(folder.path / "vocab.json");
  if (!result.vocab.is_object()) throw FormatError(folder.where("vocab.json"), ": not an object");
  if (!folder.has("merges.txt"))
    throw IoError(folder.path.string(), ": has vocab.json but no merges.txt; it is needed too");
  for_lines(read_text(folder, "merges.txt"), [&](std::string_view line, std::uint64_t number) {
    if (line.substr(0, 8) == "#version") return;
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos)
      throw FormatError(folder.where("merges.txt"), ":", number + 1, ": not two tokens and a blank between");
    result.merges.push_back(
        Json::array({std::string(line.substr(0, space)), std::string(line.substr(space + 1))}));
  });
  return result;
}

TokenizerVocabulary fairseq_vocabulary(TokenizerRule rule, const SpmModel& model,
                                       const TokenizerArguments& arguments) {
  TokenizerVocabulary result = vocabulary_of(model, /*as_unigram=*/true);
  const auto text = [&](const char* role, const char* usual) {
    const auto* found = arguments.find(role);
    return found != nullptr && *found ? (*found)->token.content : std::string(usual);
  };
  Json vocab = Json::array();
  const auto add = [&](const std::string& piece, double score = 0) {
    vocab.push_back(Json::array({piece, score}));
  };
  const bool camembert = rule == TokenizerRule::kCamembert;
  add(camembert ? "<s>NOTUSED" : text("bos_token", "<s>"));
  add(text("pad_token", "<pad>"));
  add(camembert ? "</s>NOTUSED" : text("eos_token", "</s>"));
  add(text("unk_token", "<unk>"));
  if (camembert) add("<unk>NOTUSED", -100);
  for (std::size_t id = camembert ? 1 : 3; id < result.vocab.size(); ++id)
    vocab.push_back(std::move(result.vocab[id]));
  add(text("mask_token", "<mask>"));
  result.vocab = std::move(vocab);
  return result;
}

}  // namespace bitrain::text
