#include <bitrain/kernels/isa_support.h>

namespace bitrain::kernels::BITRAIN_ISA {
namespace {

constexpr Index kStripe = 2048;  // Elements that a thread takes at a time.

/// y = gelu(x) and its derivative.
struct Gelu {
  float value;
  float slope;
};

// x times the normal distribution function. Its lower tail is e^(-x^2 / 2) t P(t) with t = 1 / (1 + 0.265
// |x|) and P a polynomial fitted to a relative error of 1.1e-8, so small results keep their digits.
struct ExactGelu {
  [[gnu::always_inline]] static Gelu at(float x) {
    const float t = 1.0F / fma(0.265F, __builtin_fabsf(x), 1.0F);
    float p = fma(t, 0x1.fa79bcp-6F, -0x1.284526p-3F);
    p = fma(p, t, 0x1.bfdfcep-3F);
    p = fma(p, t, -0x1.e09c7cp-4F);
    p = fma(p, t, 0x1.1bdfe4p-3F);
    p = fma(p, t, 0x1.ebd5f4p-5F);
    p = fma(p, t, 0x1.a4f248p-4F);
    p = fma(p, t, 0x1.af0d12p-4F);
    p = fma(p, t, 0x1.b11ea6p-4F);
    const float bell = exp(-0.5F * x * x);
    const float tail = p * t * bell;
    const float share = x < 0.0F ? tail : 1.0F - tail;
    return {x * share, fma(x * 0.3989422804F, bell, share)};
  }
};

// x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): the same as x (1 + tanh u) / 2.
struct TanhGelu {
  [[gnu::always_inline]] static Gelu at(float x) {
    constexpr float kTwice = 1.5957691216F;  // 2 sqrt(2 / pi)
    const float square = x * x;
    const float share = sigmoid(kTwice * x * fma(0.044715F, square, 1.0F));
    const float rise = kTwice * fma(3.0F * 0.044715F, square, 1.0F);
    return {x * share, fma(x * share * (1.0F - share), rise, share)};
  }
};

template <class Form, class T>
void stripe(const T* x, Index n, T* y) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) store(y, i, Form::at(load(x, i)).value);
}

template <class Form, class T>
void stripe_backward(const T* dy, const T* x, Index n, T* dx) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) store(dx, i, load(dy, i) * Form::at(load(x, i)).slope);
}

template <class Function>
void with_form(bool tanh, const Function& f) {
  if (tanh) {
    f(TanhGelu{});
  } else {
    f(ExactGelu{});
  }
}

}  // namespace

void gelu(FloatType type, bool tanh, const void* x, Index n, void* y) {
  with_type(type, [&]<class T>(T*) {
    with_form(tanh, [&]<class Form>(Form) {
#pragma omp parallel for schedule(static) if (n > kParallelElements)
      for (Index i = 0; i < n; i += kStripe)
        stripe<Form>(static_cast<const T*>(x) + i, min(kStripe, n - i), static_cast<T*>(y) + i);
    });
  });
}

void gelu_backward(FloatType type, bool tanh, const void* dy, const void* x, Index n, void* dx) {
  with_type(type, [&]<class T>(T*) {
    with_form(tanh, [&]<class Form>(Form) {
#pragma omp parallel for schedule(static) if (n > kParallelElements)
      for (Index i = 0; i < n; i += kStripe) {
        stripe_backward<Form>(static_cast<const T*>(dy) + i, static_cast<const T*>(x) + i,
                              min(kStripe, n - i), static_cast<T*>(dx) + i);
      }
    });
  });
}

}  // namespace bitrain::kernels::BITRAIN_ISA
