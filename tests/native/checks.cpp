#include "checks.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace tgi::tests {
namespace {

constexpr int MOST_FAILURES = 20;

std::atomic<int64_t> made{0};
std::atomic<int64_t> failed{0};
std::string where;

std::string format_text(const char* format, va_list arguments) {
  char text[512];
  vsnprintf(text, sizeof text, format, arguments);
  return text;
}

}  // namespace

bool check(bool holds, const char* format, ...) {
  made++;
  if (holds) return true;
  va_list arguments;
  va_start(arguments, format);
  std::printf("FAILED%s: %s\n", where.c_str(), format_text(format, arguments).c_str());
  va_end(arguments);
  if (++failed < MOST_FAILURES) return false;
  std::printf("and so on: stopped after %d failures\n", MOST_FAILURES);
  std::fflush(stdout);
  std::_Exit(1);
}

int64_t checks_made() { return made; }
int64_t checks_failed() { return failed; }

Where::Where(const char* format, ...) : outer_(where.size()) {
  va_list arguments;
  va_start(arguments, format);
  where += " | " + format_text(format, arguments);
  va_end(arguments);
}

Where::~Where() { where.resize(outer_); }

bool any_nan(const float* x, size_t count) {
  return std::any_of(x, x + count, [](float number) { return number != number; });
}

bool all_nan(const float* x, size_t count) {
  return std::all_of(x, x + count, [](float number) { return number != number; });
}

}  // namespace tgi::tests
