#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/data/loader.h>
#include <bitrain/fields/rule.h>
#include <bitrain/models/document_encoder.h>
#include <bitrain/objectives/context_prediction.h>
#include <bitrain/objectives/document_contrastive.h>
#include <bitrain/recipe/retrieval_options.h>
#include <bitrain/train/options.h>

/// Stages that read documents of consecutive lines.
namespace bitrain::recipe {

/// recipe: context_prediction
struct ContextPredictionStage {
  ContextPredictionStage() {
    loader.packing = "whole";
    loader.rows_per_step = 128;
    loader.sequence_length = 64;
    loader.distinct_texts = true;
    loader.mixture.unit = "samples";
    train.best_metric = "error_at_1";
  }
  std::int64_t lines_per_document = 32;
  std::int64_t window = 2;
  objectives::ContextPredictionOptions objective;
  data::LoaderOptions loader;
  train::TrainOptions train;
  std::vector<std::string> freeze;
  double dropout = -1;
  RetrievalOptions retrieval;
};
template <class Visitor>
void visit_fields(Visitor& v, ContextPredictionStage& o) {
  v.field("lines_per_document", o.lines_per_document, at_least(0),
          "Consecutive lines that are one document; 0: text up to a blank line. Lines are sentences; a "
          "document of one "
          "line is parted at its full stops.");
  v.field("window", o.window, at_least(1), "A context is at most so many sentences away.");
  v.field("objective", o.objective, any(), "The loss.");
  v.field("loader", o.loader, any(),
          "Mixing of source and target; rows_per_step sentences with their contexts are a step, "
          "micro_batch_rows of "
          "them are in memory at a time and change no result.");
  v.field("train", o.train, any(), "Steps, rates, checkpoints.");
  v.field("freeze", o.freeze, any(), "Weights and modules that this stage leaves as they are.");
  v.field("dropout", o.dropout, in_range(-1, 1),
          "In place of the model's hidden_dropout_prob; -1: the model's.");
  v.field("retrieval", o.retrieval, any(), "How held-out pairs are scored.");
}

/// recipe: document_encoder
struct DocumentEncoderStage {
  DocumentEncoderStage() {
    loader.packing = "whole";
    loader.rows_per_step = 32;
    loader.sequence_length = 512;
    loader.distinct_texts = true;
    loader.mixture.unit = "samples";
    train.best_metric = "error_at_1";
  }
  std::int64_t lines_per_document = 8;
  models::DocumentEncoderOptions model;
  std::int64_t neighbourhood = 16;
  bool freeze_sentences = false;
  objectives::DocumentContrastiveOptions objective;
  data::LoaderOptions loader;
  train::TrainOptions train;
};
template <class Visitor>
void visit_fields(Visitor& v, DocumentEncoderStage& o) {
  v.field("lines_per_document", o.lines_per_document, at_least(0),
          "Consecutive lines, each a sentence, that are one document; 0: text up to a blank line.");
  v.field("model", o.model, any(),
          "The encoder over sentences, from random weights; where the stage it reads from has one, that goes "
          "on.");
  v.field("neighbourhood", o.neighbourhood, at_least(0),
          "One hard negative in each language is drawn from so many documents before and after; 0: none.");
  v.field("freeze_sentences", o.freeze_sentences, any(), "Leave the sentence encoder as it is.");
  v.field("objective", o.objective, any(), "The loss.");
  v.field("loader", o.loader, any(),
          "Batches: rows_per_step pairs of documents give each other negatives, micro_batch_rows of them are "
          "in memory "
          "at a time.");
  v.field("train", o.train, any(), "Steps, rates, checkpoints.");
}

}  // namespace bitrain::recipe
