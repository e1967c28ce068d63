#include "isa.h"

#include <atomic>

#include "abi.h"

namespace pl {
namespace {

Isa detect() {
#if PL_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        return Isa::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
    return Isa::portable;
}

const Isa best = detect();
std::atomic<Isa> in_use{best};

}  // namespace

Isa isa() { return in_use.load(std::memory_order_relaxed); }

}  // namespace pl

int64_t pl_abi_version() { return PL_ABI; }

int64_t pl_limit_isa(int64_t most) {
    const auto limit = static_cast<pl::Isa>(most);
    pl::in_use = limit < pl::best ? limit : pl::best;
    return static_cast<int64_t>(pl::isa());
}
