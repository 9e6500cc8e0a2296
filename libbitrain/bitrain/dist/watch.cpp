#include <bitrain/dist/watch.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain::dist {
namespace {

using std::chrono::milliseconds;

/// How often a rank says that it lives. A thousand ranks are a thousand small writes a second at most.
milliseconds beat_interval(milliseconds timeout) {
  return std::clamp(timeout / 20, milliseconds(50), milliseconds(1000));
}

/// What a rank says of itself.
struct Beat {
  std::int64_t count = 0;    ///< Grows while the process runs.
  std::int64_t entered = 0;  ///< Collectives entered so far.
  char state = 'r';          ///< r: runs; f: failed; d: has left in order.
  std::string text;          ///< The collective it entered last, or why it failed.
  std::string who;
};

std::string text_of(const Beat& beat) {
  std::string text = beat.text;
  std::replace(text.begin(), text.end(), '\t', ' ');
  return to_text(beat.count, '\t', beat.entered, '\t', beat.state, '\t', beat.who, '\t', text);
}

Beat beat_from(const std::string& text) {
  const std::vector<std::string> parts = split(text, '\t');
  if (parts.size() != 5 || parts[2].size() != 1) throw StateError("the store holds no beat: ", text);
  return {std::stoll(parts[0]), std::stoll(parts[1]), parts[2][0], parts[4], parts[3]};
}

std::string key_of(std::int64_t rank) {
  return to_text("beat/", rank);
}

/// The beats of all ranks that ever had one.
std::vector<std::optional<Beat>> read_beats(c10d::Store& store, std::int64_t size) {
  std::vector<std::optional<Beat>> beats(static_cast<std::size_t>(size));
  for (std::int64_t r = 0; r < size; ++r)
    if (store.check({key_of(r)})) beats[static_cast<std::size_t>(r)] = beat_from(store.get_to_str(key_of(r)));
  return beats;
}

std::string join_ranks(const std::vector<std::int64_t>& ranks) {
  constexpr std::size_t kShown = 16;
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < std::min(ranks.size(), kShown); ++i)
    text += to_text(i > 0 ? ", " : "", ranks[i]);
  if (ranks.size() > kShown) text += to_text(" and ", ranks.size() - kShown, " more");
  return text;
}

/// What two looks at the beats of all ranks say.
std::string judge(std::int64_t own, const Beat& mine, const std::vector<std::optional<Beat>>& before,
                  const std::vector<std::optional<Beat>>& after) {
  std::vector<std::string> causes;
  std::vector<std::int64_t> here = {own};
  std::vector<std::string> behind;
  for (std::size_t r = 0; r < after.size(); ++r) {
    const auto rank = static_cast<std::int64_t>(r);
    if (rank == own) continue;
    if (!after[r]) {
      causes.push_back(to_text("rank ", rank, " never came"));
      continue;
    }
    const Beat& beat = *after[r];
    const std::string name = to_text("rank ", rank, " (", beat.who, ")");
    if (beat.state == 'd') {
      causes.push_back(name + " has ended its run already");
    } else if (beat.state == 'f') {
      // A rank that failed because of another one is no cause.
      if (!beat.text.empty()) causes.push_back(to_text(name, " failed: ", beat.text));
    } else if (before[r] && before[r]->count == beat.count) {
      causes.push_back(to_text(name, " is silent: killed, stopped or cut off; it was last in ",
                               beat.text.empty() ? "no collective" : beat.text));
    } else if (beat.entered != mine.entered || beat.text != mine.text) {
      behind.push_back(
          to_text(name, " is alive, in its collective number ", beat.entered, " (", beat.text, ")"));
    } else {
      here.push_back(rank);
    }
  }
  if (causes.empty() && !behind.empty()) {
    causes.push_back(to_text(join(behind, "; "), "; ", join_ranks(here), " in number ", mine.entered,
                             ": slower than the timeout allows, or the ranks do not run the same program"));
  }
  if (causes.empty()) return "all ranks answer: the network between them may be cut";
  std::string text = join(causes, "; ");
  if (here.size() > 1) text += to_text("; ", join_ranks(here), " waited");
  return text;
}

}  // namespace

/// What threads share; it outlives the Watch where one of them hangs on a store that is gone.
struct Watch::Shared {
  StorePtr writer;
  StorePtr reader;
  std::int64_t rank = 0;
  std::int64_t size = 1;
  std::string place;
  milliseconds interval{};
  milliseconds timeout{};
  std::mutex mutex;
  std::condition_variable changed;
  Beat beat;
  bool urgent = false;  ///< To be said at once.
  bool stop = false;
  bool stopped = false;

  void run() {
    std::unique_lock lock(mutex);
    while (!stop) {
      publish(lock);
      changed.wait_for(lock, interval, [this] { return stop || urgent; });
    }
    publish(lock);
    stopped = true;
    changed.notify_all();
  }

  void publish(std::unique_lock<std::mutex>& lock) {
    ++beat.count;
    urgent = false;
    const std::string text = text_of(beat);
    lock.unlock();
    try {
      writer->set(key_of(rank), text);
    } catch (const std::exception&) {
      // The store is gone: a collective will fail, and explain() say so.
    }
    lock.lock();
  }
};

Watch::Watch(const StorePtr& store, std::int64_t rank, std::int64_t size, std::string who, std::string place,
             milliseconds timeout)
    : shared_(std::make_shared<Shared>()) {
  shared_->writer = store->clone();
  shared_->reader = store->clone();
  shared_->rank = rank;
  shared_->size = size;
  shared_->place = std::move(place);
  shared_->interval = beat_interval(timeout);
  shared_->timeout = timeout;
  shared_->beat.who = std::move(who);
  std::thread([shared = shared_] { shared->run(); }).detach();
}

Watch::~Watch() {
  std::unique_lock lock(shared_->mutex);
  if (shared_->beat.state == 'r') shared_->beat.state = 'd';
  shared_->stop = true;
  shared_->changed.notify_all();
  shared_->changed.wait_for(lock, std::chrono::seconds(2), [this] { return shared_->stopped; });
}

void Watch::enter(const std::string& name) {
  const std::lock_guard lock(shared_->mutex);
  ++shared_->beat.entered;
  shared_->beat.text = name;
}

void Watch::fail(const std::string& message) {
  const std::lock_guard lock(shared_->mutex);
  if (shared_->beat.state != 'r') return;
  shared_->beat.state = 'f';
  shared_->beat.text = message;
  shared_->urgent = true;
  shared_->changed.notify_all();
}

void Watch::post(const std::string& key) {
  shared_->reader->set(key, "1");
}

void Watch::await(const std::string& key, std::int64_t root, const std::string& what) {
  constexpr milliseconds kLongestPause(200);
  struct Look {
    bool posted = false;
    std::optional<Beat> beat;
  };
  const auto give_up = [&](const auto&... why) {
    fail("");
    throw RankError(what, ": ", why...);
  };
  milliseconds pause(1);
  std::int64_t seen = -1;
  auto last_sign = std::chrono::steady_clock::now();
  while (true) {
    const bool patient = pause == kLongestPause;
    const auto look = ask(shared_->timeout, [store = shared_->reader, key, root, patient] {
      Look now;
      now.posted = store->check({key});
      if (!now.posted && patient && store->check({key_of(root)}))
        now.beat = beat_from(store->get_to_str(key_of(root)));
      return now;
    });
    if (!look) give_up(no_answer());
    if (look->posted) return;
    if (look->beat) {
      const Beat& beat = *look->beat;
      const std::string name = to_text("rank ", root, " (", beat.who, ")");
      if (beat.state == 'f')
        give_up(name, " failed: ", beat.text.empty() ? "another rank is gone" : beat.text);
      if (beat.state == 'd') give_up(name, " has ended its run already");
      const auto now = std::chrono::steady_clock::now();
      if (beat.count != seen) last_sign = now;
      seen = beat.count;
      if (now - last_sign > shared_->timeout) give_up(name, " is silent: killed, stopped or cut off");
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, kLongestPause);
  }
}

std::string Watch::no_answer() const {
  return to_text("the store at ", shared_->place,
                 " does not answer: the process that serves it is gone or stopped");
}

std::string Watch::explain(const std::string& name, const std::string& reason) {
  Beat mine;
  {
    const std::lock_guard lock(shared_->mutex);
    mine = shared_->beat;
  }
  fail("");
  const std::string begin =
      to_text(name, " (collective number ", mine.entered, " of rank ", shared_->rank, ") failed: ");
  const milliseconds two_beats = 5 * shared_->interval / 2;
  const auto verdict = ask(two_beats + std::chrono::seconds(5), [shared = shared_, mine, two_beats] {
    const auto before = read_beats(*shared->reader, shared->size);
    std::this_thread::sleep_for(two_beats);
    return judge(shared->rank, mine, before, read_beats(*shared->reader, shared->size));
  });
  return to_text(begin, verdict ? *verdict : no_answer(), " [", reason, "]");
}

}  // namespace bitrain::dist
