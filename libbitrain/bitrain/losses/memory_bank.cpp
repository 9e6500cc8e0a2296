#include <bitrain/losses/memory_bank.h>

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>

namespace bitrain::losses {

LanguageMemoryBank::LanguageMemoryBank(std::int64_t languages, std::int64_t capacity, std::int64_t dim,
                                       at::TensorOptions options)
    : capacity_(capacity), dim_(dim), options_(options) {
  if (languages < 1 || capacity < 1 || dim < 1)
    throw ConfigError("a memory bank of ", languages, " languages, capacity ", capacity, " and width ", dim,
                      ": each must be at least 1");
  rings_.resize(static_cast<std::size_t>(languages));
}

void LanguageMemoryBank::push(const at::Tensor& embeddings, const std::vector<std::int32_t>& language_ids) {
  const at::NoGradGuard no_grad;
  if (!embeddings.defined() || embeddings.dim() != 2 || embeddings.size(1) != dim_ ||
      embeddings.size(0) != static_cast<std::int64_t>(language_ids.size())) {
    throw StateError("memory bank: embeddings must be [", language_ids.size(), ", ", dim_, "]",
                     embeddings.defined() ? to_text(", not ", embeddings.sizes()) : ", not undefined");
  }
  const at::Tensor rows = embeddings.detach().to(options_);
  std::vector<std::vector<std::int64_t>> of_language(rings_.size());
  for (std::size_t i = 0; i < language_ids.size(); ++i) {
    const std::int32_t language = language_ids[i];
    if (language < 0 || language >= static_cast<std::int64_t>(rings_.size()))
      throw DataError("memory bank: row ", i, " has language ", language, "; the bank has ", rings_.size());
    of_language[static_cast<std::size_t>(language)].push_back(static_cast<std::int64_t>(i));
  }
  const at::Tensor finite = at::isfinite(rows).all(1);
  if (!finite.all().item<bool>())
    throw DataError("memory bank: row ", finite.logical_not().to(at::kByte).argmax().item<std::int64_t>(),
                    " has NaN or infinity in its embedding");
  for (std::size_t language = 0; language < rings_.size(); ++language) {
    const std::vector<std::int64_t>& own = of_language[language];
    if (!own.empty()) append(rings_[language], rows.index_select(0, at::tensor(own).to(rows.device())));
  }
}

void LanguageMemoryBank::append(Ring& ring, const at::Tensor& embeddings) const {
  if (!ring.rows.defined()) ring.rows = at::empty({capacity_, dim_}, options_);
  const std::int64_t kept = std::min(embeddings.size(0), capacity_);  // The newest.
  const at::Tensor newest = embeddings.narrow(0, embeddings.size(0) - kept, kept);
  const std::int64_t before_end = std::min(kept, capacity_ - ring.next);
  ring.rows.narrow(0, ring.next, before_end).copy_(newest.narrow(0, 0, before_end));
  ring.rows.narrow(0, 0, kept - before_end).copy_(newest.narrow(0, before_end, kept - before_end));
  ring.next = (ring.next + kept) % capacity_;
  ring.size = std::min(ring.size + kept, capacity_);
}

const LanguageMemoryBank::Ring& LanguageMemoryBank::ring(std::int32_t language) const {
  if (language < 0 || language >= static_cast<std::int64_t>(rings_.size()))
    throw DataError("memory bank: there is no language ", language, "; the bank has ", rings_.size());
  return rings_[static_cast<std::size_t>(language)];
}

at::Tensor LanguageMemoryBank::candidates(std::int32_t language) const {
  const Ring& from = ring(language);
  if (from.size == 0) return at::empty({0, dim_}, options_);
  if (from.size < capacity_) return from.rows.narrow(0, 0, from.size).clone();
  return at::cat({from.rows.narrow(0, from.next, capacity_ - from.next), from.rows.narrow(0, 0, from.next)});
}

std::int64_t LanguageMemoryBank::size(std::int32_t language) const {
  return ring(language).size;
}

std::vector<std::pair<std::string, at::Tensor>> LanguageMemoryBank::state() const {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (std::size_t language = 0; language < rings_.size(); ++language) {
    if (rings_[language].size > 0)
      tensors.emplace_back(to_text("language.", language), candidates(static_cast<std::int32_t>(language)));
  }
  return tensors;
}

void LanguageMemoryBank::load_state(const Lookup& lookup) {
  const at::NoGradGuard no_grad;
  std::vector<Ring> loaded(rings_.size());
  for (std::size_t language = 0; language < rings_.size(); ++language) {
    const std::string name = to_text("language.", language);
    const std::optional<at::Tensor> saved = lookup(name);
    if (!saved) continue;
    if (saved->dim() != 2 || saved->size(1) != dim_ || saved->size(0) > capacity_)
      throw StateError("memory bank: the saved ", name, " ", saved->sizes(), " does not fit a capacity of ",
                       capacity_, " embeddings of width ", dim_);
    append(loaded[language], saved->detach());
  }
  rings_ = std::move(loaded);
}

}  // namespace bitrain::losses
