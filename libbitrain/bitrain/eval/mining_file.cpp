#include <bitrain/eval/mining_file.h>

#include <algorithm>
#include <memory>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/eval/bm25.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/io/json.h>
#include <bitrain/io/line_reader.h>

namespace bitrain::eval {
namespace {

/// The figures of rows that an earlier run left.
MiningTally tally_of(const io::ResumableFile& out, std::int64_t wanted, const MiningKeys& keys) {
  MiningTally tally;
  io::LineReader reader(out.partial_path());
  for (std::string line; reader.next(line);) {
    const io::Json row = io::parse_json(line, reader.where());
    tally.add(static_cast<std::int64_t>(row.at(keys.negatives).size()), wanted);
  }
  return tally;
}

}  // namespace

MiningPairs read_mining_pairs(const data::Source& source, const data::SourceCounts& counts,
                              const std::string& where) {
  MiningPairs read;
  read.skipped = counts.blank;
  for (std::int64_t row = 0; row < source.size(); ++row) {
    data::Example example = source.at(row);
    if (example.text.empty() || example.pair_text.empty() || example.text == example.pair_text) {
      ++read.skipped;
    } else {
      read.pairs.push_back({std::move(example.text), std::move(example.pair_text)});
    }
  }
  if (read.pairs.empty())
    throw DataError(where, " has no pair to mine for: in all of its ", read.skipped,
                    " rows a side is empty or both are the same text");
  return read;
}

std::vector<std::string> read_mining_corpus(const std::filesystem::path& path) {
  std::vector<std::string> texts;
  for (const Document& document : read_documents(path))
    if (std::string text = text_of(document); !trim(text).empty()) texts.push_back(std::move(text));
  if (texts.empty()) throw DataError(path.string(), " has no text");
  return texts;
}

NegativeFinder find_by_words(const MiningSet& set, const HardNegativeOptions& options) {
  const auto index = std::make_shared<Bm25>(set.texts);
  return [&set, index, options](std::int64_t first, std::int64_t count) {
    return mine_bm25(set, first, count, *index, options);
  };
}

NegativeFinder find_by_encoder(const MiningSet& set, models::SentenceEncoder& model,
                               const text::Tokenizer& tokenizer, const EncodeOptions& queries,
                               const EncodeOptions& texts, const HardNegativeOptions& options) {
  const at::Tensor rows = encode_texts(model, tokenizer, set.texts, texts);
  return [&set, &model, &tokenizer, rows, queries, options](std::int64_t first, std::int64_t count) {
    std::vector<std::string> asked;
    for (std::int64_t i = first; i < first + count; ++i)
      asked.push_back(set.pairs[static_cast<std::size_t>(i)].query);
    return mine_dense(set, first, encode_texts(model, tokenizer, asked, queries), rows, options);
  };
}

void MiningTally::add(std::int64_t found, std::int64_t wanted) {
  negatives += found;
  fewer += found < wanted ? 1 : 0;
  none += found == 0 ? 1 : 0;
}

MiningTally mine_into(io::ResumableFile& out, const MiningSet& set, const NegativeFinder& find,
                      std::int64_t wanted, const MiningKeys& keys, std::int64_t block,
                      const std::function<void(std::int64_t rows)>& progress) {
  const auto total = static_cast<std::int64_t>(set.pairs.size());
  MiningTally tally = tally_of(out, wanted, keys);
  while (out.lines() < total) {
    if (progress) progress(out.lines());
    const std::int64_t first = out.lines() / block * block;
    const std::int64_t count = std::min(block, total - first);
    log_debug("mining for pairs ", first, " to ", first + count);
    const HardNegatives mined = find(first, count);
    std::string lines;
    for (std::int64_t i = out.lines(); i < first + count; ++i) {
      const MiningPair& pair = set.pairs[static_cast<std::size_t>(i)];
      io::Json negatives = io::Json::array();
      for (const std::int64_t row : mined[static_cast<std::size_t>(i - first)])
        negatives.push_back(set.texts[static_cast<std::size_t>(row)]);
      tally.add(static_cast<std::int64_t>(negatives.size()), wanted);
      const io::Json row = {
          {keys.text, pair.query}, {keys.pair, pair.positive}, {keys.negatives, std::move(negatives)}};
      lines += row.dump() + "\n";
    }
    out.append(lines);
  }
  if (progress) progress(out.lines());
  return tally;
}

}  // namespace bitrain::eval
