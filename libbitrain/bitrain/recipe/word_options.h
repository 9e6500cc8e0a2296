#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/eval/bilingual_lexicon.h>
#include <bitrain/eval/rcsls.h>
#include <bitrain/eval/word_vectors.h>
#include <bitrain/fields/rule.h>

namespace bitrain::recipe {

/// recipe: align_words
struct AlignWordsStage {
  std::string source_vectors;
  std::string target_vectors;
  std::string train_dictionary;
  std::string test_dictionary;
  eval::WordVectorOptions vectors;
  eval::RcslsOptions rcsls;
  eval::LexiconOptions lexicon;
};
template <class Visitor>
void visit_fields(Visitor& v, AlignWordsStage& o) {
  v.field("source_vectors", o.source_vectors, required(names_file(not_empty())),
          "Word vectors of the source language, as fastText writes them in text.");
  v.field("target_vectors", o.target_vectors, required(names_file(not_empty())), "Of the target language.");
  v.field("train_dictionary", o.train_dictionary, required(names_file(not_empty())),
          "Pairs of words that the maps are fitted to, one a line.");
  v.field("test_dictionary", o.test_dictionary, required(names_file(not_empty())),
          "Pairs that they are scored on.");
  v.field("vectors", o.vectors, any(), "How vectors are read.");
  v.field("rcsls", o.rcsls, any(), "How RCSLS is fitted.");
  v.field("lexicon", o.lexicon, any(), "How the test dictionary is scored.");
}

/// A bilingual dictionary that an encoder is asked for.
struct DictionaryOptions {
  std::string path;
  std::string name;
  std::string language;
  std::string target_language;
};
template <class Visitor>
void visit_fields(Visitor& v, DictionaryOptions& o) {
  v.field("path", o.path, required(names_file(not_empty())), "Pairs of words, one a line, parted by a tab.");
  v.field("name", o.name, any(), "In the report; empty: the file's name.");
  v.field("language", o.language, any(), "Code of the words asked for; empty: the source's.");
  v.field("target_language", o.target_language, any(), "Code of their translations; empty: the target's.");
}

/// recipe: evaluate_lexicon
struct EvaluateLexiconStage {
  EvaluateLexiconStage() { lexicon.csls_neighbours = 0; }
  std::vector<DictionaryOptions> dictionaries;
  eval::LexiconOptions lexicon;
  bool pool_special_tokens = true;
  std::int64_t max_length = 32;
};
template <class Visitor>
void visit_fields(Visitor& v, EvaluateLexiconStage& o) {
  v.field("dictionaries", o.dictionaries, required(not_empty()),
          "Each word is to find a translation among all translations of its dictionary.");
  v.field("lexicon", o.lexicon, any(), "How words are compared and counted.");
  v.field("pool_special_tokens", o.pool_special_tokens, any(),
          "Whether [CLS] and [SEP] take part in pooling, as sentence-transformers has it.");
  v.field("max_length", o.max_length, at_least(3), "Tokens a word is cut to, special tokens included.");
}

}  // namespace bitrain::recipe
