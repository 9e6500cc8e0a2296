#include <bitrain/train/background_save.h>

#include <utility>

#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/dist/gather_text.h>

namespace bitrain::train {
namespace {

optim::NamedTensors copied(const optim::NamedTensors& tensors) {
  const at::NoGradGuard no_grad;
  optim::NamedTensors copies;
  for (const auto& [name, tensor] : tensors)
    copies.emplace_back(name,
                        tensor.to(at::kCPU, tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true));
  return copies;
}

}  // namespace

BackgroundSave::BackgroundSave(const CheckpointStore& store, std::int64_t step,
                               const CheckpointStore::Contents& contents, dist::Communicator& ranks,
                               std::chrono::seconds timeout)
    : step_(step),
      target_(store.path(step)),
      state_(*contents.state),
      rank_(ranks.rank()),
      ranks_(ranks.size()),
      timeout_(timeout) {
  const bool writes_all = rank_ == 0;
  contents_.sharded = contents.sharded;
  contents_.sharded_weights = contents.sharded_weights;
  contents_.state = &state_;
  if (writes_all || contents.sharded_weights) contents_.trainable = copied(contents.trainable);
  if (writes_all || contents.sharded) contents_.optimizer = copied(contents.optimizer);
  if (writes_all) contents_.extra = copied(contents.extra);
  if (writes_all) {
    folder_ = std::make_unique<io::AtomicDirectory>(target_);
    aside_ = folder_->path();
    if (contents.save_weights) contents.save_weights(aside_.string());
  }
  if (contents.sharded)
    aside_ = dist::broadcast_text(aside_.string(), 0, ranks, "the folder of a checkpoint");
  std::packaged_task<void()> task([this] { write(); });
  written_ = task.get_future();
  thread_ = std::thread(std::move(task));
}

BackgroundSave::~BackgroundSave() {
  cancelled_ = true;
  if (thread_.joinable()) thread_.join();
}

bool BackgroundSave::done() const {
  return written_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

std::filesystem::path BackgroundSave::finish() {
  try {
    written_.get();
  } catch (Error& error) {
    error.add_context("cannot save " + target_.string());
    throw;
  } catch (const std::filesystem::filesystem_error& error) {
    throw IoError("cannot save ", target_.string(), ": ", error.what());
  }
  return target_;
}

void BackgroundSave::write() {
  if (contents_.sharded) write_slice(aside_, contents_, rank_, ranks_);
  if (rank_ > 0) return;
  write_files(aside_, contents_);
  if (contents_.sharded) wait_for_slices();
  write_manifest(aside_);
  folder_->commit();
}

void BackgroundSave::wait_for_slices() const {
  const auto until = std::chrono::steady_clock::now() + timeout_;
  for (std::int64_t r = 0; r < ranks_; ++r) {
    // Files appear whole, under their names.
    while (!std::filesystem::exists(aside_ / slice_file(r, ranks_))) {
      if (cancelled_) throw StateError("given up");
      if (std::chrono::steady_clock::now() > until)
        throw IoError("rank ", r, " has not written its slices within ", timeout_.count(), " s");
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
}

}  // namespace bitrain::train
