#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::nn {

/// A LoRA pair on a linear map, an embedding or a head (Hu et al. 2021): the map's weight W [out, in] acts as
/// W + scale * B A. Plain data: `adapters` makes and attaches it, `nn` computes with it.
struct LowRank {
  std::string name = "default";
  at::Tensor a;          ///< [r, in]; for an embedding [r, vocab] (Hugging Face's lora_embedding_A).
  at::Tensor b;          ///< [out, r]; for an embedding [dim, r].
  double scale = 1.0;    ///< lora_alpha / r, or lora_alpha / sqrt(r) with rsLoRA.
  double dropout = 0.0;  ///< On the adapter's input, in training only.
  bool enabled = true;
  std::uint64_t dropout_stream = 0;  ///< Distinguishes the adapters of a model in the dropout key.
};

/// Rows of an embedding or head trained apart from the frozen rest (PEFT's trainable_token_indices).
struct TrainableRows {
  at::Tensor indices;  ///< [n] int64, sorted and unique.
  at::Tensor rows;     ///< [n, dim]: replacement rows, not differences.
};

/// Calls `visit` for every tensor of these.
inline void visit_parts(std::vector<LowRank>& adapters, std::optional<TrainableRows>& rows,
                        const std::function<void(at::Tensor&)>& visit) {
  for (LowRank& adapter : adapters) {
    visit(adapter.a);
    visit(adapter.b);
  }
  if (!rows) return;
  visit(rows->indices);
  visit(rows->rows);
}

}  // namespace bitrain::nn
