#pragma once

#include <initializer_list>

#include <bitrain/base/error.h>

namespace bitrain {

/// The product of values that people choose, of which none is negative. Throws ConfigError where it cannot be
/// counted; `what` names them ("max_steps * rows_per_step").
template <class T>
[[nodiscard]] T checked_product(std::initializer_list<T> values, const char* what) {
  T product = 1;
  for (const T value : values)
    if (__builtin_mul_overflow(product, value, &product))
      throw ConfigError(what, " is beyond what can be counted: lower one of them");
  return product;
}

/// The sum likewise.
template <class T>
[[nodiscard]] T checked_sum(std::initializer_list<T> values, const char* what) {
  T sum = 0;
  for (const T value : values)
    if (__builtin_add_overflow(sum, value, &sum))
      throw ConfigError(what, " is beyond what can be counted: lower one of them");
  return sum;
}

}  // namespace bitrain
