#include <bitrain/io/mapping_guard.h>

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>

#include <bitrain/base/error.h>

namespace bitrain::io {
namespace {

constexpr int kIoExitCode = 5;  // cli::exit_code of an IoError.

/// One mapping, or a free place for one. The handler may walk the list at any time, so that places are used
/// again and never freed.
struct Place {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::uintptr_t> end{0};  ///< 0: free.
  std::string path;
  Place* next = nullptr;
};

std::atomic<Place*> places{nullptr};
std::mutex places_mutex;  // Of those who write.
struct sigaction before;

void say(const char* text) {
  if (::write(STDERR_FILENO, text, std::strlen(text)) < 0) return;  // There is nobody to tell.
}

void pass_on(int signal, siginfo_t* info, void* context) {
  if ((before.sa_flags & SA_SIGINFO) != 0) return before.sa_sigaction(signal, info, context);
  if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(signal);
  // Delivered when this returns: the process dies as it would have without this handler.
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

/// Calls nothing but what POSIX allows in handlers.
void on_bus_error(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  const Place* place = places.load(std::memory_order_acquire);
  while (place != nullptr && !(place->begin <= address && address < place->end)) place = place->next;
  if (place == nullptr) return pass_on(signal, info, context);
  say("bitrain: ");
  say(kind_name(ErrorKind::kIo));
  say(": cannot read ");
  say(place->path.c_str());
  say(": the file became shorter while it was in use, or its disk fails\n");
  ::_exit(kIoExitCode);
}

void install() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, &before);
}

Place& free_place() {
  for (Place* place = places; place != nullptr; place = place->next)
    if (place->end == 0) return *place;
  auto* place = new Place;
  place->next = places;
  places = place;
  return *place;
}

}  // namespace

void guard_mapping(const void* data, std::size_t size, const std::filesystem::path& path) {
  const std::lock_guard lock(places_mutex);
  if (places == nullptr) install();
  Place& place = free_place();
  place.path = path.string();
  place.begin = reinterpret_cast<std::uintptr_t>(data);
  place.end = place.begin + size;
}

void release_mapping(const void* data) {
  const std::lock_guard lock(places_mutex);
  for (Place* place = places; place != nullptr; place = place->next)
    if (place->end != 0 && place->begin == reinterpret_cast<std::uintptr_t>(data)) place->end = 0;
}

}  // namespace bitrain::io
