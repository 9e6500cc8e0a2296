#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include <bitrain/base/batch.h>
#include <bitrain/data/mixture.h>
#include <bitrain/data/packing.h>
#include <bitrain/data/source.h>
#include <bitrain/fields/rule.h>

namespace bitrain::data {

/// Rows of a step and tokens of a row: far beyond use, and few enough that their products can be counted.
inline constexpr double kMostOfRows = 1 << 24;

struct LoaderOptions {
  std::int64_t sequence_length = 512;
  std::int64_t rows_per_step = 8;
  std::int64_t micro_batch_rows = 0;
  std::string packing = "best_fit";
  bool keep_boundaries = true;
  bool single_source_steps = false;
  bool distinct_texts = false;
  bool shuffle = true;
  std::int64_t prefetch_threads = 1;
  std::int64_t prefetch_steps = 2;
  MixtureOptions mixture;
};

template <class Visitor>
void visit_fields(Visitor& v, LoaderOptions& o) {
  v.field("sequence_length", o.sequence_length, in_range(2, kMostOfRows),
          "Tokens of a row: the longest context. With packing whole only a guess, for the step's tokens.");
  v.field("rows_per_step", o.rows_per_step, in_range(1, kMostOfRows),
          "Rows of an optimizer step, on all ranks together; times sequence_length it is the step's tokens.");
  v.field("micro_batch_rows", o.micro_batch_rows, in_range(0, kMostOfRows),
          "Rows in memory at a time, on each rank; changes no result. 0: all rows of a step.");
  v.field(
      "packing", o.packing, one_of({"best_fit", "cut", "whole"}),
      "best_fit keeps documents whole where they fit; cut fills every row and cuts at its end; whole: a row "
      "is one example, however long.");
  v.field("keep_boundaries", o.keep_boundaries, any(),
          "Attention and positions stay within documents; otherwise within rows.");
  v.field(
      "single_source_steps", o.single_source_steps, any(),
      "Take each step from one source alone, so that negatives are of one language; needs packing whole.");
  v.field("distinct_texts", o.distinct_texts, any(),
          "Let no text come twice in a step; needs packing whole.");
  v.field("shuffle", o.shuffle, any(), "Read each source in a new random order every epoch.");
  v.field("prefetch_threads", o.prefetch_threads, in_range(0, 256),
          "Threads that prepare steps in the background; changes no result. 0: none.");
  v.field("prefetch_steps", o.prefetch_steps, in_range(1, 1024), "Steps prepared ahead.");
  v.field("mixture", o.mixture, any(), "How sources are mixed.");
}

/// What a loader must know of the run.
struct LoaderRun {
  std::uint64_t seed = 0;
  std::int64_t total_steps = 0;  ///< Of the run; for unimax and stages. The loader itself does not end there.
  /// Which share of every step it gives; all ranks read and pack it all. With packing whole, what is left at
  /// the end of the data is left out where it is fewer rows than ranks.
  RankOf rank = {};
  RankOf tokens = {};  ///< Which share of the tokens of every micro-batch (bitrain::token_share).
};

/// Where a loader stands, between steps: counters alone, so that it fits any checkpoint, thread count and
/// number of ranks.
struct Cursor {
  /// Part of a sample that was drawn but found no room yet.
  struct Carried {
    std::int64_t source = 0;
    std::int64_t sample = 0;
    std::int64_t begin = 0;
    std::int64_t end = 0;
  };
  std::int64_t step = 0;             ///< Steps given.
  std::vector<std::string> sources;  ///< Names and sizes, to notice other data.
  MixtureState mixture;
  std::vector<Carried> carried;
};

[[nodiscard]] nlohmann::ordered_json to_json(const Cursor& cursor);
/// Throws FormatError when it is not a cursor.
[[nodiscard]] Cursor cursor_from_json(const nlohmann::ordered_json& json);

/// What a loader gave of one source so far.
struct SourceShare {
  std::string source;
  std::string language;
  std::int64_t samples = 0;  ///< With tokens.
  std::int64_t dropped = 0;  ///< Without tokens, or nothing to learn from.
  std::int64_t tokens = 0;
  double epochs = 0;
  double asked = 0;             ///< Share asked for, in the mixture's unit.
  double realised = 0;          ///< The same as it came about.
  double realised_samples = 0;  ///< Share of all samples,
  double realised_tokens = 0;   ///< and of all tokens.
};

/// Sources to batches: mixes, encodes and packs. What step n holds is a function of the sources, the options
/// and the seed alone: threads only prepare what will be asked for.
class Loader {
 public:
  /// Throws ConfigError for options that do not fit, as Mixture does, and for sources of the same name.
  Loader(LoaderOptions options, std::vector<SourcePtr> sources, const Encode& encode, LoaderRun run);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The micro-batches of the next step, or of this rank's share of it, with first_token set; empty at the
  /// end of the data (mixtures of kind passes, ratio or unimax). Throws DataError for a source whose every
  /// document is dropped, and whatever reading or encoding throws.
  [[nodiscard]] std::vector<Batch> next_step();

  /// After the last step given; prefetched steps do not show.
  [[nodiscard]] Cursor cursor() const;
  /// Goes on from `cursor` exactly as the loader it came from would have. Throws StateError when it is of
  /// other sources.
  void seek(const Cursor& cursor);

  /// What Batch::language_ids mean.
  [[nodiscard]] const std::vector<std::string>& languages() const;
  /// Counts up to the last step given, one entry a source.
  [[nodiscard]] std::vector<SourceShare> shares() const;
  /// Most tokens of a step.
  [[nodiscard]] std::int64_t tokens_per_step() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// One line a source: "es: asked 70.0 %, realised 70.0 % of tokens (812,345 tokens, 20,113 samples, 0.71
/// epochs)".
[[nodiscard]] std::string describe(const std::vector<SourceShare>& shares, const std::string& unit);

}  // namespace bitrain::data
