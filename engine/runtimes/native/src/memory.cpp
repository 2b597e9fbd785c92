#include "memory.h"

#include <sys/mman.h>

#include <mutex>
#include <new>

namespace tgi {
namespace {

constexpr size_t HUGE_PAGE = size_t{1} << 21;
constexpr size_t SHARED_BYTES = size_t{1} << 26;  // of addresses; a page costs memory only when it is first written
constexpr size_t READ_AHEAD = 4096;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

// Addresses from the system. Those in huge pages are given out from the front until they are used up.
class Memory::Mapping {
 public:
  Mapping(size_t bytes, bool huge) : length_(round_up(bytes + READ_AHEAD, HUGE_PAGE) + HUGE_PAGE) {
    base_ = mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    uintptr_t begin = reinterpret_cast<uintptr_t>(base_), aligned = round_up(begin, HUGE_PAGE);
    next_ = static_cast<uint8_t*>(base_) + (aligned - begin);
    left_ = length_ - (aligned - begin) - READ_AHEAD;
#if defined(MADV_HUGEPAGE)
    if (huge) madvise(next_, left_ + READ_AHEAD, MADV_HUGEPAGE);  // refused: then they are small pages
#else
    (void)huge;
#endif
  }
  ~Mapping() { munmap(base_, length_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  size_t left() const { return left_; }
  uint8_t* take(size_t bytes) {
    uint8_t* taken = next_;
    next_ += bytes;
    left_ -= bytes;
    return taken;
  }

  // The mapping from which huge pages are taken at the moment, for as long as some Memory uses it.
  static std::shared_ptr<Mapping> open(size_t bytes) {
    static std::weak_ptr<Mapping> current;
    std::shared_ptr<Mapping> mapping = current.lock();
    if (mapping && mapping->left() >= bytes) return mapping;
    mapping = std::make_shared<Mapping>(bytes < SHARED_BYTES ? SHARED_BYTES : bytes, true);
    current = mapping;
    return mapping;
  }

 private:
  size_t length_;
  void* base_;
  uint8_t* next_;
  size_t left_;
};

Memory::Memory(size_t bytes, bool huge) : size_(bytes) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  size_t taken = round_up(bytes, 64);
  mapping_ = huge ? Mapping::open(taken) : std::make_shared<Mapping>(taken, false);
  data_ = mapping_->take(taken);
}

Memory::~Memory() = default;

}  // namespace tgi
