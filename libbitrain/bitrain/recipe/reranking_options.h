#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/data/loader.h>
#include <bitrain/eval/hard_negatives.h>
#include <bitrain/objectives/listwise.h>
#include <bitrain/recipe/pair_files.h>
#include <bitrain/train/options.h>

namespace bitrain::recipe {

/// recipe: mine_negatives
struct MineNegativesStage {
  PairFileOptions pairs;
  std::string corpus;
  bool bm25 = false;
  eval::HardNegativeOptions mining;
  std::int64_t max_length = 256;
  std::string query_prompt;
  std::string document_prompt;
};
template <class Visitor>
void visit_fields(Visitor& v, MineNegativesStage& o) {
  v.field("pairs", o.pairs, required(), "Queries and their answers.");
  v.field("corpus", o.corpus, names_file(),
          "BEIR's corpus.jsonl with the candidates; empty: the answers of all pairs.");
  v.field("bm25", o.bm25, any(), "Find negatives by their words, not by the encoder it reads from.");
  v.field("mining", o.mining, any(), "Which of the texts that are found.");
  v.field("max_length", o.max_length, at_least(3), "Tokens a text is cut to, special tokens included.");
  v.field("query_prompt", o.query_prompt, any(), "Put before every query.");
  v.field("document_prompt", o.document_prompt, any(), "Put before every candidate.");
}

/// recipe: cross_encoder
struct CrossEncoderStage {
  CrossEncoderStage() {
    loader.packing = "whole";
    loader.rows_per_step = 16;
    loader.sequence_length = 1024;
    loader.mixture.unit = "samples";
  }
  std::vector<PairFileOptions> files;
  objectives::ListwiseOptions objective;
  data::LoaderOptions loader;
  train::TrainOptions train;
  std::vector<std::string> freeze;
  double dropout = -1;
};
template <class Visitor>
void visit_fields(Visitor& v, CrossEncoderStage& o) {
  v.field("files", o.files, required(),
          "Pairs with hard negatives; in mixtures by the file's or stage's name.");
  v.field("objective", o.objective, any(), "How a pair is read.");
  v.field("loader", o.loader, any(),
          "Mixing; rows_per_step queries are a step, a query and all of its candidates a row.");
  v.field("train", o.train, any(), "Steps, rates, checkpoints.");
  v.field("freeze", o.freeze, any(), "Weights and modules that this stage leaves as they are.");
  v.field("dropout", o.dropout, in_range(-1, 1),
          "In place of the model's hidden_dropout_prob; -1: the model's.");
}

}  // namespace bitrain::recipe
