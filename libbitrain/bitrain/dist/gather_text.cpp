#include <bitrain/dist/gather_text.h>

#include <algorithm>
#include <cstring>

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

namespace bitrain::dist {

std::vector<std::string> gather_text(const std::string& text, Communicator& group, const std::string& what) {
  if (group.size() == 1) return {text};
  const auto options = at::TensorOptions().dtype(at::kLong);
  const at::Tensor sizes =
      group.all_gather(at::full({1}, static_cast<std::int64_t>(text.size()), options), what);
  const auto* size_of = sizes.const_data_ptr<std::int64_t>();
  const std::int64_t most = std::max<std::int64_t>(1, *std::max_element(size_of, size_of + group.size()));
  at::Tensor own = at::empty({most}, options.dtype(at::kByte));
  std::memcpy(own.mutable_data_ptr(), text.data(), text.size());
  const at::Tensor all = group.all_gather(own, what);
  std::vector<std::string> texts;
  for (std::int64_t r = 0; r < group.size(); ++r)
    texts.emplace_back(static_cast<const char*>(all.const_data_ptr()) + r * most,
                       static_cast<std::size_t>(size_of[r]));
  return texts;
}

std::string broadcast_text(const std::string& text, std::int64_t root, Communicator& group,
                           const std::string& what) {
  return gather_text(group.rank() == root ? text : std::string(), group,
                     what)[static_cast<std::size_t>(root)];
}

}  // namespace bitrain::dist
