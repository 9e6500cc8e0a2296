#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>
#include <bitrain/models/late_interaction_encoder.h>
#include <bitrain/objectives/late_interaction.h>
#include <bitrain/recipe/options.h>

namespace bitrain::recipe {

/// recipe: language_adapters
struct LanguageAdaptersStage {
  std::vector<std::string> languages;
  std::int64_t reduction_factor = 2;
};
template <class Visitor>
void visit_fields(Visitor& v, LanguageAdaptersStage& o) {
  v.field("languages", o.languages, any(),
          "Codes of the languages that get an adapter; empty: those of source and target.");
  v.field("reduction_factor", o.reduction_factor, at_least(1),
          "Width of the hidden states over that of an adapter.");
}

/// recipe: late_interaction
struct LateInteractionStage {
  LateInteractionStage() {
    loader.packing = "whole";
    loader.rows_per_step = 32;
    loader.sequence_length = 64;
    loader.distinct_texts = true;
    loader.mixture.unit = "samples";
  }
  std::vector<PairFileOptions> files;
  std::int64_t dimension = 128;
  models::LateInteractionOptions model;
  objectives::LateInteractionLossOptions objective;
  data::LoaderOptions loader;
  train::TrainOptions train;
  std::vector<std::string> freeze;
  double dropout = -1;
};
template <class Visitor>
void visit_fields(Visitor& v, LateInteractionStage& o) {
  v.field("files", o.files, any(),
          "Train on these queries and documents, with hard negatives; in mixtures by the file's name.");
  v.field("dimension", o.dimension, at_least(1),
          "Features of a token's vector (ColBERT: 128). Here and in model: for an encoder that gets a fresh "
          "projection; a late-interaction folder keeps its own.");
  v.field("model", o.model, any(), "Lengths, query expansion, prompts.");
  v.field("objective", o.objective, any(), "Negatives.");
  v.field("loader", o.loader, any(),
          "Batches: rows_per_step queries, whose documents are each other's negatives, are a step; "
          "micro_batch_rows of them are in memory at a time and change no result (GradCache).");
  v.field("train", o.train, any(),
          "Steps, rates, checkpoints. max_steps 0: nothing is trained, for comparison.");
  v.field("freeze", o.freeze, any(),
          "Weights and modules that this stage leaves as they are: names, ends of names, or expressions for "
          "all of one.");
  v.field("dropout", o.dropout, in_range(-1, 1),
          "In place of the model's hidden_dropout_prob; -1: the model's.");
}

}  // namespace bitrain::recipe
