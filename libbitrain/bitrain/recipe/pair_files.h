#pragma once

#include <string>

#include <bitrain/fields/rule.h>

namespace bitrain::recipe {

/// A JSONL file of pairs, with hard negatives where it has them.
struct PairFileOptions {
  std::string path;
  std::string stage;
  std::string text_field = "query";
  std::string pair_field = "positive";
  std::string negatives_field = "negatives";
  std::string language;
  std::string pair_language;
};
template <class Visitor>
void visit_fields(Visitor& v, PairFileOptions& o) {
  v.field("path", o.path, names_file(), "JSONL file, also as .gz or .zst.");
  v.field("stage", o.stage, names_stage(),
          "In place of path: an earlier stage mine_negatives, whose file it is.");
  v.field("text_field", o.text_field, not_empty(), "Key of the text that looks.");
  v.field("pair_field", o.pair_field, not_empty(), "Key of the text that is to be found.");
  v.field("negatives_field", o.negatives_field, any(), "Key of its hard negatives; rows may lack it.");
  v.field("language", o.language, any(), "Code of the first; empty: the source's.");
  v.field("pair_language", o.pair_language, any(), "Code of the others; empty: the target's.");
}

/// What a mine_negatives stage calls its file.
inline constexpr const char* kMinedFile = "mined.jsonl";

}  // namespace bitrain::recipe
