#include <thread>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/base/cuda_library.h>
#include <bitrain/eval/search.h>
#include <bitrain/losses/info_nce.h>
#include <bitrain/models/llama/config.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/models/quantize.h>
#include <bitrain/nn/unit_rows.h>
#include <bitrain/train/peak_memory.h>

#include "case.h"
#include "cases/models.h"

namespace bitrain::benchmarks {
namespace {

const at::Device kCuda(at::kCUDA, 0);

void start() {
  require_cuda();
  at::set_num_threads(static_cast<int>(std::thread::hardware_concurrency()));
}

/// Seconds of a call and of what it started on the GPU.
Timing time_device(int repeats, const std::function<void()>& work) {
  return time_calls(repeats, [&] {
    work();
    c10::impl::VirtualGuardImpl(at::kCUDA).synchronizeDevice(0);
  });
}

double peak_device_gib() {
  return static_cast<double>(train::peak_memory_bytes(kCuda)) / (1 << 30);
}

at::TensorOptions options_of(at::ScalarType dtype) {
  return at::TensorOptions().dtype(dtype).device(kCuda);
}

}  // namespace

/// What the card gives: a bfloat16 product, and a copy, counting what is read and written.
void bench_gpu_limit() {
  start();
  const at::Tensor a = at::randn({8192, 8192}, options_of(at::kBFloat16));
  const at::Tensor b = at::randn({8192, 8192}, options_of(at::kBFloat16));
  at::Tensor c = at::empty_like(a);
  const Timing product = time_device(20, [&] { at::mm_out(c, a, b); });
  const at::Tensor from = at::empty({std::int64_t{1} << 30}, options_of(at::kBFloat16));
  const at::Tensor to = at::empty_like(from);
  const Timing copy = time_device(20, [&] { to.copy_(from); });
  report("gpu_limit",
         {{"tflops", 2 * 8192.0 * 8192 * 8192 / product.median / 1e12},
          {"terabytes_per_second", 2.0 * static_cast<double>(from.nbytes()) / copy.median / 1e12}});
}

/// NF4 with double quantisation of 2^30 bfloat16 weights.
void bench_gpu_nf4() {
  start();
  const at::Tensor weight = at::randn({1 << 15, 1 << 15}, options_of(at::kBFloat16));
  quant::QuantizedTensor packed;
  const Timing quantise = time_device(10, [&] { packed = quant::quantize(weight); });
  const at::Tensor out = at::empty_like(weight);
  const Timing dequantise = time_device(20, [&] { quant::dequantize(packed, at::kBFloat16, out); });
  const auto weights = static_cast<double>(weight.numel());
  report("gpu_nf4", {{"quantise_gweights_per_second", weights / quantise.median / 1e9},
                     {"dequantise_gweights_per_second", weights / dequantise.median / 1e9}});
}

/// InfoNCE of 65,536 float32 queries and candidates of 1,024 features, forward and backward.
void bench_gpu_info_nce() {
  start();
  const at::Tensor queries = at::randn({65536, 1024}, options_of(at::kFloat)).requires_grad_();
  const at::Tensor candidates = at::randn({65536, 1024}, options_of(at::kFloat)).requires_grad_();
  const double before = peak_device_gib();
  const Timing timing = time_device(3, [&] {
    queries.mutable_grad() = at::Tensor();
    candidates.mutable_grad() = at::Tensor();
    losses::info_nce(queries, candidates).sum.backward();
  });
  report("gpu_info_nce", {{"seconds", timing.median}, {"added_device_gib", peak_device_gib() - before}});
}

/// Exact search of 10,000 queries among a million bfloat16 candidates.
void bench_gpu_search() {
  start();
  const at::Tensor corpus =
      nn::unit_rows(at::randn({1'000'000, 384}, options_of(at::kFloat))).to(at::kBFloat16);
  const at::Tensor queries =
      nn::unit_rows(at::randn({10'000, 384}, options_of(at::kFloat))).to(at::kBFloat16);
  eval::SearchOptions options;
  options.similarity = "dot";
  const Timing timing = time_device(3, [&] { (void)eval::search(queries, corpus, options); });
  report("gpu_search", {{"queries_per_second", static_cast<double>(queries.size(0)) / timing.median},
                        {"peak_device_gib", peak_device_gib()}});
}

/// QLoRA of Llama-2-7B's shape: NF4 with double quantisation, rank 64 on all linear maps, 4 x 2,048 tokens a
/// step, nothing recomputed.
void bench_gpu_qlora() {
  start();
  models::LlamaConfig config;
  config.vocab_size = 32000;
  config.hidden_size = 4096;
  config.num_hidden_layers = 32;
  config.num_attention_heads = 32;
  config.intermediate_size = 11008;
  const auto model = models::make_llama(config, options_of(at::kBFloat16));
  model->visit_tensors([](const std::string&, at::Tensor& tensor) { tensor.normal_(0, 0.02); });
  models::quantize(*model);
  adapters::LoraOptions lora;
  lora.r = 64;
  lora.lora_alpha = 16;
  lora.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  adapters::attach(*model, lora, 0);
  Steps steps(*model, random_batch(4, 2048, 32000).to(kCuda));
  const Timing timing = time_device(4, [&] { steps(); });
  report("gpu_qlora",
         {{"tokens_per_second", 4 * 2048 / timing.median}, {"peak_device_gib", peak_device_gib()}});
}

}  // namespace bitrain::benchmarks
