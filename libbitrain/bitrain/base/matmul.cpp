#include <bitrain/base/matmul.h>

#include <algorithm>
#include <atomic>

#include <ATen/cpu/Utils.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

namespace bitrain {
namespace {

// Below this a copy of the operands costs more than the half of the products it saves.
constexpr std::int64_t kWorthCopying = 64;

NarrowProducts of_this_machine() {
#if defined(__x86_64__)
  const auto capabilities = at::cpu::get_cpu_capabilities();
  const auto has = [&capabilities](const char* name) {
    const auto found = capabilities.find(name);
    return found != capabilities.end() && found->second.isBool() && found->second.toBool();
  };
  if (has("amx_bf16")) return NarrowProducts::kQuick;
  if (!has("avx512_bf16")) return NarrowProducts::kAbsent;
  return __builtin_cpu_is("intel") != 0 ? NarrowProducts::kHalf : NarrowProducts::kQuick;
#else
  return NarrowProducts::kQuick;
#endif
}

std::atomic<NarrowProducts>& in_force() {
  static std::atomic<NarrowProducts> kind{of_this_machine()};
  return kind;
}

bool is_narrow(const at::Tensor& a) {
  return a.scalar_type() == at::kBFloat16 || a.scalar_type() == at::kHalf;
}

bool is_wide(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() != b.scalar_type() || computes_wide(a, b.size(1));
}

at::Tensor wide_product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  const at::Tensor wide_a = a.to(at::kFloat);
  const at::Tensor wide_b = b.to(at::kFloat);
  return bias.defined() ? at::addmm(bias.to(at::kFloat), wide_a, wide_b) : at::mm(wide_a, wide_b);
}

}  // namespace

NarrowProducts narrow_products() {
  return in_force();
}

NarrowProducts set_narrow_products(NarrowProducts kind) {
  return in_force().exchange(kind);
}

bool computes_wide(const at::Tensor& a, std::int64_t columns) {
  if (!is_narrow(a) || !a.is_cpu()) return false;
  const NarrowProducts kind = a.scalar_type() == at::kHalf ? NarrowProducts::kAbsent : narrow_products();
  if (kind != NarrowProducts::kHalf) return kind == NarrowProducts::kAbsent;
  return std::min({a.size(0), a.size(1), columns}) >= kWorthCopying;
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  if (is_wide(a, b)) return wide_product(a, b, bias).to(is_narrow(a) ? a.scalar_type() : b.scalar_type());
  return bias.defined() ? at::addmm(bias, a, b) : at::mm(a, b);
}

void product_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  at::Tensor target = out;
  if (is_wide(a, b)) {
    out.copy_(wide_product(a, b, bias));
  } else if (bias.defined()) {
    at::addmm_out(target, bias, a, b);
  } else {
    at::mm_out(target, a, b);
  }
}

void add_product(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, double scale) {
  if (!is_wide(a, b)) {
    at::Tensor target = sum;
    at::addmm_out(target, sum, a, b, 1, scale);
  } else {
    sum.copy_(at::addmm(sum.to(at::kFloat), a.to(at::kFloat), b.to(at::kFloat), 1, scale));
  }
}

}  // namespace bitrain
