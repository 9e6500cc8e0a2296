#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/data/loader.h>
#include <bitrain/fields/rule.h>
#include <bitrain/objectives/similarity.h>
#include <bitrain/train/options.h>

namespace bitrain::recipe {

/// A JSONL file of pairs whose likeness people judged.
struct ScoredFileOptions {
  std::string path;
  std::string name;
  std::string text_field = "text";
  std::string pair_field = "pair";
  std::string score_field = "score";
  std::string language;
  std::string pair_language;
};
template <class Visitor>
void visit_fields(Visitor& v, ScoredFileOptions& o) {
  v.field("path", o.path, names_file(required(not_empty())), "JSONL file, also as .gz or .zst.");
  v.field("name", o.name, any(), "In mixtures and in the report; empty: the file's name.");
  v.field("text_field", o.text_field, not_empty(), "Key of one text.");
  v.field("pair_field", o.pair_field, not_empty(), "Key of the other.");
  v.field("score_field", o.score_field, not_empty(), "Key of the number that says how like they are.");
  v.field("language", o.language, any(), "Code of the first; empty: the source's.");
  v.field("pair_language", o.pair_language, any(), "Code of the other; empty: that of the first.");
}

/// recipe: similarity
struct SimilarityStage {
  SimilarityStage() {
    loader.packing = "whole";
    loader.rows_per_step = 32;
    loader.sequence_length = 64;
    loader.mixture.unit = "samples";
  }
  std::vector<ScoredFileOptions> files;
  objectives::SimilarityOptions objective;
  data::LoaderOptions loader;
  train::TrainOptions train;
  std::vector<std::string> freeze;
  double dropout = -1;
};
template <class Visitor>
void visit_fields(Visitor& v, SimilarityStage& o) {
  v.field("files", o.files, required(), "Scored pairs.");
  v.field("objective", o.objective, any(), "What scores mean.");
  v.field("loader", o.loader, any(), "Batches: rows_per_step pairs are a step.");
  v.field("train", o.train, any(), "Steps, rates, checkpoints.");
  v.field("freeze", o.freeze, any(), "Weights and modules that this stage leaves as they are.");
  v.field("dropout", o.dropout, in_range(-1, 1),
          "In place of the model's hidden_dropout_prob; -1: the model's.");
}

/// recipe: evaluate_similarity
struct EvaluateSimilarityStage {
  std::vector<ScoredFileOptions> files;
  std::int64_t max_length = 128;
  std::int64_t truncate_dim = 0;
};
template <class Visitor>
void visit_fields(Visitor& v, EvaluateSimilarityStage& o) {
  v.field("files", o.files, required(), "Scored pairs.");
  v.field("max_length", o.max_length, at_least(3), "Tokens a text is cut to, special tokens included.");
  v.field("truncate_dim", o.truncate_dim, at_least(0),
          "Leading features of an embedding that are read, as of a model that was trained with matryoshka; "
          "0: all.");
}

}  // namespace bitrain::recipe
