#include <bitrain/dist/gather_rows.h>

#include <algorithm>
#include <vector>

#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/full.h>
#include <torch/csrc/autograd/custom_function.h>

#include <bitrain/base/error.h>

namespace bitrain::dist {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// How many rows each rank has. Collectives want the same number of all, so shorter ranks are padded.
struct RowCounts {
  std::vector<std::int64_t> of_rank;
  std::int64_t most = 0;
};

at::Tensor padded(const at::Tensor& rows, std::int64_t count) {
  if (rows.size(0) == count) return rows;
  std::vector<std::int64_t> padding(2 * static_cast<std::size_t>(rows.dim()), 0);
  padding.back() = count - rows.size(0);
  return at::constant_pad_nd(rows, padding);
}

struct GatherRows : torch::autograd::Function<GatherRows> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows, Communicator* group,
                            const RowCounts& counts) {
    context->saved_data["group"] = reinterpret_cast<std::int64_t>(group);
    context->saved_data["counts"] = counts.of_rank;
    const at::Tensor all = group->all_gather(padded(rows, counts.most));
    std::vector<at::Tensor> parts;
    for (std::int64_t r = 0; r < group->size(); ++r)
      parts.push_back(all.narrow(0, r * counts.most, counts.of_rank[static_cast<std::size_t>(r)]));
    return at::cat(parts);
  }

  static variable_list backward(AutogradContext* context, variable_list slopes) {
    auto* group = reinterpret_cast<Communicator*>(context->saved_data["group"].toInt());
    const std::vector<std::int64_t> counts = context->saved_data["counts"].toIntVector();
    const std::int64_t most = *std::max_element(counts.begin(), counts.end());
    std::vector<at::Tensor> parts;
    std::int64_t begin = 0;
    for (const std::int64_t count : counts) {
      parts.push_back(padded(slopes[0].narrow(0, begin, count), most));
      begin += count;
    }
    const at::Tensor own = group->reduce_scatter(at::cat(parts));
    return {own.narrow(0, 0, counts[static_cast<std::size_t>(group->rank())]), {}, {}};
  }
};

struct ExchangeRows : torch::autograd::Function<ExchangeRows> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows,
                            const std::vector<std::int64_t>& given, const std::vector<std::int64_t>& taken,
                            Communicator* group, const std::string& what) {
    context->saved_data["group"] = reinterpret_cast<std::int64_t>(group);
    context->saved_data["given"] = given;
    context->saved_data["taken"] = taken;
    context->saved_data["what"] = what;
    return group->all_to_all(rows, given, taken, what);
  }

  static variable_list backward(AutogradContext* context, variable_list slopes) {
    auto* group = reinterpret_cast<Communicator*>(context->saved_data["group"].toInt());
    return {group->all_to_all(slopes[0].contiguous(), context->saved_data["taken"].toIntVector(),
                              context->saved_data["given"].toIntVector(),
                              context->saved_data["what"].toStringRef() + ", backward"),
            {},
            {},
            {},
            {}};
  }
};

}  // namespace

at::Tensor exchange_rows(const at::Tensor& rows, const std::vector<std::int64_t>& given,
                         const std::vector<std::int64_t>& taken, Communicator& group,
                         const std::string& what) {
  return ExchangeRows::apply(rows, given, taken, &group, what);
}

GatheredRows gather_rows(const at::Tensor& rows, Communicator& group) {
  if (rows.dim() < 1) throw StateError("gather_rows needs rows, not a scalar");
  if (group.size() == 1) return {rows, 0};
  const at::Tensor counted =
      group
          .all_gather(at::full({1}, rows.size(0), at::TensorOptions().dtype(at::kLong).device(rows.device())))
          .cpu();
  RowCounts counts;
  GatheredRows gathered;
  for (std::int64_t r = 0; r < group.size(); ++r) {
    const std::int64_t count = counted.const_data_ptr<std::int64_t>()[r];
    if (r < group.rank()) gathered.offset += count;
    counts.of_rank.push_back(count);
    counts.most = std::max(counts.most, count);
  }
  if (counts.most == 0) return {rows, 0};
  gathered.rows = GatherRows::apply(rows, &group, counts);
  return gathered;
}

}  // namespace bitrain::dist
