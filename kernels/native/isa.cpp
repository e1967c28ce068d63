#include "isa.h"

#include <atomic>

#include "abi.h"

#if PL_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pl {
namespace {

#if PL_AMX
// Whether the CPU has tiles of int8, and the kernel lets this process keep the 8 KiB of their state.
bool may_use_tiles() {
    constexpr unsigned tile = 1u << 24, int8 = 1u << 25;
    constexpr long request_permission = 0x1023, tile_data = 18;  // arch_prctl's ARCH_REQ_XCOMP_PERM
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tile) == 0 || (d & int8) == 0) return false;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#else
bool may_use_tiles() { return false; }
#endif

Isa detect() {
#if PL_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        return may_use_tiles() ? Isa::amx : Isa::avx512;
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
