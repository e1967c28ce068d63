// The instruction sets we build for, and which one this machine runs.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define PL_X86 1
#include <immintrin.h>
#else
#define PL_X86 0
#endif

#if PL_X86 && defined(__linux__) && __GNUC__ >= 11
#define PL_AMX 1
#else
#define PL_AMX 0
#endif

namespace pl {

enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2, amx = 3 };

// The best of what the CPU and pl_limit_isa allow. avx512 means F, BW, DQ, VL and VNNI together; amx is these and tiles of
// int8, which only the linears have code for.
Isa isa();

}  // namespace pl

// The twin of fn for this machine; fn was compiled once for each instruction set by foreach_isa.h.
#if PL_X86
#define PL_PICK(fn) \
    (::pl::isa() >= ::pl::Isa::avx512 ? avx512::fn : ::pl::isa() == ::pl::Isa::avx2 ? avx2::fn : portable::fn)
#else
#define PL_PICK(fn) portable::fn
#endif
