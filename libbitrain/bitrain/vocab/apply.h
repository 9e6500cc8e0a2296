#pragma once

#include <cstdint>

#include <bitrain/models/encoder.h>
#include <bitrain/models/language_model.h>
#include <bitrain/vocab/initialisers.h>
#include <bitrain/vocab/plan.h>
#include <bitrain/vocab/wordpiece_plan.h>

namespace bitrain::vocab {

/// What growing a model did.
struct ApplyReport {
  std::int64_t old_rows = 0;        ///< Rows of the embedding before.
  std::int64_t rows = 0;            ///< And after.
  std::int64_t added = 0;           ///< Pieces that got a row.
  std::int64_t reused_padding = 0;  ///< Of them, in rows that were padding before.
  double old_norm = 0;              ///< Mean norm of the input rows of old pieces,
  double new_norm = 0;              ///< and of new ones.
};

/// Gives the new pieces of `plan` rows in the embedding and the head, by `options`; sets config().vocab_size.
/// A tied head stays tied, and its rule is not used. Rows of old pieces are untouched, bit for bit. Where the
/// model has more rows than the old tokenizer has pieces, the surplus is padding: new pieces take those rows
/// in order, the rest stay as they are, and the model never shrinks. With `pad_to_multiple_of` > 1 the number
/// of rows is rounded up; padding rows that this makes are the mean of the old rows, and so is a head's bias
/// for every new row. Throws StateError, before anything is changed, when the model has fewer rows than the
/// old tokenizer, when the head is quantised, or when embedding or head has adapters or trainable rows (merge
/// them first); ConfigError when `copy_of` is not a piece.
ApplyReport apply_extension(models::LanguageModel& model, const ExtensionPlan& plan,
                            const InitialiserOptions& options, std::uint64_t seed,
                            std::int64_t pad_to_multiple_of = 1);

/// The same for an encoder, which has no head.
ApplyReport apply_extension(models::EncoderModel& model, const WordPiecePlan& plan,
                            const InitialiserOptions& options, std::uint64_t seed,
                            std::int64_t pad_to_multiple_of = 1);

/// Fills the new pieces' rows of a model that apply_extension has grown once more, by another rule: to
/// compare initialisers without opening the base for each.
ApplyReport initialise_new_rows(models::LanguageModel& model, const ExtensionPlan& plan,
                                const InitialiserOptions& options, std::uint64_t seed);
ApplyReport initialise_new_rows(models::EncoderModel& model, const WordPiecePlan& plan,
                                const InitialiserOptions& options, std::uint64_t seed);

}  // namespace bitrain::vocab
