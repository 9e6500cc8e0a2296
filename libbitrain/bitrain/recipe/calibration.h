#pragma once

#include <bitrain/recipe/encoder_stage.h>

namespace bitrain::recipe {

/// Scores held-out pairs again with the vectors of both languages calibrated on training lines, by each
/// method that options.calibrate names (CCP, arXiv 2206.03281):
/// - shift_scale: each language by itself to mean 0 and variance 1;
/// - rotation: and the target's vectors turned towards the source's, without pairs: from lines that are not
/// each
///   other's translations (eval::fit_rotation_unsupervised);
/// - procrustes: the same from pairs of lines (eval::procrustes).
/// Writes result["calibration"][none, method..] and a table. A rotation that finds no match between the
/// languages is said in the table and has no figures.
void score_calibrated(const EvaluateEncoderStage& options, StageContext& context,
                      models::SentenceEncoder& model, const text::Tokenizer& tokenizer,
                      const HeldOutPairs& held_out, const HeldOutPairs::Sides& sides);

}  // namespace bitrain::recipe
