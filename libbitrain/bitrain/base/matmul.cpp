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

// MKL shares longer sums out among threads where the product is small, and adds up what they have: another
// number of threads, another last bit. Pieces of this length it leaves whole (measured, on 1 to 16 threads).
constexpr std::int64_t kPiece = 256;
// Fewer rows than this times a transposed matrix take as long as reading it, which pieces slow down.
constexpr std::int64_t kFewRows = 64;

bool sums_in_pieces(const at::Tensor& a, const at::Tensor& b) {
  return a.is_cpu() && !is_narrow(a) && a.size(1) > kPiece && (a.size(0) >= kFewRows || b.stride(1) == 1);
}

/// Of a sum, what is multiplied first.
std::int64_t first_piece(const at::Tensor& a, const at::Tensor& b) {
  return sums_in_pieces(a, b) ? kPiece : a.size(1);
}

/// sum += scale a b, from place `begin` of the sums on.
void add_pieces(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, std::int64_t begin,
                double scale = 1) {
  const std::int64_t piece = first_piece(a, b);
  for (; begin < a.size(1); begin += piece) {
    const std::int64_t length = std::min(piece, a.size(1) - begin);
    sum.addmm_(a.narrow(1, begin, length), b.narrow(0, begin, length), 1, scale);
  }
}

/// a b + bias of matrices of one type.
at::Tensor sum_up(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  const std::int64_t first = first_piece(a, b);
  const at::Tensor left = a.narrow(1, 0, first);
  const at::Tensor right = b.narrow(0, 0, first);
  at::Tensor sum = bias.defined() ? at::addmm(bias, left, right) : at::mm(left, right);
  add_pieces(sum, a, b, first);
  return sum;
}

at::Tensor wide_product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  return sum_up(a.to(at::kFloat), b.to(at::kFloat), bias.defined() ? bias.to(at::kFloat) : bias);
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
  return sum_up(a, b, bias);
}

void product_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  if (is_wide(a, b)) {
    out.copy_(wide_product(a, b, bias));
    return;
  }
  at::Tensor sum = out;
  const std::int64_t first = first_piece(a, b);
  if (bias.defined()) {
    at::addmm_out(sum, bias, a.narrow(1, 0, first), b.narrow(0, 0, first));
  } else {
    at::mm_out(sum, a.narrow(1, 0, first), b.narrow(0, 0, first));
  }
  add_pieces(sum, a, b, first);
}

void add_product(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, double scale) {
  const bool wide = is_wide(a, b);
  at::Tensor target = wide ? sum.to(at::kFloat) : sum;
  if (wide) {
    add_pieces(target, a.to(at::kFloat), b.to(at::kFloat), 0, scale);
    sum.copy_(target);
  } else {
    add_pieces(target, a, b, 0, scale);
  }
}

}  // namespace bitrain
