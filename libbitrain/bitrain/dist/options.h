#pragma once

#include <cstdint>
#include <string>

#include <bitrain/fields/rule.h>

namespace bitrain::dist {

/// How the ranks of a run share its work. Nothing here changes what is computed but the order of sums (and
/// their precision, with reduce_dtype), so a run may go on with other values.
struct ParallelOptions {
  std::string backend = "auto";
  std::string shard = "none";
  std::int64_t context = 1;
  std::int64_t bucket_mib = 25;
  std::string reduce_dtype = "float32";
  std::int64_t timeout_seconds = 600;
  std::int64_t check_every = 0;
};

template <class Visitor>
void visit_fields(Visitor& v, ParallelOptions& o) {
  v.field("backend", o.backend, one_of({"auto", "gloo", "nccl"}),
          "How ranks talk; auto: nccl on GPUs, gloo on CPUs. gloo also serves ranks that share a GPU.");
  v.field(
      "shard", o.shard, one_of({"none", "optimizer", "gradients", "parameters"}),
      "What each rank holds only its share of. optimizer: moments and master weights (ZeRO-1); gradients: "
      "those and gradients (ZeRO-2); parameters: those and the weights of layers, frozen and 4-bit ones too, "
      "gathered layer by layer (ZeRO-3, FSDP).");
  v.field("context", o.context, at_least(1),
          "Ranks that share the tokens of the same rows, for rows that are too long for one; must divide the "
          "number of ranks and not exceed the attention heads.");
  v.field("bucket_mib", o.bucket_mib, in_range(1, 65536),
          "Gradients travel in pieces of about this size, while backward goes on.");
  v.field("reduce_dtype", o.reduce_dtype, one_of({"float32", "bfloat16"}),
          "What 16-bit gradients are summed in over ranks; bfloat16 halves the traffic and rounds.");
  v.field(
      "timeout_seconds", o.timeout_seconds, in_range(1, 1e9),
      "How long a rank waits for the others before the run ends with an error that names who is missing.");
}

}  // namespace bitrain::dist
