// What this machine's memory and dot-product units can do at best, on the pool's threads: what benchmarks hold kernels against.
#include <cstdint>
#include <cstring>

#include "abi.h"
#include "isa.h"
#include "threads.h"

namespace pl {
namespace {

constexpr int64_t kLine = 64;

#define PL_BODY "ceiling_body.h"
#include "foreach_isa.h"

}  // namespace
}  // namespace pl

int64_t pl_ceiling_read(const uint8_t* data, int64_t size) {
    using namespace pl;
    const auto read = PL_PICK(read_lines);
    split(size / kLine, 1, [=](int64_t begin, int64_t end) { read(data + begin * kLine, end - begin); });
    return 0;
}

int64_t pl_ceiling_dot(int64_t count) {
    using namespace pl;
    const auto dot = PL_PICK(dot_chains);
    split(count, 1, [=](int64_t begin, int64_t end) { dot(end - begin); });
    return PL_PICK(kDots);
}
