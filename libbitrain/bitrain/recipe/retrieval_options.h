#pragma once

#include <cstdint>
#include <string>

#include <bitrain/fields/rule.h>

namespace bitrain::recipe {

/// How an encoder is judged on held-out pairs of lines.
struct RetrievalOptions {
  std::int64_t max_length = 128;
  std::string text_prompt;
  std::string pair_prompt;
  std::int64_t truncate_dim = 0;
  std::int64_t matrix = 24;
};
template <class Visitor>
void visit_fields(Visitor& v, RetrievalOptions& o) {
  v.field("max_length", o.max_length, at_least(3), "Tokens a line is cut to, special tokens included.");
  v.field("text_prompt", o.text_prompt, any(), "Put before every line of the source.");
  v.field("pair_prompt", o.pair_prompt, any(), "Put before every line of the target.");
  v.field("truncate_dim", o.truncate_dim, at_least(0),
          "Leading features of an embedding that are read, as of a model that was trained with matryoshka; "
          "0: all.");
  v.field("matrix", o.matrix, in_range(0, 200), "Lines of the picture of similarities in the report.");
}

}  // namespace bitrain::recipe
