// The names of kinds, as Python gives them. All throw std::invalid_argument for an unknown one.
#pragma once
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace tgi {

template <typename Kind, size_t count>
Kind find_kind(const char* what, const std::string& name, const char* const (&names)[count]) {
  for (size_t i = 0; i < count; i++)
    if (name == names[i]) return static_cast<Kind>(i);
  throw std::invalid_argument(std::string("unknown ") + what + " '" + name + "'");
}

inline WeightKind find_float_kind(const std::string& name) {
  return find_kind<WeightKind>("kind of floats", name, {"f32", "bf16", "f16"});
}
inline KvKind find_kv_kind(const std::string& name) {
  return find_kind<KvKind>("kind of KV cache", name, {"f32", "bf16", "int8"});
}
inline Norm find_norm(const std::string& name) { return find_kind<Norm>("norm", name, {"rms", "layer"}); }
inline Activation find_activation(const std::string& name) {
  return find_kind<Activation>("activation", name, {"silu", "gelu", "gelu_tanh"});
}

}  // namespace tgi
