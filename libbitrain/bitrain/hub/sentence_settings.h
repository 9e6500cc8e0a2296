#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <bitrain/io/json.h>
#include <bitrain/models/config_reader.h>
#include <bitrain/text/tokenizer.h>

/// What folders of sentence-transformers say about their use: config_sentence_transformers.json and
/// sentence_bert_config.json.
namespace bitrain::hub {

/// What a sentence-transformers folder says about its use, besides the model.
struct SentenceSettings {
  std::int64_t max_seq_length = 512;  ///< Tokens a text or pair is truncated to, special tokens included.
  bool do_lower_case = false;         ///< Whether the tokenizer lower-cases first; an opened one does.
  bool include_prompt = true;         ///< Whether the tokens of a prompt take part in pooling.
  std::map<std::string, std::string> prompts;  ///< Texts put before others, by task.
  std::optional<std::string> default_prompt_name;
  std::string similarity_fn_name = "cosine";
  std::optional<std::int64_t> truncate_dim;  ///< Leading features of each embedding that are kept.

  /// config_sentence_transformers.json, sentence_bert_config.json and the pooling's config.json as they were
  /// read; they are written again, but for what has changed since.
  models::ReadJson settings_file, transformer_file, pooling_file;
};

/// What stands before texts: the prompt called `name`, else that of default_prompt_name, else nothing. Throws
/// ConfigError for a name that is not among the prompts, with those that are.
[[nodiscard]] std::string prompt_of(const SentenceSettings& settings,
                                    const std::optional<std::string>& name = {});

/// What a Transformer module gives, in the words of sentence_bert_config.json.
struct TransformerTask {
  const char* name;           ///< transformer_task.
  const char* method_output;  ///< What the model's forward returns that is used.
  const char* module_output;  ///< Its name among the features.
};
inline constexpr TransformerTask kFeatureExtraction = {"feature-extraction", "last_hidden_state",
                                                       "token_embeddings"};
inline constexpr TransformerTask kSequenceClassification = {"sequence-classification", "logits", "scores"};

/// Reads what sentence_bert_config.json says about the texts' length and case; without max_seq_length the
/// tokenizer's own limit counts. `longest`: the positions of the model. Throws UnsupportedError, naming the
/// key, for arguments to the model, its configuration or its tokenizer that would change the result, for
/// another task and another output.
void read_transformer(const std::filesystem::path& directory, std::int64_t longest,
                      const TransformerTask& task, SentenceSettings& settings);

/// The refusals of read_transformer. Returns model_max_length of the tokenizer's arguments, if it is there.
std::optional<std::int64_t> check_transformer(const io::Json& json, const std::string& where,
                                              const TransformerTask& task);

/// The tokenizer's own limit; nothing where it has none.
[[nodiscard]] std::optional<std::int64_t> model_max_length(const std::filesystem::path& directory,
                                                           std::int64_t longest);

/// Reads config_sentence_transformers.json, if it is there.
void read_settings(const std::filesystem::path& directory, SentenceSettings& settings);

/// The tokenizer that lower-cases first. Throws UnsupportedError for a tokenizer.model.
[[nodiscard]] std::shared_ptr<const text::Tokenizer> lower_cased(const text::Tokenizer& tokenizer,
                                                                 const std::filesystem::path& directory);

/// The files' content for a model made here.
[[nodiscard]] io::Json settings_json(const SentenceSettings& settings);
[[nodiscard]] io::Json transformer_json(const SentenceSettings& settings);
/// sentence_bert_config.json as it was read, but for what has changed.
[[nodiscard]] io::Json transformer_file_json(const SentenceSettings& settings);

}  // namespace bitrain::hub
