#include <bitrain/eval/query_fusion.h>

#include <cstdint>
#include <unordered_map>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/json.h>
#include <bitrain/io/line_reader.h>

namespace bitrain::eval {
namespace {

void check(const at::Tensor& rows, const char* what) {
  if (rows.dim() != 2 || rows.scalar_type() != at::kFloat)
    throw StateError("fusion: the ", what, " are ", rows.scalar_type(), " ", rows.sizes(),
                     ", not float32 [N, D]");
  if (rows.numel() == 0) throw DataError("fusion: there are no ", what);
  if (!at::isfinite(rows).all().item<bool>()) throw DataError("fusion: the ", what, " have NaN or infinity");
}

std::string text_at(const io::Json& row, const char* key, const std::string& where) {
  const auto found = row.find(key);
  if (found == row.end() || !found->is_string() || trim(found->get_ref<const std::string&>()).empty())
    throw DataError(where, ": the key '", key, "' is missing, empty or no text");
  return found->get<std::string>();
}

}  // namespace

at::Tensor fuse_queries(const at::Tensor& passages, const at::Tensor& queries, const at::Tensor& owners,
                        const FusionOptions& options) {
  const at::NoGradGuard no_grad;
  if (!(options.weight >= 0 && options.weight <= 1))
    throw ConfigError("fusion: weight ", options.weight, " is not between 0 and 1");
  check(passages, "passages");
  check(queries, "queries");
  if (passages.size(1) != queries.size(1))
    throw StateError("fusion: passages of width ", passages.size(1), " and queries of ", queries.size(1));
  if (owners.dim() != 1 || owners.scalar_type() != at::kLong || owners.size(0) != queries.size(0))
    throw StateError("fusion: owners are ", owners.scalar_type(), " ", owners.sizes(), ", not int64 [",
                     queries.size(0), "]");
  const auto first = owners.min().item<std::int64_t>();
  const auto last = owners.max().item<std::int64_t>();
  if (first < 0 || last >= passages.size(0))
    throw DataError("fusion: owners ", first, " to ", last, " of ", passages.size(0), " passages");
  return (passages * (1 - options.weight)).index_add_(0, owners, queries, options.weight);
}

GeneratedQueries read_generated_queries(const std::filesystem::path& path,
                                        const std::vector<Document>& corpus) {
  std::unordered_map<std::string, std::int64_t> rows;
  for (const Document& document : corpus) rows.emplace(document.id, rows.size());
  io::LineReader reader(path);
  GeneratedQueries queries;
  std::vector<std::int64_t> owners;
  for (std::string line; reader.next(line);) {
    if (trim(line).empty()) continue;
    const io::Json row = io::parse_json(line, reader.where());
    if (!row.is_object()) throw DataError(reader.where(), ": not a JSON object");
    const std::string id = text_at(row, "document", reader.where());
    const auto owner = rows.find(id);
    if (owner == rows.end())
      throw DataError(reader.where(), ": the document '", id, "' is not in the corpus");
    owners.push_back(owner->second);
    queries.texts.push_back(text_at(row, "query", reader.where()));
  }
  if (owners.empty()) throw DataError(path.string(), ": there are no queries");
  queries.owners = at::tensor(owners);
  return queries;
}

}  // namespace bitrain::eval
