// Proves the C++ of the native runtime on this machine: every kernel of every instruction set against plain loops in
// double, the laws of batching bit by bit, and the thread pool under stress.
//
//   native_tests [effort]    effort: how many random cases, 1 (few) or more; 0 lists the instruction sets
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "checks.h"
#include "isa.h"

namespace {

using Clock = std::chrono::steady_clock;

template <typename Proof>
void prove(const char* isa, const char* what, Proof&& proof) {
  const auto start = Clock::now();
  const int64_t before = tgi::tests::checks_made();
  {
    tgi::tests::Where where("%s %s", isa, what);
    proof();
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  std::printf("%s %s: %lld checks, %.2f s\n", isa, what, static_cast<long long>(tgi::tests::checks_made() - before),
              seconds);
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) {
  using namespace tgi::tests;
  const int effort = count > 1 ? std::atoi(arguments[1]) : 4;
  if (effort < 1) {
    for (const tgi::Kernels* kernels : tgi::supported_kernels()) std::printf("%s\n", kernels->name);
    return 0;
  }
  prove("every", "pool", [&] { check_pool(effort); });
  prove("every", "pack", [&] { check_pack(effort); });
  for (const tgi::Kernels* kernels : tgi::supported_kernels()) {
    prove(kernels->name, "rows", [&] { check_rows(*kernels, effort); });
    prove(kernels->name, "linears", [&] { check_linears(*kernels, effort); });
    prove(kernels->name, "attention", [&] { check_attention(*kernels, effort); });
    prove(kernels->name, "runner", [&] { check_runner(*kernels, effort); });
    prove(kernels->name, "sampler", [&] { check_sampler(*kernels, effort); });
  }
  prove("every", "agreement", [&] { check_linears_agree(effort); });
  std::printf("%lld checks, %lld failed\n", static_cast<long long>(checks_made()),
              static_cast<long long>(checks_failed()));
  return checks_failed() == 0 ? 0 : 1;
}
