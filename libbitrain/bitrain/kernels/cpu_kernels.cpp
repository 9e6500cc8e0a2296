#include <bitrain/kernels/cpu_kernels.h>

#include <cstring>

namespace bitrain::kernels {

#ifdef BITRAIN_HAVE_ISA_avx512
namespace avx512 {
const Kernels& table();
}
#endif
#ifdef BITRAIN_HAVE_ISA_avx2
namespace avx2 {
const Kernels& table();
}
#endif
namespace generic {
const Kernels& table();
}

const Kernels* cpu_kernels_for(const char* isa) {
  // The 4-bit table of a name exists where this build has it and this machine runs it.
  if (four_bit_kernels_for(isa) == nullptr) return nullptr;
#ifdef BITRAIN_HAVE_ISA_avx512
  if (std::strcmp(isa, "avx512") == 0) return &avx512::table();
#endif
#ifdef BITRAIN_HAVE_ISA_avx2
  if (std::strcmp(isa, "avx2") == 0) return &avx2::table();
#endif
  return &generic::table();
}

const Kernels& cpu_kernels() {
  static const Kernels& kernels = *cpu_kernels_for(four_bit_kernels().isa);
  return kernels;
}

}  // namespace bitrain::kernels
