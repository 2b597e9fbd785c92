// Packing on several threads gives the same bytes as on one, and a huge or an empty memory is as it says.
#include <cstring>
#include <vector>

#include "linears.h"
#include "memory.h"

namespace tgi::tests {
namespace {

void check_threads_agree(const LinearKind& kind, Random& random) {
  const int outputs = random.between(1, 150), inputs = random.between(1, 200);
  std::vector<float> table(16), values(size_t(outputs) * size_t(inputs));
  for (float& number : table) number = random.normal();
  for (float& number : values) number = random.normal();
  const Matrix matrix{values.data(), WeightKind::f32, outputs, inputs};
  Pool one(1);
  const auto alone = pack(one, kind.kind, {matrix}, nullptr, kind.group, table.data());
  for (int threads : {2, 5}) {
    Pool pool(threads);
    const auto packed = pack(pool, kind.kind, {matrix}, nullptr, kind.group, table.data());
    const size_t bytes = alone->view.panel_bytes * size_t(alone->view.panels);
    check(std::memcmp(packed->view.weights, alone->view.weights, bytes) == 0, "kind %d packed on %d threads differs",
          static_cast<int>(kind.kind), threads);
    if (alone->view.scales)
      check(same_bytes(packed->view.scales, alone->view.scales, size_t(outputs)), "scales packed on %d threads",
            threads);
  }
}

void check_memory(Random& random) {
  std::vector<std::unique_ptr<Memory>> held;
  for (int i = 0; i < 60; i++) {
    auto memory = std::make_unique<Memory>(size_t(random.below(1 << random.between(0, 20))), random.chance(2));
    check(reinterpret_cast<uintptr_t>(memory->data()) % 64 == 0, "memory is not aligned");
    bool zero = true;
    for (size_t j = 0; j < memory->size(); j++) zero = zero && memory->data()[j] == 0;
    check(zero, "memory is not zero at first");
    check(memory->data()[memory->size() + 4095] == memory->data()[memory->size() + 4095], "memory ends too early");
    std::memset(memory->data(), 0x5a, memory->size());
    held.push_back(std::move(memory));
    if (random.chance(3)) held.erase(held.begin() + random.below(static_cast<int>(held.size())));
  }
  for (const auto& memory : held)
    for (size_t j = 0; j < memory->size(); j++)
      if (memory->data()[j] != 0x5a) return void(check(false, "two memories overlap"));
}

}  // namespace

void check_pack(int effort) {
  Random random(6);
  for (const LinearKind& kind : linear_kinds())
    for (int i = 0; i < effort; i++) check_threads_agree(kind, random);
  check_memory(random);
}

}  // namespace tgi::tests
