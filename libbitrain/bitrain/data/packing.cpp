#include <bitrain/data/packing.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain::data {
namespace {

using Draw = std::function<Piece()>;

std::vector<Row> pack_cut(std::int64_t rows, std::int64_t sequence_length, const Draw& draw,
                          std::vector<Piece>& carry) {
  std::vector<Row> result;
  std::size_t carried = 0;
  Piece piece;  // what is being laid down; without tokens: get the next
  bool more = true;
  for (std::int64_t row = 0; row < rows && more; ++row) {
    std::int64_t room = sequence_length;
    Row filled;
    while (room > 0) {
      if (piece.size() == 0) {
        piece = carried < carry.size() ? std::move(carry[carried++]) : draw();
        if (piece.sequence == nullptr) {
          more = false;
          break;
        }
      }
      Piece part = piece;
      part.end = std::min(part.end, part.begin + room);
      room -= part.size();
      piece.begin = part.end;
      filled.push_back(std::move(part));
    }
    if (!filled.empty()) result.push_back(std::move(filled));
  }
  carry.erase(carry.begin(), carry.begin() + static_cast<std::ptrdiff_t>(carried));
  if (piece.size() > 0) carry.insert(carry.begin(), std::move(piece));
  return result;
}

/// Appends a sequence in pieces of at most `longest` tokens.
void split_into(const Piece& whole, std::int64_t longest, std::vector<Piece>& pieces) {
  for (std::int64_t begin = whole.begin; begin < whole.end; begin += longest) {
    Piece piece = whole;
    piece.begin = begin;
    piece.end = std::min(whole.end, begin + longest);
    pieces.push_back(std::move(piece));
  }
}

std::vector<Row> pack_best_fit(std::int64_t rows, std::int64_t sequence_length, const Draw& draw,
                               std::vector<Piece>& carry) {
  std::vector<Piece> pieces;
  for (const Piece& piece : carry) split_into(piece, sequence_length, pieces);
  const auto carried = static_cast<std::ptrdiff_t>(pieces.size());
  std::int64_t total = 0;
  for (const Piece& piece : pieces) total += piece.size();
  while (total < rows * sequence_length) {
    Piece whole = draw();
    if (whole.sequence == nullptr) break;
    total += whole.size();
    split_into(whole, sequence_length, pieces);
  }
  const auto longer = [](const Piece& a, const Piece& b) { return a.size() > b.size(); };
  std::stable_sort(pieces.begin(), pieces.begin() + carried, longer);
  std::stable_sort(pieces.begin() + carried, pieces.end(), longer);

  std::vector<Row> result(static_cast<std::size_t>(rows));
  std::set<std::pair<std::int64_t, std::size_t>> rooms;  // (tokens left, row)
  for (std::size_t row = 0; row < result.size(); ++row) rooms.emplace(sequence_length, row);
  carry.clear();
  for (Piece& piece : pieces) {
    const auto best = rooms.lower_bound({piece.size(), 0});
    if (best == rooms.end()) {
      carry.push_back(std::move(piece));
      continue;
    }
    const auto [room, row] = *best;
    rooms.erase(best);
    if (room > piece.size()) rooms.emplace(room - piece.size(), row);
    result[row].push_back(std::move(piece));
  }
  result.erase(std::remove_if(result.begin(), result.end(), [](const Row& row) { return row.empty(); }),
               result.end());
  return result;
}

/// The texts of a sequence, a document as one, as their ids.
std::vector<std::string_view> texts_of(const TokenSequence& sequence) {
  const auto view = [&](std::size_t begin, std::size_t end) {
    return std::string_view(reinterpret_cast<const char*>(sequence.ids.data() + begin),
                            (end - begin) * sizeof(std::int32_t));
  };
  if (sequence.parts.empty()) return {view(0, sequence.ids.size())};
  std::vector<std::string_view> texts;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < sequence.parts.size(); ++i) {
    const TokenSequence::Part& part = sequence.parts[i];
    const bool goes_on = part.document >= 0 && i + 1 < sequence.parts.size() &&
                         sequence.parts[i + 1].document == part.document;
    if (goes_on) continue;
    texts.push_back(view(begin, static_cast<std::size_t>(part.end)));
    begin = static_cast<std::size_t>(part.end);
  }
  return texts;
}

std::vector<Row> take_whole(std::int64_t rows, const Draw& draw, std::vector<Piece>& carry, bool distinct) {
  std::vector<Row> result;
  std::set<std::string_view> seen;  // Into sequences that `result` keeps alive.
  const auto take = [&](Piece& piece) {
    if (distinct) {
      const std::vector<std::string_view> texts = texts_of(*piece.sequence);
      if (std::any_of(texts.begin(), texts.end(),
                      [&](std::string_view text) { return seen.count(text) > 0; }))
        return false;
      seen.insert(texts.begin(), texts.end());
    }
    result.push_back({std::move(piece)});
    return true;
  };
  std::vector<Piece> left;
  const std::size_t most_left = carry.size() + 16 * static_cast<std::size_t>(rows) + 256;
  std::size_t carried = 0;
  while (static_cast<std::int64_t>(result.size()) < rows) {
    Piece piece = carried < carry.size() ? std::move(carry[carried++]) : draw();
    if (piece.sequence == nullptr) break;
    if (!take(piece)) left.push_back(std::move(piece));
    if (left.size() > most_left) {
      throw DataError("a step of ", rows,
                      " cannot be filled with rows that share no text (distinct_texts): only ", result.size(),
                      " such were found, though rows were drawn ", left.size() + result.size(),
                      " times, over the files again and again; set rows_per_step to ", result.size(),
                      " or less, or allow repeated texts");
    }
  }
  left.insert(left.end(), std::make_move_iterator(carry.begin() + static_cast<std::ptrdiff_t>(carried)),
              std::make_move_iterator(carry.end()));
  carry = std::move(left);
  return result;
}

}  // namespace

Packing packing_from(const std::string& name) {
  if (name == "cut") return Packing::kCut;
  if (name == "best_fit") return Packing::kBestFit;
  if (name == "whole") return Packing::kWhole;
  throw ConfigError("unknown packing '", name, "'", did_you_mean(name, {"best_fit", "cut", "whole"}),
                    "; there are: best_fit, cut, whole");
}

std::vector<Row> pack_rows(Packing packing, std::int64_t rows, std::int64_t sequence_length, const Draw& draw,
                           std::vector<Piece>& carry, bool distinct) {
  if (packing == Packing::kWhole) return take_whole(rows, draw, carry, distinct);
  return packing == Packing::kCut ? pack_cut(rows, sequence_length, draw, carry)
                                  : pack_best_fit(rows, sequence_length, draw, carry);
}

Batch batch_rows(const Row* rows, std::size_t count, bool keep_boundaries, std::int64_t first_token) {
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::vector<std::int32_t>> labels;
  std::vector<std::int32_t> languages;
  std::vector<std::int32_t> groups;
  std::vector<std::int32_t> documents;
  std::vector<float> scores;
  const auto add_parts = [&](const TokenSequence& sequence, std::size_t row) {
    std::int32_t begin = 0;
    for (const TokenSequence::Part& part : sequence.parts) {
      ids.emplace_back(sequence.ids.begin() + begin, sequence.ids.begin() + part.end);
      labels.emplace_back(sequence.labels.begin() + begin, sequence.labels.begin() + part.end);
      languages.push_back(part.language);
      groups.push_back(static_cast<std::int32_t>(row));
      if (part.document >= 0) documents.push_back(part.document);
      if (sequence.score) scores.push_back(*sequence.score);
      begin = part.end;
    }
  };
  for (std::size_t r = 0; r < count; ++r) {
    for (std::size_t p = 0; p < rows[r].size(); ++p) {
      const Piece& piece = rows[r][p];
      if (!piece.sequence->parts.empty()) {
        add_parts(*piece.sequence, r);
        continue;
      }
      if (keep_boundaries || p == 0) {
        ids.emplace_back();
        labels.emplace_back();
        languages.push_back(piece.sequence->language);
      }
      const TokenSequence& sequence = *piece.sequence;
      ids.back().insert(ids.back().end(), sequence.ids.begin() + piece.begin,
                        sequence.ids.begin() + piece.end);
      labels.back().insert(labels.back().end(), sequence.labels.begin() + piece.begin,
                           sequence.labels.begin() + piece.end);
    }
  }
  Batch batch = make_batch(ids, labels, languages);
  batch.group_ids = std::move(groups);
  batch.document_ids = std::move(documents);
  batch.scores = std::move(scores);
  batch.first_token = first_token;
  return batch;
}

std::vector<std::size_t> share_rows(const std::vector<Row>& rows, std::int64_t ranks) {
  std::vector<std::int64_t> before = {0};  // Tokens before each row.
  for (const Row& row : rows) {
    std::int64_t tokens = 0;
    for (const Piece& piece : row) tokens += piece.size();
    before.push_back(before.back() + tokens);
  }
  std::vector<std::size_t> begins = {0};
  for (std::int64_t r = 1; r < ranks; ++r) {
    // The cut that is nearest to an equal share, with a row left for each rank on both sides.
    const double wanted =
        static_cast<double>(before.back()) * static_cast<double>(r) / static_cast<double>(ranks);
    std::size_t cut = begins.back();
    const auto distance = [&](std::size_t at) { return std::abs(static_cast<double>(before[at]) - wanted); };
    while (cut < rows.size() && distance(cut + 1) <= distance(cut)) ++cut;
    const auto rest = static_cast<std::size_t>(ranks - r);
    const std::size_t most = rows.size() > rest ? rows.size() - rest : 0;
    cut = std::max(std::min(cut, most), std::min(begins.back() + 1, rows.size()));
    begins.push_back(cut);
  }
  begins.push_back(rows.size());
  return begins;
}

namespace {

/// Documents and their sentences.
std::int64_t sentences_of(const TokenSequence& sequence) {
  std::int64_t count = 0;
  std::int32_t document = -1;
  for (const TokenSequence::Part& part : sequence.parts) {
    count += part.document != document || part.document < 0 ? 2 : 1;
    document = part.document;
  }
  return count;
}

}  // namespace

std::vector<Batch> micro_batches(const std::vector<Row>& rows, std::size_t group, bool keep_boundaries,
                                 const RankOf& which) {
  const std::vector<std::size_t> begins = share_rows(rows, which.ranks);
  std::size_t most = 0;
  for (std::size_t r = 0; r + 1 < begins.size(); ++r) most = std::max(most, begins[r + 1] - begins[r]);
  const std::size_t count = (most + group - 1) / group;
  const std::size_t first = begins[static_cast<std::size_t>(which.rank)];
  const std::size_t last = begins[static_cast<std::size_t>(which.rank) + 1];
  const auto read_tokens = [&](std::size_t begin, std::size_t end) {
    std::int64_t tokens = 0;
    for (std::size_t r = begin; r < end; ++r)
      for (const Piece& piece : rows[r]) tokens += piece.size() - piece.sequence->unread;
    return tokens;
  };
  const auto sentences = [&](std::size_t begin, std::size_t end) {
    std::int64_t sum = 0;
    for (std::size_t r = begin; r < end; ++r)
      for (const Piece& piece : rows[r]) sum += sentences_of(*piece.sequence);
    return sum;
  };
  std::vector<Batch> batches;
  std::int64_t first_token = read_tokens(0, first);
  std::int64_t first_sentence = sentences(0, first);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t begin = std::min(first + i * group, last);
    const std::size_t end = std::min(begin + group, last);
    batches.push_back(batch_rows(rows.data() + begin, end - begin, keep_boundaries, first_token));
    batches.back().first_sentence = first_sentence;
    first_token += read_tokens(begin, end);
    first_sentence += sentences(begin, end);
  }
  return batches;
}

}  // namespace bitrain::data
