#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <bitrain/data/source.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/hard_negatives.h>
#include <bitrain/io/resumable_file.h>

/// From a file of pairs to one with hard negatives: what `bitrain mine-negatives` and the stage
/// mine_negatives share.
namespace bitrain::eval {

struct MiningPairs {
  std::vector<MiningPair> pairs;
  std::int64_t skipped = 0;  ///< Rows that are empty, with an empty side, or twice the same text.
};

/// The pairs of a source; `counts`: what was found when it was opened. Throws DataError, naming `where`, when
/// there are none.
[[nodiscard]] MiningPairs read_mining_pairs(const data::Source& source, const data::SourceCounts& counts,
                                            const std::string& where);

/// Candidates from BEIR's corpus.jsonl, the title before the text; documents without text are left out.
/// Throws as read_documents, and DataError when none is left.
[[nodiscard]] std::vector<std::string> read_mining_corpus(const std::filesystem::path& path);

/// Negatives of pairs first to first + count of a set.
using NegativeFinder = std::function<HardNegatives(std::int64_t first, std::int64_t count)>;

/// By words. The set must outlive the finder.
[[nodiscard]] NegativeFinder find_by_words(const MiningSet& set, const HardNegativeOptions& options);
/// By embeddings: encodes all texts now, queries when they are asked for. The set, model and tokenizer must
/// outlive the finder.
[[nodiscard]] NegativeFinder find_by_encoder(const MiningSet& set, models::SentenceEncoder& model,
                                             const text::Tokenizer& tokenizer, const EncodeOptions& queries,
                                             const EncodeOptions& texts, const HardNegativeOptions& options);

/// The keys of a row.
struct MiningKeys {
  std::string text = "query";
  std::string pair = "positive";
  std::string negatives = "negatives";
};

struct MiningTally {
  std::int64_t negatives = 0;
  std::int64_t fewer = 0;  ///< Pairs with fewer than were asked for, those with none included.
  std::int64_t none = 0;

  void add(std::int64_t found, std::int64_t wanted);
};

/// Mines the pairs that `out` lacks, a row a pair, and counts all of its rows; commit is the caller's. Blocks
/// of pairs begin at the same ones however often the run was interrupted, since the last bits of embeddings
/// depend on what is encoded together. `progress`: called with the rows there are, before each block and at
/// the end; what it throws leaves the rows for the next run.
MiningTally mine_into(io::ResumableFile& out, const MiningSet& set, const NegativeFinder& find,
                      std::int64_t wanted, const MiningKeys& keys = {}, std::int64_t block = 1024,
                      const std::function<void(std::int64_t rows)>& progress = {});

}  // namespace bitrain::eval
