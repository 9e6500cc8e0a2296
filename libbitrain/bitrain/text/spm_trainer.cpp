#include <bitrain/text/spm_trainer.h>

#include <exception>
#include <unordered_map>

// sentencepiece defines its own absl::string_view: no Abseil header in this file.
#include <sentencepiece_trainer.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain::text {
namespace {

/// Feeds the trainer, which pulls sentences.
class Sentences : public sentencepiece::SentenceIterator {
 public:
  Sentences(const NextLine& lines, std::int64_t max_bytes) : lines_(lines), max_bytes_(max_bytes) { Next(); }

  [[nodiscard]] bool done() const override { return done_; }
  void Next() override {
    try {
      done_ = !advance();
    } catch (...) {  // Not through the trainer's frames.
      error_ = std::current_exception();
      done_ = true;
    }
  }
  [[nodiscard]] const std::string& value() const override { return value_; }
  [[nodiscard]] sentencepiece::util::Status status() const override { return {}; }
  [[nodiscard]] std::int64_t used() const { return used_; }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  bool advance() {
    while (lines_(value_)) {
      ++line_number_;
      if (const std::size_t at = find_invalid_utf8(value_); at != std::string_view::npos)
        throw DataError("line ", line_number_, ": byte ", at + 1, " is not UTF-8");
      // The trainer cannot take a NUL.
      if (value_.empty() || static_cast<std::int64_t>(value_.size()) > max_bytes_ ||
          value_.find('\0') != std::string::npos)
        continue;
      ++used_;
      return true;
    }
    return false;
  }

  const NextLine& lines_;
  std::int64_t max_bytes_;
  std::string value_;
  std::int64_t line_number_ = 0;
  std::int64_t used_ = 0;
  bool done_ = false;
  std::exception_ptr error_;
};

std::string truth(bool value) {
  return value ? "true" : "false";
}

/// "error message" without SentencePiece's code and source line.
std::string plain_message(const sentencepiece::util::Status& status) {
  std::string message = status.message();
  if (const std::size_t at = message.rfind("] "); at != std::string::npos) message.erase(0, at + 2);
  return message;
}

}  // namespace

NextLine lines_of(const std::vector<std::string>& lines) {
  return [&lines, next = std::size_t{0}](std::string& line) mutable {
    if (next == lines.size()) return false;
    line = lines[next++];
    return true;
  };
}

SpmModel train_sentencepiece(const NextLine& lines, const TrainOptions& options) {
  Sentences sentences(lines, options.max_line_bytes);
  sentences.rethrow();
  if (sentences.done()) throw DataError("there is no text to learn a tokenizer from");
  const std::int64_t pad_id = options.pad ? 3 : -1;
  std::unordered_map<std::string, std::string> arguments = {
      {"model_type", options.model_type},
      {"vocab_size", std::to_string(options.vocab_size)},
      {"character_coverage", std::to_string(options.character_coverage)},
      {"byte_fallback", truth(options.byte_fallback)},
      {"split_digits", truth(options.split_digits)},
      {"normalization_rule_name", options.normalization},
      {"add_dummy_prefix", truth(options.add_dummy_prefix)},
      {"remove_extra_whitespaces", truth(options.remove_extra_whitespaces)},
      {"allow_whitespace_only_pieces", truth(options.allow_whitespace_only_pieces)},
      {"max_sentencepiece_length", std::to_string(options.max_piece_length)},
      {"max_sentence_length", std::to_string(options.max_line_bytes)},
      {"hard_vocab_limit", truth(options.exact_vocab_size)},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", std::to_string(pad_id)},
      {"input_sentence_size", "0"},
      {"self_test_sample_size", "0"},
      {"num_threads", "1"},
      {"minloglevel", "2"}};
  if (!options.control_symbols.empty()) arguments["control_symbols"] = join(options.control_symbols, ",");
  std::string serialized;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &sentences, &serialized);
  sentences.rethrow();
  if (!status.ok())
    throw ConfigError("cannot learn ", options.vocab_size, " pieces from ", sentences.used(),
                      " lines: ", plain_message(status));
  return SpmModel::parse(serialized, "the learned model");
}

}  // namespace bitrain::text
