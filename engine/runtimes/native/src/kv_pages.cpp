#include "kv_pages.h"

namespace tgi {
namespace {

struct PageSizes {
  size_t slots, dim;
  size_t numbers;  // bytes of the keys, or the values, of one block and layer
  size_t scales;   // bytes of the scales of either
};

PageSizes page_sizes(KvKind kind, int block_size, int kv_heads, int head_dim) {
  PageSizes sizes{};
  sizes.slots = (static_cast<size_t>(block_size) + LANES - 1) / LANES * LANES;
  sizes.dim = (static_cast<size_t>(head_dim) + 15) / 16 * 16;
  const size_t places = sizes.slots * static_cast<size_t>(kv_heads);
  sizes.numbers = places * sizes.dim * (kind == KvKind::f32 ? 4 : kind == KvKind::bf16 ? 2 : 1);
  sizes.scales = kind == KvKind::int8 ? places * sizeof(float) : 0;
  return sizes;
}

}  // namespace

size_t KvPages::block_bytes(KvKind kind, int num_layers, int block_size, int kv_heads, int head_dim) {
  const PageSizes sizes = page_sizes(kind, block_size, kv_heads, head_dim);
  return 2 * static_cast<size_t>(num_layers) * (sizes.numbers + sizes.scales);
}

KvPages::KvPages(KvKind kind, int num_layers, int num_blocks, int block_size, int kv_heads, int head_dim)
    : bytes_(block_bytes(kind, num_layers, block_size, kv_heads, head_dim) * static_cast<size_t>(num_blocks)) {
  const PageSizes sizes = page_sizes(kind, block_size, kv_heads, head_dim);
  auto take = [&](size_t bytes) -> uint8_t* {
    if (bytes == 0) return nullptr;
    memory_.push_back(std::make_unique<Memory>(bytes * static_cast<size_t>(num_blocks), false));
    return memory_.back()->data();
  };
  for (int i = 0; i < num_layers; i++) {
    KvCache cache{};
    cache.kind = kind;
    cache.block_size = block_size;
    cache.slots = static_cast<int32_t>(sizes.slots);
    cache.kv_heads = kv_heads;
    cache.head_dim = head_dim;
    cache.dim = static_cast<int32_t>(sizes.dim);
    cache.keys = take(sizes.numbers);
    cache.values = take(sizes.numbers);
    cache.key_scales = reinterpret_cast<float*>(take(sizes.scales));
    cache.value_scales = reinterpret_cast<float*>(take(sizes.scales));
    layers_.push_back(cache);
  }
}

}  // namespace tgi
