#pragma once

#include <cstdint>
#include <string>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <gtest/gtest.h>

#include <bitrain/base/rng.h>

/// Embeddings to test on.
namespace bitrain::eval {

/// Standard normal values, others for every purpose.
inline at::Tensor draw(std::int64_t rows, std::int64_t dim, const std::string& purpose) {
  at::Tensor values = at::empty({rows, dim}, at::TensorOptions().dtype(at::kFloat));
  RandomStream stream(7, purpose);
  auto* to = values.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < values.numel(); ++i) to[i] = static_cast<float>(stream.normal());
  return values;
}

inline at::Tensor unit(const at::Tensor& x) {
  return x / at::linalg_vector_norm(x, 2, {1}, true);
}

inline at::Tensor random_rotation(std::int64_t dim) {
  return std::get<0>(at::linalg_qr(draw(dim, dim, "rotation")));
}

inline double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

/// What the error E that `function` throws says.
template <class E, class Function>
std::string message_of(const Function& function) {
  try {
    function();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "no such error";
  return "";
}

}  // namespace bitrain::eval
