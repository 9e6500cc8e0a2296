#include <bitrain/objectives/gathered_loss.h>

#include <utility>

#include <ATen/TensorOperators.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/dist/gather_rows.h>
#include <bitrain/dist/gather_text.h>

namespace bitrain::objectives {
namespace {

using Json = nlohmann::json;

/// What losses read of batches; tokens as well, since some compare texts by them.
std::vector<std::uint8_t> to_bytes(const std::vector<Batch>& batches) {
  Json all = Json::array();
  for (const Batch& batch : batches) {
    const at::Tensor ids = batch.input_ids.cpu();
    const auto* id = ids.const_data_ptr<std::int64_t>();
    all.push_back({{"ids", std::vector<std::int64_t>(id, id + ids.numel())},
                   {"boundaries", batch.boundaries},
                   {"languages", batch.language_ids},
                   {"groups", batch.group_ids},
                   {"documents", batch.document_ids},
                   {"weights", batch.weights},
                   {"scores", batch.scores},
                   {"first", batch.first_token}});
  }
  return Json::to_cbor(all);
}

void append_batches(const std::string& bytes, std::vector<Batch>& batches) {
  for (const Json& one : Json::from_cbor(bytes)) {
    const auto boundaries = one.at("boundaries").get<std::vector<std::int32_t>>();
    const auto ids = one.at("ids").get<std::vector<std::int32_t>>();
    if (ids.empty()) continue;
    std::vector<std::vector<std::int32_t>> segments;
    for (std::size_t s = 0; s + 1 < boundaries.size(); ++s)
      segments.emplace_back(ids.begin() + boundaries[s], ids.begin() + boundaries[s + 1]);
    Batch batch = make_batch(segments, segments, one.at("languages").get<std::vector<std::int32_t>>());
    batch.group_ids = one.at("groups").get<std::vector<std::int32_t>>();
    batch.document_ids = one.at("documents").get<std::vector<std::int32_t>>();
    batch.weights = one.at("weights").get<std::vector<float>>();
    batch.scores = one.at("scores").get<std::vector<float>>();
    batch.first_token = one.at("first");
    batches.push_back(std::move(batch));
  }
}

std::vector<Batch> gather_batches(const std::vector<Batch>& own, dist::Communicator& ranks) {
  const std::vector<std::uint8_t> bytes = to_bytes(own);
  std::vector<Batch> all;
  for (const std::string& one :
       dist::gather_text(std::string(bytes.begin(), bytes.end()), ranks, "the texts of a step"))
    append_batches(one, all);
  return all;
}

}  // namespace

EmbeddingLoss over_ranks(EmbeddingLoss loss, std::shared_ptr<dist::Communicator> ranks) {
  if (ranks->size() == 1) return loss;
  EmbeddingLoss shared = loss;
  shared.loss = [whole = std::move(loss.loss), ranks = std::move(ranks)](
                    const at::Tensor& embedded, const at::Tensor& taught,
                    const std::vector<Batch>& micro_batches) {
    const double share = 1.0 / static_cast<double>(ranks->size());
    const std::vector<Batch> batches = gather_batches(micro_batches, *ranks);
    // Backward sums over ranks: each gives its share of the same loss.
    const at::Tensor rows = dist::gather_rows(embedded, *ranks).rows;
    const at::Tensor all_taught = taught.defined() ? dist::gather_rows(taught, *ranks).rows : taught;
    LossSum result = whole(rows, all_taught, batches);
    if (result.sum.defined()) result.sum = result.sum * share;
    result.weight *= share;
    for (auto& [name, part] : result.parts) {
      part.sum *= share;
      part.weight *= share;
    }
    return result;
  };
  return shared;
}

}  // namespace bitrain::objectives
