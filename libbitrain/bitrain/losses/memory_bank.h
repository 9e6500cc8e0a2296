#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::losses {

/// Embeddings of earlier batches as negatives, first in first out, each language by itself: with candidates
/// of other languages a model learns to tell languages apart and no more (CCP, Wu et al. 2022). Nothing in it
/// ever has a gradient. A language takes memory from its first embedding on.
class LanguageMemoryBank {
 public:
  /// Keeps the last `capacity` embeddings of width `dim` for each of `languages` languages, of the dtype
  /// and on the device of `options`. Throws ConfigError for numbers below 1.
  LanguageMemoryBank(std::int64_t languages, std::int64_t capacity, std::int64_t dim,
                     at::TensorOptions options = at::kFloat);

  /// Adds embeddings [B, D] (detached), row i to language_ids[i] (Batch::language_ids); the oldest give way.
  /// Before anything is changed throws StateError for shapes that do not fit, DataError naming the row for a
  /// language outside the bank, or for NaN or infinity.
  void push(const at::Tensor& embeddings, const std::vector<std::int32_t>& language_ids);

  /// A copy of the embeddings of a language, [n, D] with n <= capacity, oldest first: a later push does not
  /// change what a loss has kept. Throws DataError for a language outside the bank.
  [[nodiscard]] at::Tensor candidates(std::int32_t language) const;
  [[nodiscard]] std::int64_t size(std::int32_t language) const;

  /// For checkpoints: "language.<id>" is candidates(id) of each language that has any.
  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> state() const;
  /// Finds a tensor by name, or nothing.
  using Lookup = std::function<std::optional<at::Tensor>(const std::string& name)>;
  /// Takes a saved state in the place of everything held. Throws StateError, before anything is changed, when
  /// a tensor does not fit the bank's width or capacity.
  void load_state(const Lookup& lookup);

 private:
  struct Ring {
    at::Tensor rows;        ///< [capacity, D], undefined until the first embedding.
    std::int64_t size = 0;  ///< Rows in use.
    std::int64_t next = 0;  ///< Where the next embedding goes: the oldest, once all are in use.
  };

  void append(Ring& ring, const at::Tensor& embeddings) const;
  [[nodiscard]] const Ring& ring(std::int32_t language) const;

  std::int64_t capacity_;
  std::int64_t dim_;
  at::TensorOptions options_;
  std::vector<Ring> rings_;
};

}  // namespace bitrain::losses
