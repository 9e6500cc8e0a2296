#include <string>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file.h>
#include <bitrain/text/auto_tokenizer.h>
#include <bitrain/text/hf_tokenizer.h>
#include <bitrain/text/sentencepiece_folder.h>

namespace bitrain::text {
namespace {

using Folder = std::shared_ptr<TokenizerFolder>;

/// What a file is that is no SentencePiece model.
std::string what_it_is(std::string_view bytes) {
  if (bytes.empty()) return "it is empty";
  const std::string_view head = bytes.substr(0, 200);
  if (head.front() == '<') return "it is a web page or XML: a download that failed?";
  if (head.front() == '{' || head.front() == '[') return "it is JSON";
  const std::size_t blank = head.find(' ');
  const std::size_t end = head.find('\n');
  if (blank < end && end != std::string_view::npos && end > blank + 1 &&
      head.substr(blank + 1, end - blank - 1).find_first_not_of("0123456789") == std::string_view::npos)
    return "it is a tiktoken list (Llama 3's original form); tokenizer.json is needed";
  return "it is damaged or of another kind";
}

SpmModel read_model(TokenizerFolder& folder, const char* file) {
  std::string bytes = io::read_file(folder.path / file);
  try {
    SpmModel model = SpmModel::parse(bytes, folder.where(file));
    folder.vocabulary[file] = std::move(bytes);
    return model;
  } catch (const FormatError& error) {
    throw FormatError(folder.where(file), ": not a SentencePiece model: ", what_it_is(bytes), " (",
                      error.what(), ")");
  }
}

std::shared_ptr<const HfTokenizer> make_hf(const Folder& folder, AutoTokenizer made) {
  if (!made.replaced.empty()) folder->vocabulary["tokenizer.json"] = std::move(made.replaced);
  return std::make_shared<const HfTokenizer>(std::move(made), folder);
}

/// `model` where it is what AutoTokenizer makes of the folder, else that.
std::shared_ptr<const Tokenizer> alike(const Folder& folder, const SpmModel& model, AutoTokenizer made) {
  const TokenizerClass made_by = made.made_by;
  const auto json = make_hf(folder, std::move(made));
  std::string difference;
  if (auto tokenizer = sentencepiece_alike(model, json, folder, made_by, difference)) return tokenizer;
  folder->model_difference = difference;
  if (folder->has_json) {
    log_warn(folder->where("tokenizer.model"),
             " is not the tokenizer of tokenizer.json, which counts: ", difference,
             "; it is not used and will not be saved");
    folder->vocabulary.erase("tokenizer.model");
  } else {
    log_warn(folder->where("tokenizer.model"), ": AutoTokenizer's ", made_by.name,
             " does not read it as SentencePiece does, and counts: ", difference);
  }
  return json;
}

std::shared_ptr<const Tokenizer> open_with_json(const Folder& folder) {
  AutoTokenizer made = make_auto_tokenizer(*folder, nullptr);
  if (folder->has("tokenizer.model")) {
    try {
      const SpmModel model = read_model(*folder, "tokenizer.model");
      if (model.type == SpmType::kBpe || model.type == SpmType::kUnigram)
        return alike(folder, model, std::move(made));
    } catch (const Error& error) {
      log_warn("tokenizer.json is used alone: ", error.what());
    }
    folder->vocabulary.erase("tokenizer.model");
  }
  return make_hf(folder, std::move(made));
}

void need(const TokenizerFolder& folder, const TokenizerClass& made_by, const char* file) {
  if (folder.has(file)) return;
  std::string there;
  for (const char* other : {"tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model",
                            "vocab.txt", "vocab.json", "merges.txt", "tekken.json", "tiktoken.model"})
    if (folder.has(other)) there += (there.empty() ? "" : ", ") + std::string(other);
  if (there.empty())
    throw IoError(folder.path.string(), ": no tokenizer.model, tokenizer.json or vocab.txt in this folder");
  throw UnsupportedError(
      folder.path.string(), ": has ", there, " but no tokenizer.json",
      made_by.name.empty()
          ? ", and neither tokenizer_config.json nor config.json names the class to read it by"
          : to_text(", and its class, ", made_by.name, ", would be read from ", file, " here"),
      folder.has("vocab.json") && folder.has("merges.txt")
          ? "; save it with transformers once, by the class that it is of (GPT2Tokenizer, Qwen2Tokenizer, "
            "RobertaTokenizer or GPTNeoXTokenizer: GPT2Tokenizer.from_pretrained(..).save_pretrained(..)), "
            "to "
            "get a tokenizer.json"
          : "; save it with transformers once (AutoTokenizer.from_pretrained(..).save_pretrained(..)) to get "
            "a "
            "tokenizer.json");
}

std::shared_ptr<const Tokenizer> open_without_json(const Folder& folder) {
  TokenizerFolder& files = *folder;
  const TokenizerClass made_by = tokenizer_class_of(files, false);
  if (made_by.rule == TokenizerRule::kOther) return make_hf(folder, make_auto_tokenizer(files, nullptr));
  if (made_by.rule == TokenizerRule::kJson && !files.has("tokenizer.model") && files.has("vocab.txt"))
    return make_hf(folder, make_auto_tokenizer(files, nullptr));
  const char* file = vocabulary_file(made_by.rule);
  need(files, made_by, file);
  if (ends_with(file, ".model")) {
    const SpmModel model = read_model(files, file);
    if (made_by.name.empty()) return sentencepiece_alone(model, folder);
    AutoTokenizer made = make_auto_tokenizer(files, &model);
    if (file == std::string_view("tokenizer.model")) return alike(folder, model, std::move(made));
    return make_hf(folder, std::move(made));
  }
  return make_hf(folder, make_auto_tokenizer(files, nullptr));
}

Folder read_folder(const std::filesystem::path& dir) {
  auto folder = std::make_shared<TokenizerFolder>(read_tokenizer_folder(dir));
  if (folder->has_json) return folder;
  for (const char* file : {"vocab.txt", "vocab.json", "merges.txt"})
    if (folder->has(file)) folder->vocabulary[file] = io::read_file(dir / file);
  return folder;
}

}  // namespace

std::shared_ptr<const Tokenizer> open_tokenizer(const std::filesystem::path& dir) {
  const Folder folder = read_folder(dir);
  return folder->has_json ? open_with_json(folder) : open_without_json(folder);
}

std::shared_ptr<const HfTokenizer> open_hf_tokenizer(const std::filesystem::path& dir) {
  const Folder folder = read_folder(dir);
  if (!folder->has_json) {
    if (auto opened = std::dynamic_pointer_cast<const HfTokenizer>(open_without_json(folder))) return opened;
    throw UnsupportedError(dir.string(), ": has a tokenizer.model, but no tokenizer.json");
  }
  return make_hf(folder, make_auto_tokenizer(*folder, nullptr));
}

}  // namespace bitrain::text
