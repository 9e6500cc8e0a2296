#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/base/batch.h>
#include <bitrain/data/example.h>

namespace bitrain::data {

/// An example as a model reads it. `labels[i]` is what position i must predict (already shifted), or
/// kIgnoreIndex. A last token that predicts nothing is left out: nothing would read it. Empty: skip it.
struct TokenSequence {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> labels;
  std::int32_t language = -1;  ///< Index into the run's language list, set by the loader.

  /// One text of several.
  struct Part {
    std::int32_t end = 0;        ///< In `ids`.
    std::int32_t language = -1;  ///< Index into the run's language list.
    /// Neighbouring parts of one number are the sentences of one document; -1: a text by itself.
    std::int32_t document = -1;
  };
  /// The texts of an example that has several (query, positive, negatives), end to end in `ids`; empty: one
  /// text. Only Packing::kWhole keeps them.
  std::vector<Part> parts;
  std::optional<float> score;  ///< Of an example of several texts: what its embeddings are to say.
  /// Tokens at the end of `ids` that the trained model does not read, a teacher's: they are left out where
  /// tokens are numbered (Batch::first_token).
  std::int64_t unread = 0;
  /// Of an empty sequence: why, to stand behind the name of its row ("has 900 tokens, ..."); may be empty.
  std::string why_empty;

  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(ids.size()); }
  [[nodiscard]] bool empty() const { return ids.empty(); }
};

/// Turns examples into tokens; objectives give it. A pure function: any thread may call it.
using Encode = std::function<TokenSequence(const Example&)>;

/// Part [begin, end) of a sequence that lies in one row.
struct Piece {
  std::shared_ptr<const TokenSequence> sequence;
  std::int64_t source = 0;  ///< Index of the source, and
  std::int64_t sample = 0;  ///< which of its samples: for cursors.
  std::int64_t begin = 0;
  std::int64_t end = 0;

  [[nodiscard]] std::int64_t size() const { return end - begin; }
};

/// At most sequence_length tokens. Rows only set where long text is cut; batches have no padding.
using Row = std::vector<Piece>;

enum class Packing { kCut, kBestFit, kWhole };

/// "cut", "best_fit" or "whole". Throws ConfigError.
[[nodiscard]] Packing packing_from(const std::string& name);

/// Fills the rows of one step. `draw` gives the next whole sequence, or a piece without a sequence at the end
/// of the data. `carry` holds what is left over, in order, and comes first in the next call.
///
/// - kCut: sequences follow each other and are cut at the end of each row. The label at a cut is the token
///   that comes next, so every token is predicted once.
/// - kBestFit: sequences up to sequence_length stay whole; longer ones are cut into pieces of that length.
/// All
///   pieces drawn for the step are placed, longest first, into the row they fill best (best-fit decreasing,
///   Johnson 1974); what finds no room is carried, and placed first next time.
///
/// - kWhole: one sequence is one row, as long as it is. With `distinct`, a sequence that has a text in common
/// with
///   one of the step is carried: in a contrastive batch a text must not be its own negative. Throws DataError
///   when the data does not have as many different ones.
///
/// Returns fewer rows, or none, at the end of the data.
[[nodiscard]] std::vector<Row> pack_rows(Packing packing, std::int64_t rows, std::int64_t sequence_length,
                                         const std::function<Piece()>& draw, std::vector<Piece>& carry,
                                         bool distinct = false);

/// One micro-batch of rows: each piece, or each part of it, is a segment, so attention does not cross
/// documents; or, without `keep_boundaries`, each row is one segment, with the language of its first piece.
[[nodiscard]] Batch batch_rows(const Row* rows, std::size_t count, bool keep_boundaries,
                               std::int64_t first_token);

/// Which of several ranks that share a step.
struct RankOf {
  std::int64_t rank = 0;
  std::int64_t ranks = 1;
};

/// Where the rows of each rank begin, and where they end: ranks + 1 rising numbers. Ranks get neighbouring
/// rows with about the same number of tokens, and at least one where there are as many.
[[nodiscard]] std::vector<std::size_t> share_rows(const std::vector<Row>& rows, std::int64_t ranks);

/// The rows of a step, or of one rank of it, in micro-batches of `group` rows, the last perhaps smaller, with
/// the places of their first tokens in the whole step. All ranks have the same number of micro-batches; where
/// rows do not suffice, the last ones have no tokens.
[[nodiscard]] std::vector<Batch> micro_batches(const std::vector<Row>& rows, std::size_t group,
                                               bool keep_boundaries, const RankOf& which = {});

}  // namespace bitrain::data
