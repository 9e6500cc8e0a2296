#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/eval/retrieval.h>
#include <bitrain/fields/rule.h>

/// Passages that carry the queries generated for them (xQG4xDR, Zhuang et al. 2023, arXiv 2305.03950).
namespace bitrain::eval {

struct FusionOptions {
  double weight = 0.01;
};
template <class Visitor>
void visit_fields(Visitor& v, FusionOptions& o) {
  v.field("weight", o.weight, in_range(0, 1),
          "a of (1 - a) passage + a (sum of its queries): a sum, so it goes down as queries become more.");
}

/// (1 - a) passages [P, D] + a times the sum of the rows of queries [Q, D] that belong to each, float32:
/// query i belongs to passage owners[i] ([Q] int64, in any order). A passage without queries becomes
/// (1 - a) of itself, so that dot products stay comparable. Not made unit rows. Throws ConfigError for a
/// weight outside 0 to 1, StateError for shapes or types that do not fit, DataError for no passages or
/// queries, values that are not finite, or an owner that is not there.
[[nodiscard]] at::Tensor fuse_queries(const at::Tensor& passages, const at::Tensor& queries,
                                      const at::Tensor& owners, const FusionOptions& options = {});

struct GeneratedQueries {
  std::vector<std::string> texts;
  at::Tensor owners;  ///< [Q] int64: the row of each in the corpus.
};
/// Reads JSONL rows {"document": id, "query": text}, any number for a document, also as .gz or .zst. Throws
/// IoError, FormatError for what is no JSON, and DataError with file and line for a row without document or
/// query or with a document that the corpus has not, or for no queries at all.
[[nodiscard]] GeneratedQueries read_generated_queries(const std::filesystem::path& path,
                                                      const std::vector<Document>& corpus);

}  // namespace bitrain::eval
