#include <bitrain/dist/file_descriptor.h>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <bitrain/base/error.h>

namespace bitrain::dist {
namespace {

constexpr int kFirstFree = STDERR_FILENO + 1;

FileDescriptor above_standard(FileDescriptor file) {
  if (file.get() >= kFirstFree) return file;
  FileDescriptor moved(fcntl(file.get(), F_DUPFD_CLOEXEC, kFirstFree));
  if (!moved.is_open()) throw IoError("cannot duplicate a file descriptor: ", std::strerror(errno));
  return moved;
}

}  // namespace

void FileDescriptor::reset() {
  if (number_ >= 0) close(number_);
  number_ = -1;
}

Pipe open_pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw IoError("cannot make a pipe: ", std::strerror(errno));
  FileDescriptor read(ends[0]);
  FileDescriptor write(ends[1]);
  return {above_standard(std::move(read)), above_standard(std::move(write))};
}

FileDescriptor open_file(const std::string& path, int flags) {
  FileDescriptor file(open(path.c_str(), flags | O_CLOEXEC, 0666));
  if (!file.is_open()) throw IoError(path, ": cannot be opened: ", std::strerror(errno));
  return above_standard(std::move(file));
}

}  // namespace bitrain::dist
