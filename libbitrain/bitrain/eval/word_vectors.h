#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/fields/rule.h>

/// Word vectors as fastText and word2vec write them in text, and bilingual dictionaries as MUSE has them.
namespace bitrain::eval {

struct WordVectors {
  std::vector<std::string> words;  ///< As in the file: the most frequent first.
  at::Tensor vectors;              ///< [N, D] float32.
  std::unordered_map<std::string, std::int64_t> rows;
  std::int64_t duplicates = 0;  ///< Lines left out because their word had come before.
};

struct WordVectorOptions {
  std::int64_t max_words = 200000;
  std::string duplicates = "first";
};
template <class Visitor>
void visit_fields(Visitor& v, WordVectorOptions& o) {
  v.field("max_words", o.max_words, at_least(0), "Words read, from the first of the file; 0: all.");
  v.field("duplicates", o.duplicates, one_of({"first", "error"}),
          "A word that comes again: its first vector stays, or the file is refused.");
}

/// Reads lines "word v1 .. vD", parted by spaces or tabs, plain or compressed, after a line "count D" where
/// there is one; reading stops at max_words. Words are bytes: their case and Unicode form stay. Throws
/// IoError, and DataError with file and line for a line of another width, what is no finite number, a word
/// again where that is refused, and a file that ends before or after its count or has no vectors.
[[nodiscard]] WordVectors read_word_vectors(const std::filesystem::path& path,
                                            const WordVectorOptions& options = {});

/// Writes the same, with its first line; numbers read back as they were. Throws StateError when words and
/// rows are not as many, DataError for a word that is empty or has white space in it or a value that is not
/// finite.
void write_word_vectors(const std::filesystem::path& path, const WordVectors& vectors);

struct WordPair {
  std::string source;
  std::string target;
};

/// One pair a line: two words parted by spaces, or two sides parted by one tab that may have spaces inside.
/// Empty lines are skipped. Throws IoError, and DataError with file and line for any other line, or for no
/// pairs at all.
[[nodiscard]] std::vector<WordPair> read_dictionary(const std::filesystem::path& path);

/// Pairs of a dictionary whose words both have vectors.
struct Lexicon {
  at::Tensor sources;             ///< [P] int64: rows of the source vectors.
  at::Tensor targets;             ///< [P] int64: rows of the target vectors.
  std::int64_t source_words = 0;  ///< Different source words of the dictionary.
  std::int64_t covered = 0;       ///< Those that have at least one pair here.

  /// Share of source words that can be asked for.
  [[nodiscard]] double coverage() const {
    return source_words == 0 ? 0 : static_cast<double>(covered) / static_cast<double>(source_words);
  }
};
/// In the order of the dictionary. Throws DataError when no pair has vectors on both sides.
[[nodiscard]] Lexicon look_up(const std::vector<WordPair>& dictionary, const WordVectors& source,
                              const WordVectors& target);

}  // namespace bitrain::eval
