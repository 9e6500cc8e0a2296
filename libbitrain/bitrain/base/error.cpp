#include <bitrain/base/error.h>

namespace bitrain {

const char* kind_name(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::kConfig: return "config error";
    case ErrorKind::kData: return "data error";
    case ErrorKind::kFormat: return "format error";
    case ErrorKind::kIo: return "i/o error";
    case ErrorKind::kState: return "state error";
    case ErrorKind::kDiverged: return "diverged";
    case ErrorKind::kUnsupported: return "unsupported";
    case ErrorKind::kRank: return "rank error";
  }
  return "error";
}

}  // namespace bitrain
