// Compiled for avx512vnni alone; see CMakeLists.txt for its flags.
#include <immintrin.h>

#include "kernels.h"

#define DOT_VNNI
namespace tgi {
namespace avx512vnni {
#include "simd/avx512.h"
#include "kernels/table.h"
}  // namespace avx512vnni

const Kernels avx512vnni_kernels = {
    "avx512vnni",
    avx512vnni::embed,
    avx512vnni::norm,
    avx512vnni::add,
    avx512vnni::activate,
    avx512vnni::rotate,
    avx512vnni::scale_cap,
    avx512vnni::prepare,
    avx512vnni::multiply,
    avx512vnni::store_kv,
    avx512vnni::attend,
    avx512vnni::attend_partial,
    avx512vnni::combine,
    avx512vnni::attention_scratch,
    avx512vnni::argmax,
    avx512vnni::read,
    avx512vnni::fma_rounds,
    avx512vnni::dot_rounds,
};
}  // namespace tgi
