#include <bitrain/text/spm_trainer.h>

#include <exception>
#include <iomanip>
#include <limits>
#include <set>
#include <sstream>
#include <unordered_map>

// sentencepiece defines its own absl::string_view: no Abseil header in this file.
#include <sentencepiece_trainer.h>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/fields/check.h>

namespace bitrain::text {
namespace {

// Longest words, in characters. The trainer counts places in a word in 16 bits and shifts them as a signed
// number: beyond 32,767 it writes outside its memory.
constexpr std::int64_t kLongestWord = 32000;
constexpr std::int64_t kLongestNormalForm = 18;  ///< Characters that NFKC makes of one (U+FDFA).

/// Feeds the trainer, which pulls sentences.
class Sentences : public sentencepiece::SentenceIterator {
 public:
  Sentences(const NextLine& lines, const TrainingTextRules& rules) : text_(lines, rules) { Next(); }

  [[nodiscard]] bool done() const override { return done_; }
  void Next() override {
    try {
      done_ = !text_.next(value_);
    } catch (...) {  // Not through the trainer's frames.
      error_ = std::current_exception();
      done_ = true;
    }
  }
  [[nodiscard]] const std::string& value() const override { return value_; }
  [[nodiscard]] sentencepiece::util::Status status() const override { return {}; }
  [[nodiscard]] const TrainingText& text() const { return text_; }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  TrainingText text_;
  std::string value_;
  bool done_ = false;
  std::exception_ptr error_;
};

TrainingTextRules text_rules(const TrainOptions& options) {
  const bool drops_controls = starts_with(options.normalization, "nmt_");
  return {options.max_line_bytes,
          options.normalization == "identity" ? kLongestWord : kLongestWord / kLongestNormalForm,
          options.add_dummy_prefix, !options.remove_extra_whitespaces && !drops_controls};
}

std::string truth(bool value) {
  return value ? "true" : "false";
}

/// As the trainer will read it: by a stream of the program's global locale, decimal comma or not.
std::string for_trainer(double value) {
  std::ostringstream stream;
  stream << std::setprecision(std::numeric_limits<double>::max_digits10) << value;
  return stream.str();
}

/// The trainer splits the list at commas, but for what stands in quotes.
std::string quoted(const std::vector<std::string>& symbols) {
  std::string list;
  for (const std::string& symbol : symbols) {
    list += list.empty() ? "\"" : ",\"";
    for (const char c : symbol) list += c == '"' ? std::string("\"\"") : std::string(1, c);
    list += '"';
  }
  return list;
}

/// The trainer says what is wrong with a symbol on stderr alone, or leaves the process.
void check_symbols(const TrainOptions& options) {
  std::set<std::string> seen;
  for (const std::string& symbol : options.control_symbols) {
    const auto wrong = [&](const char* why) {
      throw ConfigError("control_symbols: '", symbol.substr(0, symbol.find('\0')), "' ", why);
    };
    if (symbol.empty()) wrong("is empty");
    if (symbol.find('\0') != std::string::npos || find_invalid_utf8(symbol) != std::string_view::npos)
      wrong("holds NUL or is not UTF-8");
    if (symbol == "<unk>") wrong("is the piece of unknown text");
    if (options.byte_fallback && symbol.size() == 6 && starts_with(symbol, "<0x") && symbol[5] == '>')
      wrong("is spelled as a byte piece");
    if (!seen.insert(symbol).second) wrong("is listed twice");
  }
}

/// "Internal: file(line) [condition] message": the message, or the condition where there is none.
std::string reason_of(const sentencepiece::util::Status& status) {
  const std::string message = status.message();
  const std::size_t begin = message.find('[');
  const std::size_t end = message.find("] ");
  if (begin == std::string::npos || end == std::string::npos || end < begin) return message;
  if (end + 2 < message.size()) return message.substr(end + 2);
  return "SentencePiece needs " + message.substr(begin + 1, end - begin - 1);
}

}  // namespace

SpmModel train_sentencepiece(const NextLine& lines, const TrainOptions& options) {
  check_fields(options);
  check_symbols(options);
  Sentences sentences(lines, text_rules(options));
  sentences.rethrow();
  if (sentences.done()) {
    const std::int64_t read = sentences.text().lines();
    throw DataError("there is no text to learn a tokenizer from",
                    read > 0 ? to_text(": ", with_thousands(read), " lines, all empty or blank") : "");
  }
  const std::int64_t pad_id = options.pad ? 3 : -1;
  std::unordered_map<std::string, std::string> arguments = {
      {"model_type", options.model_type},
      {"vocab_size", std::to_string(options.vocab_size)},
      {"character_coverage", for_trainer(options.character_coverage)},
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
  if (!options.control_symbols.empty()) arguments["control_symbols"] = quoted(options.control_symbols);
  std::string serialized;
  // It reads names in capitals and numbers by the C library: a Turkish locale has another capital of "i".
  const ClassicLocale locale;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &sentences, &serialized);
  sentences.rethrow();
  if (const std::string changes = sentences.text().changes(); !changes.empty()) log_info(changes);
  if (!status.ok())
    throw ConfigError(
        "cannot learn ", options.vocab_size, " pieces",
        sentences.done() ? to_text(" from ", with_thousands(sentences.text().lines()), " lines") : "", ": ",
        reason_of(status));
  return SpmModel::parse(serialized, "the learned model");
}

}  // namespace bitrain::text
