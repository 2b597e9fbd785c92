#include "isa.h"

#include <stdexcept>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace tgi {

// GCC's and Clang's cpu_supports say yes only where the operating system saves the registers too.
static std::vector<const Kernels*> detect() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512vnni")) found.push_back(&avx512vnni_kernels);
  if (avx512) found.push_back(&avx512_kernels);
  if (avx2) found.push_back(&avx2_kernels);
#elif defined(__aarch64__)
#if defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP)  // the dot product, which not every AArch64 has
#endif
    found.push_back(&neon_kernels);
#endif
  found.push_back(&portable_kernels);
  return found;
}

const std::vector<const Kernels*>& supported_kernels() {
  static const std::vector<const Kernels*> kernels = detect();
  return kernels;
}

const Kernels& find_kernels(const std::string& name) {
  std::string names;
  for (const Kernels* kernels : supported_kernels()) {
    if (name.empty() || name == kernels->name) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw std::invalid_argument("this machine cannot run the instruction set '" + name + "'; choose one of: " + names);
}

}  // namespace tgi
