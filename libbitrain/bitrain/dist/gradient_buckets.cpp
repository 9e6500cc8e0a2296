#include <bitrain/dist/gradient_buckets.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <bitrain/base/error.h>
#include <bitrain/dist/gather_text.h>

namespace bitrain::dist {
namespace {

bool is_narrow(at::ScalarType type) {
  return type == at::kBFloat16 || type == at::kHalf;
}

/// On a CPU a gradient of this size travels by itself, from where autograd has put it: copying it costs more
/// than a message of its own, about a millisecond on a busy core. On GPUs copies are cheap.
constexpr std::int64_t kByItself = std::int64_t{8} << 20;

/// Whether a leaf's gradient, in its hook, has its memory for itself: the leaf and the autograd node that has
/// just put it there are all that refer to it.
bool has_own_memory(const at::Tensor& gradient) {
  return gradient.is_contiguous() && gradient.storage_offset() == 0 && gradient.storage().use_count() <= 2;
}

}  // namespace

struct GradientBuckets::Buckets {
  /// Where a parameter lies.
  struct Place {
    std::size_t bucket = 0;
    std::int64_t offset = 0;
    bool touched = false;  ///< Has a gradient in the buffer.
    bool seen = false;     ///< Had one in this step.
    bool arrived = false;  ///< Had one in this pass.
  };

  struct Bucket {
    std::vector<std::size_t> members;
    at::ScalarType type = at::kFloat;     ///< Of the parameters.
    std::int64_t unit = -1;               ///< Of a model, or none.
    std::int64_t numel = 0;               ///< A multiple of the number of ranks: the end is not used.
    at::Tensor buffer;                    ///< [numel] sums of this rank, then of all.
    at::Tensor own;                       ///< [numel / ranks] this rank's share of the sum.
    at::Tensor wire;                      ///< What travels, where that is not the buffer.
    at::Tensor arriving;                  ///< The share as it travels.
    std::shared_ptr<ShardedBlock> block;  ///< With `shard`: the parameters.
    std::size_t waiting = 0;              ///< Gradients of this pass that are not there yet.
    bool by_itself = false;               ///< One parameter, whose gradient may be the buffer.
    bool sent = false;
    Pending pending;
  };

  std::vector<at::Tensor> parameters;
  std::vector<std::string> names;
  std::shared_ptr<Communicator> ranks;
  BucketOptions options;
  std::vector<Place> places;
  std::vector<Bucket> buckets;
  std::vector<Slice> slices;
  std::vector<std::size_t> bucket_of_slice;
  bool by_units = false;
  bool sending = false;         ///< This pass sends what is complete.
  std::size_t next = 0;         ///< The bucket to be sent next: all ranks send in one order.
  std::deque<std::size_t> out;  ///< Sent, not arrived.

  [[nodiscard]] at::ScalarType sum_type(const Bucket& bucket) const {
    const bool wide = options.accumulate_in_float32 || !options.reduce_narrow;
    return is_narrow(bucket.type) && wide ? at::kFloat : bucket.type;
  }
  [[nodiscard]] at::ScalarType wire_type(const Bucket& bucket) const {
    return is_narrow(bucket.type) && !options.reduce_narrow ? at::kFloat : bucket.type;
  }
  [[nodiscard]] std::int64_t own_numel(const Bucket& bucket) const { return bucket.numel / ranks->size(); }

  void fill_buckets(const std::vector<std::int64_t>& unit_of) {
    places.resize(parameters.size());
    for (std::size_t i = parameters.size(); i-- > 0;) {
      const at::Tensor& parameter = parameters[i];
      const std::int64_t unit = unit_of.empty() ? -1 : unit_of[i];
      const bool by_itself =
          unit < 0 && parameter.is_cpu() && static_cast<std::int64_t>(parameter.nbytes()) >= kByItself;
      const auto fits = [&](const Bucket& bucket) {
        if (by_itself || bucket.by_itself) return false;
        const auto bytes = (bucket.numel + parameter.numel()) * c10::elementSize(wire_type(bucket));
        return bucket.unit == unit && bucket.type == parameter.scalar_type() &&
               (unit >= 0 || static_cast<std::int64_t>(bytes) <= options.bucket_bytes);
      };
      if (buckets.empty() || !fits(buckets.back())) {
        buckets.emplace_back();
        buckets.back().type = parameter.scalar_type();
        buckets.back().unit = unit;
        buckets.back().by_itself = by_itself;
      }
      Bucket& bucket = buckets.back();
      places[i].bucket = buckets.size() - 1;
      bucket.members.push_back(i);
      bucket.numel += parameter.numel();
    }
    for (Bucket& bucket : buckets) {
      const FlatLayout layout = lay_out(members_of(bucket), ranks->size());
      for (std::size_t m = 0; m < bucket.members.size(); ++m)
        places[bucket.members[m]].offset = layout.offsets[m];
      bucket.numel = layout.numel;
    }
  }

  [[nodiscard]] std::vector<at::Tensor> members_of(const Bucket& bucket) const {
    std::vector<at::Tensor> members;
    for (const std::size_t i : bucket.members) members.push_back(parameters[i]);
    return members;
  }

  void take_over_parameters(const BucketUnits& units) {
    for (std::size_t b = 0; b < buckets.size(); ++b) {
      Bucket& bucket = buckets[b];
      const auto unit = static_cast<std::size_t>(bucket.unit);
      if (bucket.unit >= 0) units.before(unit);
      bucket.block =
          std::make_shared<ShardedBlock>(members_of(bucket), ranks, "parameters " + std::to_string(b));
      if (bucket.unit >= 0) {
        bucket.block->keep_share(units.pool);
        units.after(unit, bucket.block);
      }
      for (std::size_t m = 0; m < bucket.members.size(); ++m) {
        const auto [begin, end] = bucket.block->owned_of(m);
        if (begin == end) continue;
        slices.push_back({bucket.members[m], begin, end});
        bucket_of_slice.push_back(b);
      }
    }
  }

  /// Where a slice lies in the part of its bucket that this rank owns.
  [[nodiscard]] at::Tensor own_part(std::size_t index, const at::Tensor& own) const {
    const Slice& slice = slices[index];
    const std::int64_t first = ranks->rank() * own_numel(buckets[bucket_of_slice[index]]);
    return own.narrow(0, places[slice.parameter].offset + slice.begin - first, slice.end - slice.begin);
  }

  void take(std::size_t i) {
    const at::NoGradGuard no_grad;
    Place& place = places[i];
    Bucket& bucket = buckets[place.bucket];
    at::Tensor& gradient = parameters[i].mutable_grad();
    if (!gradient.defined()) return;
    if (bucket.sent)
      throw StateError("the gradient of ", names[i],
                       " came after its bucket had left: it is used more than once in a backward pass");
    if (place.touched) {
      view_of(bucket.buffer, i).add_(gradient);
    } else if (bucket.by_itself && gradient.numel() == bucket.numel &&
               gradient.scalar_type() == sum_type(bucket) && has_own_memory(gradient)) {
      bucket.buffer = gradient.view(-1);
    } else {
      if (!bucket.buffer.defined())
        bucket.buffer = at::empty({bucket.numel}, gradient.options().dtype(sum_type(bucket)));
      view_of(bucket.buffer, i).copy_(gradient);
    }
    gradient.reset();
    if (!place.arrived) --bucket.waiting;
    place.touched = place.seen = place.arrived = true;
    // What units have is sent where they end, at the same point of the pass on all ranks: they also gather.
    if (sending && !by_units) send_complete();
  }

  [[nodiscard]] at::Tensor view_of(const at::Tensor& flat, std::size_t i) const {
    return flat.narrow(0, places[i].offset, parameters[i].numel()).view(parameters[i].sizes());
  }

  void start_pass(bool send) {
    sending = send;
    next = 0;
    for (Bucket& bucket : buckets) {
      bucket.sent = false;
      bucket.waiting = bucket.members.size();
    }
    for (Place& place : places) place.arrived = false;
  }

  void send_complete() {
    while (next < buckets.size() && buckets[next].waiting == 0) send(next++);
  }

  void send_rest() {
    while (next < buckets.size()) send(next++);
    while (!out.empty()) receive_first();
  }

  void send(std::size_t index) {
    const at::NoGradGuard no_grad;
    Bucket& bucket = buckets[index];
    const at::TensorOptions like = parameters[bucket.members.front()].options().requires_grad(false);
    if (!bucket.buffer.defined()) bucket.buffer = at::empty({bucket.numel}, like.dtype(sum_type(bucket)));
    std::int64_t end = 0;
    for (const std::size_t i : bucket.members) {  // What no gradient is in must not hold NaN.
      bucket.buffer.narrow(0, end, places[i].offset - end).zero_();
      if (!places[i].touched) view_of(bucket.buffer, i).zero_();
      end = places[i].offset + parameters[i].numel();
    }
    bucket.buffer.narrow(0, end, bucket.numel - end).zero_();
    const bool converts = wire_type(bucket) != sum_type(bucket);
    bucket.wire = converts ? bucket.buffer.to(wire_type(bucket)) : bucket.buffer;
    const std::string what = to_text("gradients ", index);
    if (options.shard) {
      bucket.arriving = at::empty({own_numel(bucket)}, like.dtype(wire_type(bucket)));
      bucket.pending = ranks->start_reduce_scatter(bucket.arriving, bucket.wire, what);
    } else {
      bucket.pending = ranks->start_all_reduce(bucket.wire, what);
    }
    bucket.sent = true;
    out.push_back(index);
    // Memory for two on their way; the one before has had the time of a bucket to arrive.
    constexpr std::size_t kOnTheWay = 2;
    if (options.shard_gradients && out.size() > kOnTheWay) receive_first();
  }

  void receive_first() {
    const at::NoGradGuard no_grad;
    Bucket& bucket = buckets[out.front()];
    out.pop_front();
    bucket.pending.wait();
    if (options.shard) {
      if (bucket.own.defined()) {
        bucket.own.add_(bucket.arriving);
      } else {
        bucket.own = bucket.arriving.to(sum_type(bucket));
      }
      bucket.arriving.reset();
    } else if (!bucket.wire.is_same(bucket.buffer)) {
      bucket.buffer.copy_(bucket.wire);
    }
    bucket.wire.reset();
    if (options.shard_gradients) {
      bucket.buffer.reset();
      for (const std::size_t i : bucket.members) places[i].touched = false;
    }
  }

  void reset() {
    for (Place& place : places) place.touched = place.seen = false;
    for (Bucket& bucket : buckets) {
      bucket.own.reset();
      if (bucket.by_itself) bucket.buffer.reset();
    }
    for (at::Tensor& parameter : parameters) parameter.mutable_grad().reset();
  }
};

namespace {

/// Calls back when autograd has put a gradient into a leaf.
struct TakeGradient : torch::autograd::PostAccumulateGradHook {
  explicit TakeGradient(std::function<void()> take) : take_(std::move(take)) {}
  void operator()(const torch::autograd::Variable& /*leaf*/) override { take_(); }

 private:
  std::function<void()> take_;
};

}  // namespace

GradientBuckets::GradientBuckets(const std::vector<at::Tensor>& parameters, std::vector<std::string> names,
                                 std::shared_ptr<Communicator> ranks, const BucketOptions& options,
                                 const BucketUnits& units)
    : buckets_(std::make_shared<Buckets>()) {
  Buckets& b = *buckets_;
  b.parameters = parameters;
  b.names = std::move(names);
  b.ranks = std::move(ranks);
  b.options = options;
  if (options.shard_gradients && !options.shard) throw StateError("shard_gradients needs shard");
  if (!units.unit_of.empty() && !options.shard_gradients) throw StateError("units need shard_gradients");
  b.by_units = !units.unit_of.empty();
  b.fill_buckets(units.unit_of);
  if (options.shard) b.take_over_parameters(units);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    // Not by a shared pointer: the leaf outlives the buckets, and the destructor takes the hook away.
    torch::autograd::impl::set_post_acc_grad_hooks(
        parameters[i], std::make_unique<TakeGradient>([buckets = buckets_.get(), i] { buckets->take(i); }));
  }
}

GradientBuckets::~GradientBuckets() {
  for (const at::Tensor& parameter : buckets_->parameters)
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
}

void GradientBuckets::begin() {
  buckets_->reset();
  buckets_->start_pass(false);
}

void GradientBuckets::before_backward(bool last) {
  buckets_->start_pass(last || buckets_->options.shard_gradients);
}

void GradientBuckets::after_backward() {
  if (buckets_->options.shard_gradients) buckets_->send_rest();
}

void GradientBuckets::unit_is_complete(std::int64_t unit) {
  Buckets& b = *buckets_;
  std::size_t end = b.buckets.size();
  while (end > b.next && b.buckets[end - 1].unit != unit) --end;
  while (b.next < end) b.send(b.next++);
}

std::vector<bool> GradientBuckets::finish() {
  Buckets& b = *buckets_;
  // Nothing has left where this rank had no last backward pass, or none at all.
  if (!b.options.shard_gradients) b.send_rest();
  std::vector<bool> seen;
  for (const Buckets::Place& place : b.places) seen.push_back(place.seen);
  return seen;
}

at::Tensor GradientBuckets::gradient(std::size_t index) const {
  const Buckets& b = *buckets_;
  if (!b.options.shard) return b.view_of(b.buckets[b.places[index].bucket].buffer, index);
  return b.own_part(index, b.buckets[b.bucket_of_slice[index]].own);
}

at::Tensor GradientBuckets::slice(std::size_t index) const {
  const at::NoGradGuard no_grad;
  return buckets_->own_part(index, buckets_->buckets[buckets_->bucket_of_slice[index]].block->own());
}

const std::vector<Slice>& GradientBuckets::slices() const {
  return buckets_->slices;
}

void GradientBuckets::gather_parameters() {
  const at::NoGradGuard no_grad;
  Buckets& b = *buckets_;
  for (Buckets::Bucket& bucket : b.buckets) {
    bucket.block->parts_changed();
    if (bucket.unit < 0) bucket.block->start_gather();
  }
  for (Buckets::Bucket& bucket : b.buckets) bucket.block->wait();
}

std::int64_t GradientBuckets::gradient_bytes() const {
  std::int64_t bytes = 0;
  for (const Buckets::Bucket& bucket : buckets_->buckets)
    for (const at::Tensor* tensor : {&bucket.buffer, &bucket.own, &bucket.arriving})
      if (tensor->defined()) bytes += static_cast<std::int64_t>(tensor->nbytes());
  return bytes;
}

void check_same(const std::vector<at::Tensor>& parameters, const std::vector<std::string>& names,
                Communicator& ranks) {
  if (ranks.size() == 1) return;
  // Sums of the bits with changing weights: the same bits give the same sum anywhere.
  std::string text;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor host = parameters[i].detach().cpu().contiguous();
    const auto* bytes = static_cast<const unsigned char*>(host.const_data_ptr());
    std::uint64_t sum = 0xcbf29ce484222325;
    const std::size_t count = host.nbytes();
    std::size_t at = 0;
    for (; at + 8 <= count; at += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes + at, 8);
      sum = (sum ^ word) * 0x9e3779b97f4a7c15;
      sum ^= sum >> 29;
    }
    for (; at < count; ++at) sum = (sum ^ bytes[at]) * 0x100000001b3;
    text += to_text(names[i], ' ', host.scalar_type(), host.sizes(), ' ', sum, '\n');
  }
  const std::vector<std::string> all = gather_text(text, ranks, "checksums of parameters");
  for (std::size_t r = 1; r < all.size(); ++r) {
    if (all[r] == all[0]) continue;
    const auto differs = std::mismatch(all[0].begin(), all[0].end(), all[r].begin(), all[r].end());
    const auto line_of = [](const std::string& whole, std::string::const_iterator place) {
      const std::size_t at = static_cast<std::size_t>(place - whole.begin());
      const std::size_t begin = at == 0 ? 0 : whole.rfind('\n', at - 1) + 1;
      return whole.substr(begin, whole.find('\n', at) - begin);
    };
    throw RankError("ranks do not hold the same parameters: rank 0 has ", line_of(all[0], differs.first),
                    ", rank ", r, " has ", line_of(all[r], differs.second), " (name, shape, checksum)");
  }
}

}  // namespace bitrain::dist
