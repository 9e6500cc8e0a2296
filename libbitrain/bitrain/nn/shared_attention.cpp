#include <bitrain/nn/shared_attention.h>

#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/batch.h>
#include <bitrain/base/error.h>
#include <bitrain/dist/gather_rows.h>
#include <bitrain/nn/functional.h>

namespace bitrain::nn {
namespace {

/// The heads of a rank: [begin, end) of the queries', [kv_begin, kv_end) of the keys' that these read.
struct Heads {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t kv_begin = 0;
  std::int64_t kv_end = 0;

  [[nodiscard]] std::int64_t queries() const { return end - begin; }
  [[nodiscard]] std::int64_t keys() const { return kv_end - kv_begin; }
};

Heads heads_of(std::int64_t rank, std::int64_t ranks, std::int64_t heads, std::int64_t kv_heads) {
  const std::int64_t group = heads / kv_heads;
  Heads share{heads * rank / ranks, heads * (rank + 1) / ranks};
  share.kv_begin = share.begin / group;
  share.kv_end = (share.end - 1) / group + 1;
  return share;
}

/// Keys or values [N, heads.keys(), width] so that packed_attention finds those of each query: one for each
/// query head where the share begins or ends within a group.
at::Tensor matched(const at::Tensor& rows, const Heads& heads, std::int64_t group) {
  std::vector<std::int64_t> wanted;
  bool regular = heads.queries() % heads.keys() == 0;
  for (std::int64_t h = 0; h < heads.queries(); ++h) {
    wanted.push_back((heads.begin + h) / group - heads.kv_begin);
    regular = regular && wanted.back() == h / (heads.queries() / heads.keys());
  }
  return regular ? rows : rows.index_select(1, at::tensor(wanted, rows.options().dtype(at::kLong)));
}

}  // namespace

at::Tensor shared_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::vector<std::int32_t>& boundaries, double scale,
                            dist::Communicator& ranks) {
  const std::int64_t size = ranks.size();
  const std::int64_t heads = q.size(1);
  const std::int64_t width = q.size(2);
  const std::int64_t tokens = boundaries.back();
  if (size == 1) return packed_attention(q, k, v, boundaries, scale);
  if (size > heads)
    throw ConfigError("parallel.context is ", size, ", but this model has ", heads,
                      " attention heads: ranks share the heads, so there can be no more of them");
  const auto count_of = [&](std::int64_t rank) {
    return token_begin(tokens, rank + 1, size) - token_begin(tokens, rank, size);
  };
  const std::int64_t own_tokens = q.size(0);
  if (own_tokens != count_of(ranks.rank()))
    throw StateError("shared attention: rank ", ranks.rank(), " has ", own_tokens, " of ", tokens,
                     " tokens, not ", count_of(ranks.rank()));
  const Heads own = heads_of(ranks.rank(), size, heads, k.size(1));
  std::vector<at::Tensor> parts;
  std::vector<std::int64_t> given;
  std::vector<std::int64_t> taken;
  std::vector<std::int64_t> given_back;
  std::vector<std::int64_t> taken_back;
  for (std::int64_t r = 0; r < size; ++r) {
    const Heads other = heads_of(r, size, heads, k.size(1));
    parts.push_back(q.narrow(1, other.begin, other.queries()).reshape(-1));
    parts.push_back(k.narrow(1, other.kv_begin, other.keys()).reshape(-1));
    parts.push_back(v.narrow(1, other.kv_begin, other.keys()).reshape(-1));
    given.push_back(own_tokens * (other.queries() + 2 * other.keys()) * width);
    taken.push_back(count_of(r) * (own.queries() + 2 * own.keys()) * width);
    given_back.push_back(count_of(r) * own.queries() * width);
    taken_back.push_back(own_tokens * other.queries() * width);
  }
  const at::Tensor mixed = dist::exchange_rows(at::cat(parts), given, taken, ranks, "attention's heads");
  std::vector<at::Tensor> queries;
  std::vector<at::Tensor> keys;
  std::vector<at::Tensor> values;
  std::int64_t begin = 0;
  const auto next = [&](std::int64_t rows, std::int64_t columns) {
    const at::Tensor part = mixed.narrow(0, begin, rows * columns * width).view({rows, columns, width});
    begin += rows * columns * width;
    return part;
  };
  for (std::int64_t r = 0; r < size; ++r) {
    queries.push_back(next(count_of(r), own.queries()));
    keys.push_back(next(count_of(r), own.keys()));
    values.push_back(next(count_of(r), own.keys()));
  }
  const std::int64_t group = heads / k.size(1);
  const at::Tensor attended = packed_attention(at::cat(queries), matched(at::cat(keys), own, group),
                                               matched(at::cat(values), own, group), boundaries, scale);
  const at::Tensor back =
      dist::exchange_rows(attended.reshape(-1), given_back, taken_back, ranks, "what attention gives");
  std::vector<at::Tensor> columns;
  begin = 0;
  for (const std::int64_t numel : taken_back) {
    columns.push_back(back.narrow(0, begin, numel).view({own_tokens, -1, width}));
    begin += numel;
  }
  return at::cat(columns, 1);
}

}  // namespace bitrain::nn
