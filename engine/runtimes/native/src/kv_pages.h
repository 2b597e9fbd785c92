// The memory of the KV cache, all layers. A page that was never written costs nothing.
#pragma once
#include <memory>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace tgi {

class KvPages {
 public:
  // Throws std::bad_alloc where the system refuses.
  KvPages(KvKind kind, int num_layers, int num_blocks, int block_size, int kv_heads, int head_dim);

  const KvCache& layer(int index) const { return layers_[index]; }
  size_t bytes() const { return bytes_; }
  static size_t block_bytes(KvKind kind, int num_layers, int block_size, int kv_heads, int head_dim);

 private:
  std::vector<KvCache> layers_;
  std::vector<std::unique_ptr<Memory>> memory_;
  size_t bytes_;
};

}  // namespace tgi
